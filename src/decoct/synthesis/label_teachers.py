"""Which teacher labels the images of an IPC: the scoring one, an early one beside it, others, or several together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from decoct.models.classifier import Classifier
from decoct.models.ensemble import Ensemble
from decoct.models.label_map import teacher_for
from decoct.models.zoo import load_classifier

__all__ = ["LABEL_TEACHERS", "label_teacher"]

LABEL_TEACHERS = ("converged", "early", "by_ipc")  # the teacher itself, and those beside it
EARLY_IPC = 10  # InfoUtil, App. B.2: early teachers label up to this IPC


def label_teacher(
    asked: Sequence[str], teacher: Classifier, ipc: int, label_map: Mapping[str, str] | None = None
) -> Classifier:
    """The teacher that labels an IPC's images, an `Ensemble` where there are several.

    Args:
        asked: Each of them `converged`, `early`, `by_ipc`, or a folder or Hub id.
        teacher: With the dataset's label names.
        label_map: The teacher's name of a class of the dataset, where it is another one.

    Raises:
        ValueError: If an early teacher is asked for and none lies beside the teacher, or label names or images differ.
    """
    members = [one_label_teacher(each, teacher, ipc, label_map) for each in asked]
    if len({each.fingerprint() for each in members}) < len(members):
        names = [each.name for each in members]
        raise ValueError(f"label_teacher must be different networks. Got {list(asked)}, at IPC {ipc} {names}.")
    return members[0] if len(members) == 1 else Ensemble(members)


def one_label_teacher(
    asked: str, teacher: Classifier, ipc: int, label_map: Mapping[str, str] | None = None
) -> Classifier:
    """One of the teachers that label an IPC's images; arguments and errors as for `label_teacher`."""
    choice = asked
    if choice == "by_ipc":
        choice = "early" if ipc <= EARLY_IPC else "converged"
    if choice == "converged":
        return teacher
    if choice == "early":
        early = sorted(Path(teacher.name).glob("epoch_*"), key=lambda path: int(path.name.removeprefix("epoch_")))
        if not early:
            raise ValueError(
                f"label_teacher must be 'converged' where no early teacher was saved. Got {asked!r}, "
                f"but {teacher.name} has no epoch_N folder: train it with --save_epochs 10."
            )
        choice = str(early[0])
    chosen = load_classifier(choice)
    names = teacher.spec.label_names
    return teacher_for(chosen, names, "to distil", None if chosen.spec.label_names == names else label_map)
