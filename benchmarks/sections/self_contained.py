"""Sets that need no teacher, beside random images with the same labels."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

from decoct.results.reported import is_same_task, load_reported
from decoct.results.statistics import compare_accuracies
from decoct.results.tables import percent
from sections.cells import NO_RECORDS, Record, accuracy, by_seed, grouped, precision, read, same, table

# One table of the front page holds records that agree in all of these.
TRAINED = ("dataset", "student", "protocol", "labels", "epoch", "mixed_precision")


def headline_section(results: Path) -> str:
    """Sets that need no teacher, a table a setting: accuracy beside random images and the paper's, bytes, seconds."""
    parts, seconds = [], dict(read(results / "seconds.json"))
    made = {ipc: f"{each['median']:.0f}" for ipc, each in seconds.get("seconds", {}).items()}
    settings = grouped(read(results / "self_contained.json"), *TRAINED, "eval_split")
    for (dataset, student, protocol, labels, epoch, _, split), records in settings.items():
        reported = {
            ipc: percent(mean)
            for row in load_reported("infoutil")
            if row.method == "InfoUtil" and is_same_task(row, dataset, student)
            for ipc, (mean, _) in row.accuracy.items()
        }
        rows, early = [], ""
        for (ipc, teacher), members in sorted(grouped(records, "ipc", "teacher_accuracy").items()):
            ours, random = beside_random(members)
            if epoch_of := members[0].get("label_teacher"):
                early += f" At {ipc} that is the teacher at its {epoch_of.replace('_', ' ')} (`--label_teacher`)."
            if ours and random:
                size, pictures = (
                    statistics.median(record[name] for record in ours) for name in ("bytes", "image_bytes")
                )
                difference = str(compare_accuracies(by_seed(ours), by_seed(random)))
                kilobytes = [f"{each / 1000:,.0f}" for each in (size, pictures)]
                cells = [accuracy(ours), accuracy(random), difference, *kilobytes, made.get(str(ipc), "–")]
                cells += [percent(teacher)]
                rows.append([str(ipc), *cells, reported.get(ipc, "–")])
        head = [
            "images a class",
            "InfoUtil %",
            "random images %",
            "difference",
            "kB",
            "of which images",
            "seconds to make",
        ]
        parts.append(table([*head, "teacher %", "InfoUtil reports %"], rows))
        parts.append(
            f"{dataset}, {split} split; student {student}, protocol `{protocol}`, labels `{labels}`, {epoch} epoch, "
            f"{precision(records[0])}. Random images have the same labels, teacher and training. "
            "Mean ± standard deviation over seeds (their number), each with its own candidates, draw and student. "
            f"The teacher's accuracy is that of the network that labelled.{early} "
            "The seconds are those of `decoct distill` on one core of a processor, the teacher's training not among "
            "them. InfoUtil's own numbers are of another recipe, whose teacher labels throughout the training."
        )
    return "\n\n".join(parts) or NO_RECORDS


def architectures_section(results: Path) -> str:
    """What the labels of one network are worth to others, beside random images."""
    parts = []
    records = read(results / "other_architectures.json")
    for (dataset, ipc, steps, split), members in grouped(records, "dataset", "ipc", "steps", "eval_split").items():
        one = same(members, "teacher_accuracy", "mixed_precision")
        rows = beside_random_rows(members, "student")
        parts.append(table(["student", "InfoUtil %", "random images %", "difference"], rows))
        parts.append(
            f"{dataset}, IPC {ipc}, {split} split, {steps:,} steps, {precision(one)}, labels of a teacher of "
            f"{percent(one['teacher_accuracy'])} %."
        )
    return "\n\n".join(parts) or NO_RECORDS


def imagenette_section(results: Path) -> str:
    """Sets of whole images and of mosaics beside random ones."""
    parts = []
    for (steps, split), members in grouped(read(results / "imagenette.json"), "steps", "eval_split").items():
        one = same(members, "student", "protocol", "labels", "mixed_precision")
        teachers = ", ".join(
            f"{percent(found)} at IPC {ipc}" for ipc, found in grouped(members, "ipc", "teacher_accuracy")
        )
        rows = beside_random_rows(sorted(members, key=lambda each: (each["ipc"], each["tiles"])), "ipc", "tiles")
        parts.append(table(["images a class", "tiles", "InfoUtil %", "random images %", "difference"], rows))
        parts.append(
            f"imagenette at 64 px, {split} split, student {one['student']}, protocol `{one['protocol']}` with "
            f"{steps:,} steps, labels `{one['labels']}`, {precision(one)}. Accuracy of the teacher that "
            f"labels: {teachers}."
        )
    return "\n\n".join(parts) or NO_RECORDS


def beside_random_rows(members: Iterable[Record], *names: str) -> list[list[str]]:
    """InfoUtil's accuracy, that of random images and their difference, by some fields."""
    rows = []
    for values, each in grouped(members, *names).items():
        ours, random = beside_random(each)
        difference = str(compare_accuracies(by_seed(ours), by_seed(random))) if ours and random else "–"
        rows.append([*map(str, values), accuracy(ours), accuracy(random), difference])
    return rows


def beside_random(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Records of chosen images, and those of random ones."""
    both: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        both[record["method"] == "random"].append(record)
    return both
