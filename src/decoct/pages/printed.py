"""What the scripts print when they are done."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from decoct.config.data import HELD_OUT
from decoct.pages.describe import counted, describe

__all__ = [
    "distill_report",
    "estimator_report",
    "format_settings",
    "import_report",
    "prior_report",
    "rank_report",
    "samples_report",
    "teacher_report",
]


def format_settings(settings: dict[str, Any]) -> str:
    """Names and values in two columns, as `--dry_run` shows them; values of a mapping follow, indented."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            rows += [(name, ""), *((f"  {key}", _text(each)) for key, each in value.items())]
        else:
            rows.append((name, _text(value)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def teacher_report(record: dict[str, Any], folder: str) -> str:
    """Accuracy and folder of a trained teacher, and of the early ones beside it."""
    where = images_of(record.get("config", {}).get("eval_split"))
    lines = [f"Teacher: {100 * record['accuracy']:.1f} % on {where}. Saved in {folder}"]
    for early in record["config"]["save_epochs"]:
        if early < len(record["epochs"]):
            accuracy = record["epochs"][early - 1]["accuracy"]
            lines.append(f"Early teacher: {100 * accuracy:.1f} % after epoch {early}. Saved in {folder}/epoch_{early}")
    return "\n".join(lines)


def estimator_report(record: dict[str, Any], folder: str) -> str:
    """Accuracies on real images, rank and folder of a trained estimator."""
    linear, knn = (100 * record[key] for key in ("linear_accuracy", "knn_accuracy"))
    where = images_of(record.get("config", {}).get("eval_split"))
    softened = record.get("softplus_accuracy")
    soft = "" if softened is None else f" ({100 * softened:.1f} % with Softplus, as it guides)"
    return (
        f"Estimator: linear classifier {linear:.1f} %{soft}, nearest neighbours {knn:.1f} % on {where}; "
        f"rank {record['rank']} of {record['full_rank']}. Saved in {folder}"
    )


def rank_report(record: dict[str, Any], folder: str) -> str:
    """What one of several ranks has left in the folder, and how the run goes on."""
    missing = "; ".join(f"{count} shards of {name}" for name, count in record["missing"].items())
    state = f"others have not written {missing} yet" if missing else "all shards are there"
    again = "Run the same command again when they have, or finish" if missing else "Finish"
    return (
        f"Rank {record['rank']} of {record['world_size']}: its shards are in {folder}, and {state}. {again} with "
        "--merge in place of --rank and --world_size."
    )


def images_of(eval_split: str | None) -> str:
    """The images of an evaluation split, in words."""
    if eval_split == HELD_OUT:
        return "validation images, held out of the training split"
    return "real test images" if eval_split in (None, "test") else f"real images of the split {eval_split!r}"


def prior_report(record: dict[str, Any], folder: str) -> str:
    """Loss and folder of a trained prior, and where its samples can be seen."""
    lines = [f"Prior: mean squared error {record['loss']:.4f} of the predicted noise. Saved in {folder}"]
    samples = sorted(Path(folder, "samples").glob("*.png"))
    return "\n".join([*lines, *(f"See   {path.resolve()}" for path in samples[-1:])])


def samples_report(record: dict[str, Any], folder: str) -> str:
    """Mean information at each beta, and where the picture is."""
    lines = ["beta      prototype  contextual   (nats, mean of the samples)"]
    for beta, terms in record["betas"].items():
        lines.append(f"{beta:<8}  {terms['prototype']:>9.3f}  {terms['contextual']:>10.3f}")
    return "\n".join([*lines, f"See   {Path(folder, 'samples.png').resolve()}"])


def distill_report(manifest: dict[str, Any], folder: str) -> str:
    """Run folder, sizes, the teacher's accuracy on the tiles, the preview, and how to load the result."""
    run = describe(manifest)
    lines = [f"Distilled by {run.config['method']} into {folder}"]
    for ipc, images in run.images.items():
        accuracy = run.tile_accuracy.get(ipc)
        share = "an unknown share" if accuracy is None else f"{100 * accuracy:.0f} %"
        lines.append(f"  IPC {ipc}: {counted(images, 'image')}; the teacher recognises {share} of their tiles")
    lines.append(f"See   {Path(folder, 'preview.png').resolve()}")
    lines.append(f'Load  load_dataset("{folder}", "ipc_{run.ipcs[-1]}", split="train")')
    return "\n".join(lines)


def import_report(manifest: dict[str, Any], folder: str) -> str:
    """What was read, what reading changed, and the command that measures it."""
    run = describe(manifest)
    (ipc,) = run.ipcs
    labels = "tiles" if run.soft else "hard"
    words = ["decoct", "evaluate", "--distilled", folder, "--dataset", manifest["dataset"], "--labels", labels]
    return "\n".join(
        [
            f"Imported {run.method} into {folder}: {counted(run.images[ipc], 'image')} of {len(run.classes)} classes, "
            f"IPC {ipc}, {manifest['image_size']} px",
            run.sentence,
            f"See   {Path(folder, 'preview.png').resolve()}",
            f"Next  {shlex.join(words)}",
        ]
    )


def _text(value: Any) -> str:
    """A number with thousands separators, anything else as it is."""
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
