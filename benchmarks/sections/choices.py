"""What the settings of sets that need no teacher were chosen by: bytes, training, images and views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decoct.results.statistics import compare_accuracies, mean_and_std
from decoct.results.tables import accuracy_cell, percent
from sections.cells import (
    NO_RECORDS,
    Record,
    accuracy,
    best_first,
    by_seed,
    grouped,
    mean_of,
    precision,
    read,
    same,
    table,
)

# The data of the sweeps over ways of selecting.
SELECTION = ("cifar10", "sample", "imagenette")
# The default selection, as the grid calls it.
DEFAULT = "k-center of the easiest 3x"


def bytes_section(results: Path) -> str:
    """Accuracy of more and fewer stored views, of finer and coarser labels, with what they weigh; a table per IPC."""
    parts = []
    for (ipc, steps), members in sorted(grouped(read(results / "label_bytes.json"), "ipc", "steps").items()):
        rows = []
        settings = grouped(members, "setting")
        for (setting,), each in sorted(
            settings.items(), key=lambda item: (item[1][0]["method"] == "random", mean_of(item[1], "bytes"))
        ):
            kilobytes = [f"{mean_of(each, name) / 1000:,.0f}" for name in ("bytes", "label_bytes")]
            rows.append([setting, *kilobytes, accuracy(each)])
        teacher = f"Accuracy of the network that labelled: {percent(mean_of(members, 'teacher_accuracy'))} %."
        parts.append(f"IPC {ipc}, {steps:,} steps:")
        parts.append(table(["set", "kB", "of which labels", "accuracy %"], rows))
        parts.append(f"{choice_conditions(members)} {teacher}")
    return "\n\n".join(parts) or NO_RECORDS


def training_section(results: Path) -> str:
    """The recommended protocol, one setting changed at a time, the best first."""
    parts = []
    records = grouped(read(results / "strong_kd.json"), "dataset", "ipc", "labels")
    for (dataset, ipc, labels), members in sorted(records.items()):
        rows = [
            [training + setting.removeprefix("random"), accuracy(each), f"{mean_of(each, 'seconds'):.0f}"]
            for (training, setting), each in best_first(grouped(members, "training", "setting"))
        ]
        parts.append(f"{dataset}, IPC {ipc}, random images, labels `{labels}`:")
        parts.append(table(["training", "accuracy %", "seconds"], rows))
        parts.append(choice_conditions(members))
    return "\n\n".join(parts) or NO_RECORDS


def label_teachers_section(results: Path) -> str:
    """Labels of several teachers, of weaker ones and of a wider one, beside those of one as wide as the student."""
    records = read(results / "label_teachers.json")
    if not records:
        return NO_RECORDS
    sets = grouped(records, "setting")
    one = sets["one teacher",]
    rows = []
    for (setting,), each in best_first(sets):
        gain = "–" if each is one else str(compare_accuracies(by_seed(each), by_seed(one)))
        rows.append([setting, percent(mean_of(each, "teacher_accuracy")), accuracy(each), gain])
    conditions = f"IPC {one[0]['ipc']}, random images, {one[0]['slots']} views, {one[0]['steps']:,} steps"
    header = ["labels of", "their accuracy %", "student's %", "against one teacher"]
    return f"{table(header, rows)}\n\n{conditions}; {choice_conditions(records)}"


def selection_section(results: Path) -> str:
    """Ways of choosing images beside random ones, the best first; a table per dataset, IPC, student and training."""
    files = [*(f"selection_{dataset}.json" for dataset in SELECTION), "demo.json"]
    records = [each for file in files for each in read(results / file)]
    parts = []
    apart = ("dataset", "ipc", "slots", "training", "student")
    for (dataset, ipc, slots, training, _), members in grouped(records, *apart).items():
        ways = best_first(grouped(members, "setting"))
        (random,) = [each for _, each in ways if each[0]["method"] == "random"]
        rows = [
            [way, accuracy(each), "–" if each is random else str(compare_accuracies(by_seed(each), by_seed(random)))]
            for (way,), each in ways
        ]
        views = f", {slots} views" if slots is not None else ""  # else as many as distilling stores
        parts.append(f"{dataset}, IPC {ipc}{views}, {training}:")
        parts.append(table(["images", "accuracy %", "against random images"], rows))
        parts.append(choice_conditions(members))
    return "\n\n".join(parts) or NO_RECORDS


def lengths_section(results: Path) -> str:
    """What the default selection is worth over random images as the training gets longer."""
    records = [each for each in read(results / "selection_cifar10.json") if each["setting"] in ("random", DEFAULT)]
    parts = []
    for (ipc, slots, _), members in grouped(records, "ipc", "slots", "student").items():
        lengths = grouped(members, "steps", "setting")
        both = sorted(steps for steps, setting in lengths if setting == DEFAULT and (steps, "random") in lengths)
        if len(both) < 3:
            continue
        rows = []
        for steps in both:
            chosen, random = lengths[steps, DEFAULT], lengths[steps, "random"]
            gain = compare_accuracies(by_seed(chosen), by_seed(random))
            rows.append([f"{steps:,}", accuracy(chosen), accuracy(random), str(gain)])
        parts.append(table(["steps", "InfoUtil %", "random images %", "difference"], rows))
        parts.append(
            f"IPC {ipc}, {slots} views; {choice_conditions(members)} "
            f"Accuracy of the teacher: {percent(mean_of(members, 'teacher_accuracy'))} %."
        )
    return "\n\n".join(parts) or NO_RECORDS


def informative_section(results: Path) -> str:
    """Mixed views that were chosen beside uniform ones: by heat maps, and by the teacher's error in them."""
    parts = []
    for name in ("informative_views", "error_views"):
        for (slots, steps), records in grouped(read(results / f"{name}.json"), "slots", "steps").items():
            ways = list(dict.fromkeys(record["views"] for record in records))
            rows = [
                [dataset, str(ipc), *views_row(members, ways)]
                for (dataset, ipc), members in grouped(records, "dataset", "ipc").items()
            ]
            parts.append(table(["dataset", "images a class", *ways, "the best against uniform views"], rows))
            parts.append(f"{slots} views, {steps:,} steps, on images held out of the training split.")
    return "\n\n".join(parts) or NO_RECORDS


def views_row(records: Sequence[Record], ways: Sequence[str]) -> list[str]:
    """Accuracies of each way of choosing views, `uniform` the first, and the best difference from it."""
    found = {way: {each["seed"]: each["accuracy"] for each in records if each["views"] == way} for way in ways}
    cells = [
        accuracy_cell(*mean_and_std(list(each.values())), len(each), count=True) if each else "–"
        for each in found.values()
    ]
    gains = [compare_accuracies(found[way], found["uniform"]) for way in ways[1:] if found[way]]
    return [*cells, str(max(gains, key=lambda each: each.mean))]


def choice_conditions(records: Sequence[Record]) -> str:
    """On what images settings were compared, and with how many seeds."""
    one = same(records, "dataset", "eval_split", "student", "protocol", "labels", "mixed_precision")
    seeds = len({seed for record in records for seed in record["seeds"]})
    split = one["eval_split"]
    where = "images held out of the training split" if split == "held_out" else f"{split} split"
    return (
        f"{one['dataset']}, {where}; student {one['student']}, protocol `{one['protocol']}`, labels "
        f"`{one['labels']}`, {precision(one)}; {seeds} seed{'s' if seeds > 1 else ''}."
    )
