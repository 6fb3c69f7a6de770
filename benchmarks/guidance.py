"""Claim: guided sampling takes at most 1.2 times as long as unguided sampling with as many steps.

    python benchmarks/guidance.py --prior PRIOR --estimator ESTIMATOR --every 1 2
    python benchmarks/guidance.py --prior ddpm_cifar10

The IGDS paper reports 57 against 44 minutes, 1.30 times. Both variants sample the same classes from the same noise with
the same prior; the unguided one has no estimator at all, the guided one also measures its images at the end. Their
timed runs alternate within one process, each repetition beginning with the other variant. Peak memory is that of a
fresh process per variant: `ru_maxrss` on a CPU, `torch.cuda.max_memory_allocated` on a GPU, with the networks loaded
but nothing sampled beside it.

`--every n` guides every n-th step by n times the step size. A record says which objective was reached (the mean over
samples of all classes of log P(y given x) + beta * KL, as the guidance maximises it) and which one without guidance.

`ddpm_cifar10` is a U-Net of random weights in the configuration of google/ddpm-cifar10-32 (35.7 million parameters)
with a `resnet18` estimator of random weights, since weights do not matter to the time. At the defaults it takes five to
ten minutes on one CPU core for each value of --guide_on; a prior of a million parameters takes one or two in all.

A record per setting, with every repetition, hardware and versions, goes to benchmarks/results/guidance.json; the same
setting measured again replaces its record. Local networks are recorded by the name of their folder alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timing import MB, RESULTS, alternate, device_name, in_fresh_process, peak_mb, public_name, ratios

if TYPE_CHECKING:
    from decoct.pipelines.igds.pipeline import IGDSPipeline

RANDOM_PRIOR = "ddpm_cifar10"
MEMORY_STEPS = 2  # the first guided step reaches the peak
MEASURED = 4  # samples of a class


def parser() -> argparse.ArgumentParser:
    """The settings of the networks, the sampling and the machine."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--prior", required=True, help=f"Folder or Hub id of a prior, or `{RANDOM_PRIOR}`.")
    options.add_argument("--estimator", default="resnet18", help="Folder or Hub id, or an encoder of random weights.")
    options.add_argument("--steps", type=int, default=20, help="Reverse steps of each timed run.")
    options.add_argument("--batch", type=int, default=10, help="Images of one class that are sampled together.")
    options.add_argument(
        "--guide_on", nargs="+", choices=("sample", "x0_pred", "prediction"), default=["sample", "x0_pred"]
    )
    options.add_argument("--every", type=int, nargs="+", default=[1], help="Guide every n-th step, n times as far.")
    options.add_argument("--guidance_scale", type=float, default=0.2, help="Step size where every step is guided.")
    options.add_argument("--beta", type=float, default=1.0, help="Weight of the contextual information.")
    options.add_argument("--micro_batch", type=int, help="Images per pass. Default: all of the batch.")
    options.add_argument("--scheduler", choices=("ddpm", "ddim", "dpm_solver"), default="ddpm")
    options.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="no", help="Of the prior.")
    options.add_argument("--device", help="Default: cuda if there is one, else cpu.")
    options.add_argument("--threads", type=int, help="CPU threads. Default: PyTorch's.")
    options.add_argument("--repetitions", type=int, default=5, help="Timed runs of each variant.")
    options.add_argument("--output", type=Path, default=RESULTS / "guidance.json", help="Result file.")
    options.add_argument("--memory_of", choices=("unguided", "sample", "x0_pred", "prediction"), help=argparse.SUPPRESS)
    return options


class Sampling:
    """A prior without and with an estimator on their device, and runs of them from the same noise."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        from decoct.igds.prior import load_pipeline

        if args.threads:
            torch.set_num_threads(args.threads)
        self.args = args
        self.device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if args.prior == RANDOM_PRIOR:
            self.unguided = random_prior(args.scheduler)
        else:
            self.unguided = load_pipeline(args.prior, None, args.scheduler)
        self.unguided.to(self.device)
        self.guided: IGDSPipeline | None = None

    def add_estimator(self) -> None:
        """Puts the estimator beside the prior; a process of the unguided variant never loads it."""
        prior = self.unguided
        networks = {name: getattr(prior, name) for name in ("unet", "transformer", "vae", "scheduler")}
        estimator = load_or_build(self.args.estimator, prior).to(self.device)
        self.guided = type(prior)(**networks, estimator=estimator)
        self.guided.set_progress_bar_config(disable=True)

    def run(self, variant: str, steps: int, every: int = 1, labels: Sequence[int] | None = None) -> Any:
        """Samples a batch, `unguided` or guided on `sample`, `x0_pred` or `prediction`.

        Args:
            labels: Classes to measure, also without guidance; None: a batch of one class.
        """
        import torch

        from decoct.run.precision import autocast

        plain = variant == "unguided"
        guidance = {} if plain else {"guide_on": variant, "guidance_interval": (0.0, 1.0, every)}
        pipeline = self.unguided if plain and labels is None else self.guided
        with autocast(self.device, self.args.mixed_precision):
            return pipeline(
                class_labels=labels or [0] * self.args.batch,
                beta=self.args.beta,
                guidance_scale=0.0 if plain else every * self.args.guidance_scale,
                num_inference_steps=steps,
                micro_batch=self.args.micro_batch,
                generator=torch.Generator(self.device).manual_seed(0),
                output_type="pt",
                **guidance,
            )

    def objective(self, variant: str, every: int = 1) -> float:
        """What guidance maximises, in nats: the mean over samples of every class."""
        labels = [label for label in range(self.guided.estimator.config.num_labels) for _ in range(MEASURED)]
        terms = self.run(variant, self.args.steps, every, labels)
        return round(float(terms.prototype.mean() + self.args.beta * terms.contextual.mean()), 4)

    def allocated_mb(self, peak: Callable[..., int]) -> float:
        """Memory of the GPU by `peak`, or the process's largest so far, in MB."""
        return round(peak() / MB, 1) if self.device.type == "cuda" else peak_mb()


