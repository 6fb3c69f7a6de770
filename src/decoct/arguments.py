"""What all scripts share: configuration from the command line and presets, run or plan, errors as one line."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

from decoct.config import require_effect
from decoct.config.options import Group
from decoct.files import read_yaml, shown
from decoct.pages.printed import format_settings
from decoct.run.outputs import check_output
from decoct.run.supervision import end_with_parent, keep_status

__all__ = ["Stage", "parse_config", "read_preset", "run", "run_stage"]

Config = TypeVar("Config")

# What to do about what the operating system refuses.
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Make it writable, or use another folder"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files (`ulimit -n`)"),
}


@dataclass(frozen=True)
class Stage:
    """What a script runs.

    Args:
        run: Does the work, given the configuration.
        plan: What `--dry_run` shows, given the configuration; it writes nothing. Default: there is no dry run.
        printed: Text of a result.
        printed_plan: Text of a plan.
        ok: Whether a result is a success; else the command ends with exit code 1.
    """

    run: Callable[[Any], Any]
    plan: Callable[[Any], Any] | None = None
    printed: Callable[[Any], str] = str
    printed_plan: Callable[[Any], str] = format_settings
    ok: Callable[[Any], bool] = lambda result: True


def run_stage(
    config_class: type[Config],
    stage_of: Callable[[Config], Stage],
    description: str | None,
    positional: str | None = None,
) -> None:
    """A script's `main`: reads the configuration, runs the stage or shows its plan, prints, and publishes if asked.

    Args:
        config_class: As for `parse_config`.
        stage_of: Imports and returns what the script runs; not called for `--help`, which stays fast.
        description: The script's docstring.
        positional: Option that words which belong to no other are the values of, as in `decoct compare runs/*`.
    """

    def main() -> None:
        config: Any = parse_config(config_class, description=description, positional=positional)
        check_output(config)
        stage = stage_of(config)
        from decoct.data.silence import give_up_on_silence  # here, because the client takes long to import

        give_up_on_silence()
        if stage.plan is not None and config.dry_run:
            show(stage.printed_plan, stage.plan(config))
            return
        # Training and distilling can publish what they leave in their folder; `publish` does nothing else.
        publishes = hasattr(config, "output_dir") and getattr(config, "push_to_hub", None) is not None
        if publishes:
            from decoct.hub.publish import publish_run, require_publishing

            require_publishing(config)  # before the work, and not after it
        result = stage.run(config)
        show(stage.printed, result)
        if publishes:
            show(lambda folder: publish_run(config, folder), config.output_dir)
        if not stage.ok(result):
            raise SystemExit(1)

    run(main)


def show(text_of: Callable[[Any], str], result: Any) -> None:
    """Prints the text of a result, on the launcher's first process alone."""
    if int(os.environ.get("RANK", 0)) == 0:
        sys.stdout.write(f"{text_of(result)}\n")
        sys.stdout.flush()


