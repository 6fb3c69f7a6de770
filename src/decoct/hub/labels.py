"""Whether stored logits are a teacher's: a sample of them is computed again from the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from decoct.data.loading import check_label_names
from decoct.data.mixed_views import mixed_pixels, mixed_views
from decoct.distilled.dataset import DistilledSet, load_distilled
from decoct.models.classifier import Classifier
from decoct.models.ensemble import Ensemble
from decoct.models.throughput import teacher_forward
from decoct.models.zoo import load_classifier
from decoct.run.seeding import numpy_generator
from decoct.synthesis.relabel import tile_logits, view_logits

__all__ = ["Compared", "compare_with_teachers", "load_teachers"]

BATCH = 32
# Of a view's range of logits, beside half a step: other machines and precisions than those that labelled.
TOLERANCE = 0.05


class Compared(NamedTuple):
    """The errors of the compared labels of one kind of an IPC; first, of the label that passes what is allowed by most.

    Args:
        labels: How many were compared.
        of: How many are stored.
        error: In logits, after both have lost what a softmax does not see.
        step: Of the quantisation, in that label.
        allowed: The largest error that is accepted there.
        place: Row and slot, view or tile of that label, in words.
        largest: Error of all, in logits.
        largest_steps: Error of all, in steps of the quantisation of its label.
    """

    labels: int
    of: int
    error: float
    step: float
    allowed: float
    place: str
    largest: float
    largest_steps: float

    @property
    def ok(self) -> bool:
        """Whether the teacher says what is stored."""
        return self.error <= self.allowed


def load_teachers(names: Sequence[str], manifest: dict[str, Any]) -> list[Classifier]:
    """The teachers in folders or on the Hub; raises ValueError if one has other classes or images than the set."""
    teachers = [load_classifier(name) for name in names]
    wanted = manifest["image_size"], manifest["channels"]
    for teacher in teachers:
        check_label_names(tuple(manifest["label_names"]), teacher.spec.label_names, "the set", teacher.name)
        if (found := (teacher.spec.image_size, teacher.spec.channels)) != wanted:
            raise ValueError(
                f"teacher must take images of {wanted[0]} px and {wanted[1]} channels, as the set has. "
                f"Got {found[0]} px and {found[1]} in {teacher.name}."
            )
    return teachers


def compare_with_teachers(
    folder: Path, manifest: dict[str, Any], ipc: int, teachers: Sequence[Classifier], most: int
) -> dict[str, Compared]:
    """A sample of the stored logits of an IPC beside those that its teacher computes now, by the column's name.

    Of several teachers, the one whose weights the manifest names for the IPC is asked; if there is none, all of them
    together, whose logits are averaged.

    Args:
        most: Labels of each kind to compare; the same ones every time.
    """
    record = (manifest.get("label_teachers") or {}).get(str(ipc)) or manifest.get("teacher") or {}
    named = [teacher for teacher in teachers if teacher.fingerprint() == record.get("fingerprint")]
    teacher = named[0] if named else teachers[0] if len(teachers) == 1 else Ensemble(teachers)
    distilled = load_distilled(folder, ipc)
    forward = teacher_forward(teacher.eval(), str(manifest["config"].get("mixed_precision") or "no"))
    found = {"tile_logits": compare_tiles(distilled, forward, most)}
    if distilled.view_logits is not None:
        found["view_logits"] = compare_views(distilled, forward, most)
    if distilled.slots is not None:
        found["slot_codes"] = compare_slots(distilled, forward, most)
    return {name: compared for name, compared in found.items() if compared is not None}


def compare_slots(distilled: DistilledSet, forward: Callable[[Tensor], Tensor], most: int) -> Compared | None:
    """Labels of mixed views; of those of which the largest logits are stored, these, and that they are the largest."""
    slots = distilled.slots
    if slots is None:
        return None
    of = slots.scales.numel()
    rows, numbers = sample(len(distilled), slots.scales.shape[1], most)
    views_of = partial(
        mixed_views,
        seed=slots.seed,
        count=len(distilled),
        side=distilled.spec.image_size,
        smallest_area=slots.smallest_area,
    )
    parts = zip(rows.split(BATCH), numbers.split(BATCH), strict=True)
    logits = torch.cat([forward(mixed_pixels(distilled.images, *_views(part, views_of))) for part in parts])
    stored = slots.logits(rows, numbers, distilled.spec.num_classes)
    if slots.kept is not None:
        kept = slots.kept[rows, numbers].long()
        stored, below = stored.gather(1, kept), logits.scatter(1, kept, -torch.inf).amax(1)
        logits = logits.gather(1, kept)
        # A class that is not stored and above one that is counts as that much of an error.
        missed = (below - logits.amin(1)).clamp_min(0)
    else:
        missed = torch.zeros(len(rows))
    return largest(stored, logits, slots.scales[rows, numbers].float(), missed, rows, numbers, "slot", of)


def compare_views(distilled: DistilledSet, forward: Callable[[Tensor], Tensor], most: int) -> Compared | None:
    """Labels of fixed views without CutMix."""
    if distilled.view_logits is None or distilled.view_boxes is None:
        return None
    views = distilled.view_logits.shape[1]
    rows, numbers = sample(len(distilled), views, most)
    logits = [
        view_logits(forward, distilled.images[part].float() / 255, distilled.view_boxes[part, which][:, None], BATCH)
        for part, which in zip(rows.split(BATCH), numbers.split(BATCH), strict=True)
    ]
    stored = distilled.view_logits[rows, numbers].float()
    return compare_halves(stored, torch.cat(logits)[:, 0], rows, numbers, "view", len(distilled) * views)


def compare_tiles(distilled: DistilledSet, forward: Callable[[Tensor], Tensor], most: int) -> Compared | None:
    """Labels of tiles."""
    if distilled.tile_logits is None:
        return None
    tiles = distilled.tiles_per_image
    rows, numbers = sample(len(distilled), tiles, most)
    parts = (distilled.images[part].float() / 255 for part in rows.split(BATCH))
    logits = torch.cat([tile_logits(forward, part, tiles, BATCH) for part in parts])[torch.arange(len(rows)), numbers]
    return compare_halves(distilled.tile_logits[rows, numbers], logits, rows, numbers, "tile", len(distilled) * tiles)


def compare_halves(stored: Tensor, logits: Tensor, rows: Tensor, numbers: Tensor, kind: str, of: int) -> Compared:
    """Logits that are stored as float16, whose step is that of the largest one."""
    steps = stored.abs().amax(1).clamp_min(2.0**-14).log2().floor().exp2() * 2.0**-10
    return largest(stored, logits, steps, torch.zeros(len(rows)), rows, numbers, kind, of)


def largest(
    stored: Tensor, logits: Tensor, steps: Tensor, missed: Tensor, rows: Tensor, numbers: Tensor, kind: str, of: int
) -> Compared:
    """The label whose error passes what is allowed by most."""
    difference = stored - logits.to(stored.device)
    # Adding a number to all logits changes nothing: the middle of the differences is taken off.
    middle = (difference.amax(1) + difference.amin(1)) / 2
    errors = torch.maximum((difference - middle[:, None]).abs().amax(1), missed)
    allowed = 0.5 * steps + TOLERANCE * (logits.amax(1) - logits.amin(1))
    worst = int((errors - allowed).argmax())
    place = f"row {int(rows[worst])}, {kind} {int(numbers[worst])}"
    most = float(errors.max()), float((errors / steps).max())
    return Compared(len(rows), of, float(errors[worst]), float(steps[worst]), float(allowed[worst]), place, *most)


def sample(images: int, labels: int, most: int) -> tuple[Tensor, Tensor]:
    """Rows and numbers of at most `most` of an image's `labels`, the same every time, in the images' order."""
    total = images * labels
    chosen = numpy_generator(0, "verify-labels").choice(total, min(most, total), replace=False)
    places = torch.from_numpy(chosen).sort().values
    return places // labels, places % labels


def _views(part: tuple[Tensor, Tensor], views_of: Callable[..., Any]) -> tuple[Tensor, Any]:
    return part[0], views_of(*part)