def random_prior(scheduler: str) -> IGDSPipeline:
    """An unconditional prior of random weights in the configuration of google/ddpm-cifar10-32."""
    import torch
    from diffusers import UNet2DModel

    from decoct.igds.prior import SCHEDULERS
    from decoct.pipelines.igds.pipeline import IGDSPipeline

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        attention_head_dim=None,
    )
    unet.eval().requires_grad_(False)
    pipeline = IGDSPipeline(unet=unet, transformer=None, vae=None, scheduler=SCHEDULERS[scheduler](), estimator=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_or_build(name: str, prior: IGDSPipeline) -> Any:
    """A saved estimator, or one of random weights for ten classes of the prior's images."""
    from decoct.data.spec import ImageSpec
    from decoct.igds.loading import build_estimator, is_trained_here, load_estimator

    if not is_trained_here(name):
        return load_estimator(name)
    network = prior.prior.config if prior.vae is None else prior.vae.config
    channels = network.in_channels
    side, half = network.sample_size, (0.5,) * channels
    spec = ImageSpec(side, channels, half, half, tuple(f"class {number}" for number in range(10)))
    return build_estimator(name, spec, 128).eval().requires_grad_(False)


def memory_of(args: argparse.Namespace, variant: str) -> dict[str, float]:
    """Memory in MB of this process with the networks loaded, and its peak when it samples."""
    import torch

    sampling = Sampling(args)
    if variant != "unguided":
        sampling.add_estimator()
    loaded = sampling.allocated_mb(torch.cuda.memory_allocated)
    sampling.run(variant, MEMORY_STEPS)
    return {"loaded_mb": loaded, "peak_mb": sampling.allocated_mb(torch.cuda.max_memory_allocated)}


def measure(sampling: Sampling, guide_on: str, memory: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The records of one place of guidance, one for each `--every`: alternating runs without and with guidance."""
    import torch

    from decoct.config import config_hash
    from decoct.run.versions import installed_versions

    args = sampling.args
    works = {"unguided": partial(sampling.run, "unguided", args.steps)}
    works.update({f"every {every}": partial(sampling.run, guide_on, args.steps, every) for every in args.every})
    for variant in ("unguided", guide_on):
        sampling.run(variant, MEMORY_STEPS)
    seconds = alternate(works, args.repetitions, sampling.device.type)
    unguided_objective = sampling.objective("unguided")
    records = []
    for every in args.every:
        slower = ratios(seconds[f"every {every}"], seconds["unguided"])
        names = ("steps", "batch", "micro_batch", "beta", "scheduler", "mixed_precision")
        setting = {
            "prior": public_name(args.prior),
            "estimator": public_name(args.estimator),
            "guide_on": guide_on,
            "every": every,
            "guidance_scale": every * args.guidance_scale,
            **{name: getattr(args, name) for name in names},
            "device": device_name(sampling.device.type),
            "threads": torch.get_num_threads(),
        }
        measured = {
            "prior_parameters": sampling.unguided.prior.num_parameters(),
            "estimator_parameters": sampling.guided.estimator.num_parameters(),
            "ratio": round(statistics.median(slower), 4),
            "ratios": [round(ratio, 4) for ratio in slower],
            "unguided_seconds": [round(value, 4) for value in seconds["unguided"]],
            "guided_seconds": [round(value, 4) for value in seconds[f"every {every}"]],
            "unguided_objective": unguided_objective,
            "objective": sampling.objective(guide_on, every),
            "unguided_memory": memory["unguided"],
            "guided_memory": memory[guide_on],
        }
        records.append({**setting, **measured, "versions": installed_versions(), "config_hash": config_hash(setting)})
    return records


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else list(words)
    args = parser().parse_args(words)
    if args.memory_of:
        print(json.dumps(memory_of(args, args.memory_of)))
        return
    variants = ("unguided", *args.guide_on)
    memory = {variant: in_fresh_process(__file__, [*words, "--memory_of", variant]) for variant in variants}

    from decoct.results.records import merge_records

    sampling = Sampling(args)
    sampling.add_estimator()
    for guide_on in args.guide_on:
        for record in measure(sampling, guide_on, memory):
            merge_records(args.output, [record])
            print(
                f"{record['prior']}, {record['estimator']}, guide on {guide_on}, step {record['every']} of "
                f"{args.steps}, {args.batch} images: {record['ratio']:.3f} times ({min(record['ratios']):.3f} to "
                f"{max(record['ratios']):.3f}), objective {record['objective']:.3f} against "
                f"{record['unguided_objective']:.3f}, peak memory {memory[guide_on]['peak_mb']:g} MB against "
                f"{memory['unguided']['peak_mb']:g} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