def parse_config(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    positional: str | None = None,
) -> Config:
    """The configuration of one stage: its defaults, overridden by `--preset`, overridden by the command line.

    Args:
        config_class: Flat dataclass, for example `DistillConfig`; its preset section is the name without `Config`.
        argv: Arguments without the command's name. Default: the process's own.
        description: Text that `--help` shows as it is, usually the script's docstring.
        positional: Option that words which belong to no other are the values of, unless it is given by its name.

    Raises:
        SystemExit: with code 2 and one line on stderr for a value, option or preset that is not valid; with code 0
            after `--help`.
    """
    from transformers.hf_argparser import HfArgumentParser  # 0.6 s, so not at import

    class Parser(HfArgumentParser):
        def add_argument(self, *names: str, matters: str = "", group: str = "run", **options: Any) -> argparse.Action:
            """Adds an option; of a field's metadata argparse knows the help alone."""
            action = super().add_argument(*names, **options)
            action.group = group  # type: ignore[attr-defined]
            return action

        def format_help(self) -> str:
            return grouped_help(self, getattr(config_class, "SHOWN_FIRST", None))

    words = f"[{positional.upper()}] " if positional else ""
    parser: Any = Parser(
        config_class,  # type: ignore[arg-type]
        description=description,
        formatter_class=HelpFormatter,
        usage=f"%(prog)s {words}[--preset NAME_OR_PATH] [--option value ...]",
        allow_abbrev=False,
    )
    parser.add_argument("--preset", metavar="NAME_OR_PATH", help="Preset by name, or a YAML file; options override it.")
    parser.add_argument("--help_all", "--help-all", action=AllOptions, nargs=0, help="show all options and exit")
    arguments = list(sys.argv[1:] if argv is None else argv)
    fields = [field.name for field in dataclasses.fields(config_class)]  # type: ignore[arg-type]
    named = {word.split("=", 1)[0] for word in arguments}
    given = {action.dest for action in parser._actions if named & set(action.option_strings)}  # by presets: not meant
    try:
        require_known_options(config_class, arguments)
        known, rest = parser.parse_known_args(arguments)
        if rest and (positional is None or positional in given or any(word.startswith("-") for word in rest)):
            raise unknown_argument(rest)
        if rest:
            arguments += [f"--{positional}", *rest]
            given.add(str(positional))
        asked = {name: getattr(known, name, None) for name in given}
        if known.preset is not None:
            section = config_class.__name__.removesuffix("Config").lower()
            arguments = [*as_arguments(read_preset(known.preset, section, fields)), *arguments]
        config, *_, left = parser.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True, look_for_args_file=False
        )
        if more := left[len(rest) :]:  # the option takes one word
            raise unknown_argument(more)
        require_effect(config, asked)
        return config
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
        raise


def unknown_argument(words: Sequence[str]) -> ValueError:
    """The error for words that no option takes."""
    return ValueError(f"unknown argument {words[0]!r}. Options are written --option value; see --help.")


def require_known_options(config_class: type, arguments: Sequence[str], others: Sequence[str] = ()) -> None:
    """Raises ValueError for the first word that looks like an option and is none, with the nearest that is one.

    Args:
        others: Options beside the configuration's fields and those of all commands.
    """
    options = [*ALWAYS_SHOWN, *others]
    for field in dataclasses.fields(config_class):
        options += [field.name, f"no_{field.name}"] if field.default is True else [field.name]
    for word in arguments:
        name = word[2:].partition("=")[0]
        if word.startswith("--") and name.replace("-", "_") not in options:
            raise ValueError(f"unknown option '--{name}'. The nearest option is '--{nearest(name, options)}'.")


def read_preset(name: str, section: str, fields: Sequence[str]) -> dict[str, Any]:
    """The values that a preset gives to one stage.

    Args:
        name: Name of a preset that decoct ships, or path of a YAML file.
        section: Stage, for example `distill`; the file maps stages to their settings.
        fields: Keys that the stage knows.

    Raises:
        FileNotFoundError: if there is no such preset.
        ValueError: if the file is not such a mapping, or has a key that the stage does not know.
    """
    shipped = {
        Path(entry.name).stem: entry for entry in files("decoct.presets").iterdir() if entry.name.endswith(".yaml")
    }
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else shipped.get(name)
    if path is None or not path.is_file():
        raise FileNotFoundError(f"preset must be one of {sorted(shipped)}, or an existing YAML file. Got {name!r}.")
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get(section), dict):
        found = list(content) if isinstance(content, dict) else content
        raise ValueError(f"{path} must have a section `{section}:` with settings. Got {shown(found)}.")
    for key, value in content[section].items():
        if key not in fields:
            near = nearest(str(key), fields)
            raise ValueError(
                f"{path}: unknown key {shown(str(key))!r} in section `{section}:`. The nearest key is {near!r}."
            )
        if not all(map(is_plain, value if isinstance(value, list) else [value])):
            raise ValueError(f"{path}: {key} must be a plain value or a list of them. Got {shown(value)}.")
    return content[section]


def is_plain(value: Any) -> bool:
    """Whether a preset's value is one value, and no option when it stands among a command's arguments."""
    return not isinstance(value, dict | list) and not str(value).startswith("--")


def nearest(word: str, words: Sequence[str]) -> str:
    """The most similar of the words."""
    return difflib.get_close_matches(word, words, n=1, cutoff=0)[0]


