"""Whether stored logits are a teacher's: a sample of them is computed again from the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from decoct.data.columns import listed
from decoct.data.mixed_views import mixed_pixels, mixed_views
from decoct.distilled.dataset import DistilledSet, Slots, load_distilled
from decoct.models.classifier import Classifier
from decoct.models.ensemble import Ensemble
from decoct.models.label_map import teacher_for
from decoct.models.throughput import Forward, teacher_forward
from decoct.models.zoo import load_classifier
from decoct.run.seeding import numpy_generator
from decoct.synthesis.relabel import tiles_of, view_logits

__all__ = ["Compared", "compare_with_teachers", "load_teachers"]

BATCH = 64
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
    """The teachers in folders or on the Hub, with the set's classes as when they labelled it.

    Raises:
        ValueError: If one lacks a class of the set, or takes other images.
    """
    wanted, label_names = (manifest["image_size"], manifest["channels"]), manifest["label_names"]
    teachers = []
    for name in names:
        loaded = load_classifier(name)
        same = list(loaded.spec.label_names) == label_names
        label_map = None if same else manifest.get("teacher_label_names")
        try:
            teacher = teacher_for(loaded, label_names, "the set", label_map)
        except ValueError:
            raise ValueError(
                f"teacher must have the set's classes, {listed(label_names)}, by these names or those of the manifest. "
                f"Got {name} with {listed(loaded.spec.label_names)}."
            ) from None
        teachers.append(teacher)
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
    found = {}
    if distilled.tile_logits is not None:
        found["tile_logits"] = compare_tiles(distilled.tile_logits, distilled, forward, most)
    if distilled.view_logits is not None and distilled.view_boxes is not None:
        found["view_logits"] = compare_views(distilled.view_logits, distilled.view_boxes, distilled, forward, most)
    if distilled.slots is not None:
        found["slot_codes"] = compare_slots(distilled.slots, distilled, forward, most)
    return found


def compare_slots(slots: Slots, distilled: DistilledSet, forward: Forward, most: int) -> Compared:
    """Labels of mixed views; of those of which the largest logits are stored, these, that they are the largest, and
    the logit that the other classes share."""
    views_of = partial(
        mixed_views,
        seed=slots.seed,
        count=len(distilled),
        side=distilled.spec.image_size,
        smallest_area=slots.smallest_area,
    )

    def compare(rows: Tensor, numbers: Tensor) -> Compared:
        logits = forward(mixed_pixels(distilled.images, rows, views_of(rows, numbers))).float()
        stored, missed = slots.logits(rows, numbers, distilled.spec.num_classes), torch.zeros(len(rows))
        steps = slots.scales[rows, numbers].float()
        if slots.kept is not None and slots.rest is not None:
            kept, rest = slots.kept[rows, numbers].long(), slots.rest[rows, numbers].float()
            others, logits = logits.scatter(1, kept, -torch.inf), logits.gather(1, kept)
            # A class that is not stored and above one that is counts as that much of an error.
            missed = (others.amax(1) - logits.amin(1)).clamp_min(0)
            shared = others.logsumexp(1) - math.log(distilled.spec.num_classes - kept.shape[1])
            stored = torch.cat([stored.gather(1, kept), rest[:, None]], dim=1)
            logits = torch.cat([logits, shared[:, None]], dim=1)
            steps = torch.maximum(steps, half_steps(rest))
        return largest(stored, logits, steps, missed, rows, numbers, "slot")

    return over_sample(compare, len(distilled), slots.scales.shape[1], most)


def compare_views(stored: Tensor, boxes: Tensor, distilled: DistilledSet, forward: Forward, most: int) -> Compared:
    """Labels of fixed views without CutMix, from logits `(images, views, classes)` and boxes `(images, views, 5)`."""

    def compare(rows: Tensor, numbers: Tensor) -> Compared:
        pixels = distilled.images[rows].float() / 255
        logits = view_logits(forward, pixels, boxes[rows, numbers][:, None], BATCH)[:, 0]
        return compare_halves(stored[rows, numbers].float(), logits, rows, numbers, "view")

    return over_sample(compare, len(distilled), stored.shape[1], most)


def compare_tiles(stored: Tensor, distilled: DistilledSet, forward: Forward, most: int) -> Compared:
    """Labels of tiles, from logits `(images, tiles, classes)`."""

    def compare(rows: Tensor, numbers: Tensor) -> Compared:
        tiles = tiles_of(distilled.images[rows].float() / 255, distilled.tiles_per_image)
        logits = forward(tiles[torch.arange(len(rows)), numbers]).float()
        return compare_halves(stored[rows, numbers], logits, rows, numbers, "tile")

    return over_sample(compare, len(distilled), stored.shape[1], most)


def compare_halves(stored: Tensor, logits: Tensor, rows: Tensor, numbers: Tensor, kind: str) -> Compared:
    """Logits that are stored as float16, whose step is that of the largest one."""
    steps = half_steps(stored.abs().amax(1))
    return largest(stored, logits, steps, torch.zeros(len(rows)), rows, numbers, kind)


def half_steps(values: Tensor) -> Tensor:
    """The distance of each number to the next one of float16."""
    return values.abs().clamp_min(2.0**-14).log2().floor().exp2() * 2.0**-10


def largest(
    stored: Tensor, logits: Tensor, steps: Tensor, missed: Tensor, rows: Tensor, numbers: Tensor, kind: str
) -> Compared:
    """The label whose error passes what is allowed by most, of a few that are all there are."""
    difference = stored - logits.to(stored.device)
    # Adding a number to all logits changes nothing: the middle of the differences is taken off.
    middle = (difference.amax(1) + difference.amin(1)) / 2
    errors = torch.maximum((difference - middle[:, None]).abs().amax(1), missed)
    allowed = 0.5 * steps + TOLERANCE * (logits.amax(1) - logits.amin(1))
    worst = int((errors - allowed).argmax())
    place = f"row {int(rows[worst])}, {kind} {int(numbers[worst])}"
    most = float(errors.max()), float((errors / steps).max())
    return Compared(
        len(rows), len(rows), float(errors[worst]), float(steps[worst]), float(allowed[worst]), place, *most
    )


def over_sample(compare: Callable[[Tensor, Tensor], Compared], images: int, labels: int, most: int) -> Compared:
    """What is found in a sample of an image's `labels`, compared a batch at a time, so that all can be."""
    rows, numbers = sample(images, labels, most)
    parts = [compare(*batch) for batch in zip(rows.split(BATCH), numbers.split(BATCH), strict=True)]
    return max(parts, key=lambda part: part.error - part.allowed)._replace(
        labels=len(rows),
        of=images * labels,
        largest=max(part.largest for part in parts),
        largest_steps=max(part.largest_steps for part in parts),
    )


def sample(images: int, labels: int, most: int) -> tuple[Tensor, Tensor]:
    """Rows and numbers of at most `most` of an image's `labels`, the same every time, in the images' order."""
    total = images * labels
    chosen = numpy_generator(0, "verify-labels").choice(total, min(most, total), replace=False)
    places = torch.from_numpy(chosen).sort().values
    return places // labels, places % labels
