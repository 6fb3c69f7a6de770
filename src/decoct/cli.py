"""`decoct COMMAND ...`: the scripts in one or several processes, for people who prefer one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

from decoct import __version__, config
from decoct.arguments import require_known_options
from decoct.run.supervision import local_processes, supervise

__all__ = ["main"]

COMMANDS = {
    "train-teacher": "train the network that attributes, scores and labels",
    "train-estimator": "train the variational estimator that guides IGDS",
    "train-prior": "train the diffusion prior that IGDS samples from",
    "distill": "make a distilled dataset by InfoUtil, IGDS or a baseline "
    "(RDED, random, herding, k-center, k-means, forgetting)",
    "sample": "draw samples of a prior under information guidance, over beta",
    "evaluate": "train students on a distilled dataset and measure them on real images",
    "import": "read a distilled dataset that others published, to evaluate it beside one's own",
    "publish": "upload a finished run to the Hugging Face Hub",
    "verify": "check a distilled dataset, in a folder or on the Hub, before it is trusted",
    "compare": "set the results of several runs side by side, as tables and figures",
    "explore": "look at distilled sets in a browser, and sample the embedded prior over beta",
    "ablate": "run the ablation grid of InfoUtil and fill the tables of the paper",
    "information": "measure the prototype information and contextual score of a dataset",
    "beta-study": "measure what contextual information is worth at each number of images per class",
}

# What their options are.
CONFIGS = {
    "train-teacher": config.TeacherConfig,
    "train-estimator": config.EstimatorConfig,
    "train-prior": config.PriorConfig,
    "distill": config.DistillConfig,
    "sample": config.SampleConfig,
    "evaluate": config.EvaluateConfig,
    "import": config.ImportConfig,
    "publish": config.PublishConfig,
    "verify": config.VerifyConfig,
    "compare": config.CompareConfig,
    "explore": config.ExploreConfig,
    "ablate": config.AblateConfig,
    "information": config.InformationConfig,
    "beta-study": config.BetaStudyConfig,
    "whole": config.WholeConfig,  # `decoct distill DATASET`
}

# Commands that compute nothing on a GPU, or start those that do, so that they run as they are.
UNLAUNCHED = ("explore", "import", "publish", "verify", "compare", "whole")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script that a command stands for, and ends with its status."""
    parser = argparse.ArgumentParser(
        prog="decoct",
        usage="decoct COMMAND [--processes N] [--option value ...]",
        description="Distil an image-classification dataset into a few images per class, and measure what they are "
        "worth.\n\ncommands:\n" + "".join(f"  {name:<16} {text}\n" for name, text in COMMANDS.items()),
        epilog="`decoct COMMAND --help` shows the first options of a command, `--help_all` all of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"decoct {__version__}")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="processes on this machine, one per GPU (default: 1)"
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args((sys.argv[1:] if argv is None else argv) or ["--help"])
    launcher = argparse.ArgumentParser(prog=f"decoct {options.command}", add_help=False, allow_abbrev=False)
    launcher.add_argument("--processes", type=int, default=options.processes)
    launch, script_arguments = launcher.parse_known_args(options.arguments)
    # A dataset that is named before any option is taken the whole way, from a teacher to a report.
    if options.command == "distill" and script_arguments and not script_arguments[0].startswith("-"):
        options.command = "whole"
    try:
        # At once, and not after the launch.
        require_known_options(CONFIGS[options.command], script_arguments, ["processes"])
    except ValueError as error:
        launcher.exit(2, f"{launcher.prog}: error: {error}\n")
    with as_file(files("decoct.scripts") / f"{options.command.replace('-', '_')}.py") as script:
        if asked := {"-h", "--help", "--help_all", "--help-all"} & set(script_arguments):
            command, environments = [sys.executable, str(script), asked.pop()], [dict(os.environ)]
        elif options.command in UNLAUNCHED:
            if launch.processes is not None:
                parser.error(f"--processes is not for `{launcher.prog}`, which runs in one process.")
            command, environments = [sys.executable, str(script), *script_arguments], [dict(os.environ)]
        else:
            try:
                command, environments = launch_command(str(script), script_arguments, launch.processes)
            except ValueError as error:
                parser.error(str(error))
        stopped = f"{Path(script).name}: interrupted; a long run continues with the same command."
        status = supervise(command, environments, stopped)
    raise SystemExit(status)


def launch_command(
    script: str, arguments: Sequence[str], processes: int | None = None
) -> tuple[list[str], list[dict[str, str]]]:
    """The command that runs a script, and the environment of each of its processes.

    A machine's setting that `accelerate config` has stored is carried out by `accelerate launch`, as one process.

    Args:
        script: Path of the script.
        arguments: The script's own arguments.
        processes: Processes on this machine. Default: 1, or what `accelerate config` has stored.

    Raises:
        ValueError: if there are fewer GPUs than processes, but not none.
    """
    environment = dict(os.environ)
    if processes is None and has_accelerate_config():
        environment["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM"  # Ctrl-C is for the supervising process
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
        return [*launcher, script, *arguments], [environment]
    processes = 1 if processes is None else processes
    if processes < 1:
        raise ValueError(f"--processes must be at least 1. Got {processes}.")
    if processes > 1:
        gpus = 0 if environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes") else gpu_count()
        if gpus == 0:
            environment["ACCELERATE_USE_CPU"] = "true"
        elif gpus < processes:
            raise ValueError(
                f"--processes must be at most {gpus}, the number of GPUs here. Got {processes}. "
                "Set ACCELERATE_USE_CPU=true to run on the CPU."
            )
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // processes)))
    return [sys.executable, script, *arguments], local_processes(environment, processes)


def has_accelerate_config() -> bool:
    """Whether `accelerate config` has stored this machine's setting."""
    from accelerate.commands.config.config_args import default_config_file

    return os.path.isfile(default_config_file)


def gpu_count() -> int:
    """CUDA devices of this machine."""
    import torch

    return torch.cuda.device_count()


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