def as_arguments(values: dict[str, Any]) -> list[str]:
    """Preset values as command-line arguments, so that both pass the same checks; null leaves a default as it is."""
    arguments: list[str] = []
    for key, value in values.items():
        if value is not None:
            arguments += [f"--{key}", *map(str, value)] if isinstance(value, list) else [f"--{key}={value}"]
    return arguments


def run(main: Callable[[], None]) -> None:
    """Runs a script's `main`; its expected errors become one line on stderr and exit code 1, Ctrl-C one and code 130.

    `DECOCT_TRACEBACK=1` shows where such an error came from.
    """
    # Python puts the script's folder first on the path, where scripts/evaluate.py hides the library `evaluate`.
    folder = Path(sys.argv[0]).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder]
    end_with_parent()
    try:
        main()
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        known = isinstance(error, (ValueError, OSError)) or is_out_of_memory(error)
        if os.environ.get("DECOCT_TRACEBACK") or not known:
            raise
        sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {message_of(error)}\n")
        raise SystemExit(1) from None
    except SystemExit as error:
        if isinstance(error.code, int) and error.code != 0:
            keep_status(error.code)
        raise
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{Path(sys.argv[0]).name}: interrupted; a long run continues with the same command.\n")
        raise SystemExit(130) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that there is not enough memory, of the machine or of a GPU."""
    if isinstance(error, ValueError):  # says what is wrong already, and may quote such an error
        return False
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory", "Cannot allocate memory")
    )


def message_of(error: Exception) -> str:
    """An expected error as one sentence; one of the operating system names the file and says how to go on."""
    if is_out_of_memory(error):
        return (
            "not enough memory. Lower --batch_size, or use a machine with more; a long run continues with the same "
            "command."
        )
    if not isinstance(error, OSError) or error.filename is None or error.errno not in REMEDIES:
        return str(error)
    remedy = f"{REMEDIES[error.errno]}; a long run continues with the same command."
    return f"{error.filename}: {error.strerror}. {remedy}"


class AllOptions(argparse.Action):
    """`--help_all`: `--help` with every option."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        sys.stdout.write(grouped_help(parser, None))
        parser.exit()


def grouped_help(parser: argparse.ArgumentParser, names: Sequence[str] | None) -> str:
    """The text of `--help`: options by group.

    Args:
        names: Fields that are shown, in their order in a group; those that all commands have are always shown.
            Default: all.
    """
    # A flag that is on has a second option, which turns it off; both are one line of the help.
    shown = {action.dest: action for action in reversed(parser._actions) if action.help != argparse.SUPPRESS}
    actions = {dest: shown[dest] for dest in names or reversed(shown) if dest not in ALWAYS_SHOWN}
    formatter = parser._get_formatter()
    formatter.add_usage(parser.usage, parser._actions, [])
    formatter.add_text(parser.description)
    for group in get_args(Group):
        formatter.start_section(group)
        formatter.add_arguments([action for action in actions.values() if action.group == group])  # type: ignore[attr-defined]
        formatter.end_section()
    formatter.start_section("all commands")
    formatter.add_arguments([shown[dest] for dest in ALWAYS_SHOWN])
    formatter.end_section()
    if names is not None and len(actions) < len(shown) - len(ALWAYS_SHOWN):
        formatter.add_text(f"{len(shown) - len(ALWAYS_SHOWN) - len(actions)} more options: --help_all")
    return formatter.format_help()


ALWAYS_SHOWN = ("preset", "help", "help_all")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines, one spelling of each option, and no default that is `None`."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, []):
            return action.help
        if isinstance(action.default, list):  # as it is written on the command line
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.nargs == 0:
            return ", ".join(word for word in action.option_strings if "-" not in word[2:])
        name = f"--{action.dest}"
        if isinstance(action.const, bool):  # a flag
            return f"{name}, --no_{action.dest}" if action.default is True else name
        one_spelling = argparse.Action([name], action.dest, action.nargs, metavar=action.metavar)
        one_spelling.choices = action.choices
        return super()._format_action_invocation(one_spelling)
