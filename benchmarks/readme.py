"""Writes every generated section of README.md, docs/ and benchmarks/README.md from the records in benchmarks/results/.

    python benchmarks/readme.py
    python benchmarks/readme.py --check     # exit code 1 if a section is not what the records say; writes nothing

Only what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is replaced, NAME being a key of `SECTIONS`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from decoct.config.data import HELD_OUT
from decoct.evaluation.continual import format_continual
from decoct.evaluation.transfer import format_transfer
from decoct.methods import method_name
from decoct.results.claims import format_ablation
from decoct.results.comparison import format_matrix
from decoct.results.reported import is_same_protocol, is_same_task, load_reported
from decoct.results.statistics import compare_accuracies, mean_and_std
from decoct.results.tables import accuracy_cell, markdown_table, percent

ROOT = Path(__file__).resolve().parents[1]
NO_RECORDS = "No records yet."
Record = dict[str, Any]
Groups = dict[tuple[Any, ...], list[Record]]
# What each column of a table says of a record.
Columns = dict[str, Callable[[Record], str]]

# One table holds records that agree in all of these that they have.
TRAINING = ("dataset", "student", "protocol", "epochs", "rrc_scale", "mixed_precision", "epoch", "eval_split")
TRAINED = ("dataset", "student", "protocol", "labels", "epoch", "mixed_precision")
SAMPLING = ("scheduler", "sampling_steps", "fingerprints")
# The rows of the CIFAR-10 tables, and the label modes, a table each.
ROWS = {
    **{name: method_name(name) for name in ("random", "herding", "k_center", "k_means", "forgetting", "rded")},
    "infoutil_paper": "InfoUtil, preset infoutil_paper",
    "infoutil": "InfoUtil, decoct's default",
}
LABELS = ("online", "views", "tiles", "hard")
# The data of the sweeps over ways of selecting.
SELECTION = ("cifar10", "sample", "imagenette")
# The data of the sweeps over beta, and what stands in them beside guided samples.
SWEEPS = {"sample": "Embedded sample (Fashion-MNIST, 28 px, 4,000 images)", "cifar10": "CIFAR-10"}
CLASS_WEIGHT = ", classifier-free "  # in the names of sets whose prior weighs the class against none
UNGUIDED = {"random": "random real images", "infoutil": "InfoUtil, real images", "guidance off": "prior alone"}


# The table of the front page


def headline_section(results: Path) -> str:
    """Sets that need no teacher, a table a setting: accuracy beside random images and the paper's, bytes, seconds."""
    parts, seconds = [], dict(read(results / "seconds.json"))
    made = {ipc: f"{each['median']:.0f}" for ipc, each in seconds.get("seconds", {}).items()}
    settings = grouped(read(results / "self_contained.json"), *TRAINED, "eval_split")
    for (dataset, student, protocol, labels, epoch, precision, split), records in settings.items():
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
            f"{precision}. Random images have the same labels, teacher and training. Mean ± standard deviation over "
            "seeds (their number), each with its own candidates, draw and student. The teacher's accuracy is that of "
            f"the network that labelled.{early} The seconds are those of `decoct distill` on one core of a processor, "
            "the teacher's training not among them. InfoUtil's own numbers are of another recipe, whose teacher labels "
            "throughout the training."
        )
    return "\n\n".join(parts) or NO_RECORDS


def beside_random(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Records of chosen images, and those of random ones."""
    both: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        both[record["method"] == "random"].append(record)
    return both


def by_seed(records: Iterable[Record]) -> dict[int, float]:
    """Accuracies of records of one student each."""
    return {record["seeds"][0]: record["accuracy_mean"] for record in records}


def beside_random_rows(members: Iterable[Record], *names: str) -> list[list[str]]:
    """InfoUtil's accuracy, that of random images and their difference, by some fields."""
    rows = []
    for values, each in grouped(members, *names).items():
        ours, random = beside_random(each)
        difference = str(compare_accuracies(by_seed(ours), by_seed(random))) if ours and random else "–"
        rows.append([*map(str, values), accuracy(ours), accuracy(random), difference])
    return rows


# What is beside the front page's table: other networks, bytes, training


def architectures_section(results: Path) -> str:
    """What the labels of one network are worth to others, beside random images."""
    parts = []
    records = read(results / "other_architectures.json")
    for (dataset, ipc, steps, split), members in grouped(records, "dataset", "ipc", "steps", "eval_split").items():
        rows = beside_random_rows(members, "student")
        parts.append(table(["student", "InfoUtil %", "random images %", "difference"], rows))
        parts.append(f"{dataset}, IPC {ipc}, {split} split, {steps:,} steps, labels of the same teacher for all.")
    return "\n\n".join(parts) or NO_RECORDS


def bytes_section(results: Path) -> str:
    """Accuracy of more and fewer stored views, of finer and coarser labels, with what they weigh."""
    columns: Columns = {
        "images a class": lambda each: str(each["ipc"]),
        "set": lambda each: each["setting"],
        "kB": lambda each: f"{each['bytes'] / 1000:,.0f}",
        "of which labels": lambda each: f"{each['label_bytes'] / 1000:,.0f}",
        "accuracy %": lambda each: percent(each["accuracy_mean"]),
    }
    ordered = sorted(
        read(results / "label_bytes.json"), key=lambda each: (each["ipc"], each["method"] == "random", each["bytes"])
    )
    return f"{row_each(ordered, columns)}\n\n{choice_conditions(ordered)}" if ordered else NO_RECORDS


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


def selection_section(results: Path) -> str:
    """Ways of choosing images beside random ones, the best first; a table per dataset, IPC and training."""
    records = [each for dataset in SELECTION for each in read(results / f"selection_{dataset}.json")]
    parts = []
    for (dataset, ipc, slots, training), members in grouped(records, "dataset", "ipc", "slots", "training").items():
        ways = best_first(grouped(members, "setting"))
        (random,) = [each for _, each in ways if each[0]["method"] == "random"]
        rows = [
            [way, accuracy(each), "–" if each is random else str(compare_accuracies(by_seed(each), by_seed(random)))]
            for (way,), each in ways
        ]
        parts.append(f"{dataset}, IPC {ipc}, {slots} views, {training}:")
        parts.append(table(["images", "accuracy %", "against random images"], rows))
        parts.append(choice_conditions(members))
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


# CIFAR-10


def results_section(results: Path) -> str:
    """Methods by IPC, a table per label mode, with the papers' numbers where the recipe is theirs."""
    records = [record for record in read(results / "cifar10.json") if record["stage"] == "final"]
    if not records:
        return NO_RECORDS
    one, ipcs = same(records), sorted({record["ipc"] for record in records})
    reported = [row for row in load_reported("infoutil") if is_same_task(row, one["dataset"], one["student"])]
    beside = [row for row in reported if is_same_protocol(row, one["protocol"], "online")]
    apart = [row for row in reported if not row.protocols and row.method in ROWS.values()]
    parts, modes = [], grouped(records, "labels")
    for (labels,), members in sorted(modes.items(), key=lambda item: LABELS.index(*item[0])):
        rows = accuracies(members, "setting", ROWS, "ipc", ipcs)
        if labels == "online":
            rows += [[f"{row.method}, reported", *reported_cells(row, ipcs)] for row in beside]
        parts.append(f"CIFAR-10, accuracy in % by images per class (IPC), labels `{labels}`:")
        parts.append(table(["", *(f"IPC {ipc}" for ipc in ipcs)], rows))
    others = ", ".join(f"{row.method} ({', '.join(reported_cells(row, ipcs))})" for row in apart)
    theirs = span((100 * row.teacher_accuracy for row in beside if row.teacher_accuracy is not None), ".2f")
    note = f"Reported: InfoUtil, {beside[0].where}, with a teacher at {theirs} %."
    recipe = f"The paper's {others}, at IPC {', '.join(map(str, ipcs))}, are of another recipe and stand in no table."
    return "\n\n".join([*parts, f"{conditions(records)} {note} {recipe}"])


def reported_cells(row: Any, ipcs: Iterable[int]) -> list[str]:
    """A reported row's means in percent."""
    return [percent(row.accuracy[ipc][0]) if ipc in row.accuracy else "–" for ipc in ipcs]


def sweep_section(results: Path) -> str:
    """All other records: a table per stage, IPC and label mode, the best setting first."""
    records = [record for record in read(results / "cifar10.json") if record["stage"] != "final"]
    parts = []
    for (stage, ipc, labels), members in sorted(grouped(records, "stage", "ipc", "labels").items()):
        rows = [
            [setting, accuracy(each), percent(mean_of(each, "tile_accuracy")), teachers(each)]
            for (setting,), each in best_first(grouped(members, "setting"))
        ]
        parts += [
            f"Stage `{stage}`, IPC {ipc}, labels `{labels}`:",
            table(["setting", "accuracy %", "teacher on tiles %", "label teacher %"], rows),
            conditions(members),
        ]
    return "\n\n".join(parts) or NO_RECORDS


# InfoUtil's ablation, other networks and other tasks, as the commands print them


def ablation_section(results: Path) -> str:
    """Tables and claims as `decoct ablate` writes them, below this file's own headings."""
    records = read(results / "ablation_imagenette.json")
    text = format_ablation(records).split("\n", 1)[1].strip() if records else NO_RECORDS
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def claims_section(results: Path) -> str:
    """Of the ablation the table of scoring and cropping, and the claims."""
    parts = re.split(r"^(?=#{3,} )", ablation_section(results), flags=re.MULTILINE)
    wanted = [part.strip() for part in parts if re.match(r"#+ (Table 6|Claims)", part)]
    caption = next((part.split("\n", 1)[1].strip() for part in parts if re.match(r"### ", part)), NO_RECORDS)
    return "\n\n".join([caption, *(re.sub(r"^#+ (.*)", r"**\1**", part) for part in wanted)])


def downstream_section(results: Path) -> str:
    """Accuracies by teacher and student, and of continual and transfer learning."""
    parts = []
    if cross := read(results / "cross_architecture.json"):
        parts.append(f"InfoUtil:\n\n{format_matrix(cross)}")
        parts.append(f"Random images:\n\n{format_matrix([{**record, **record['baseline']} for record in cross])}")
    for name, form in (("continual", format_continual), ("transfer", format_transfer)):
        if records := read(results / f"{name}.json"):
            parts.append(f"```\n{form(records)}\n```")
    return "\n\n".join(parts) or NO_RECORDS


# IGDS


def igds_section(results: Path) -> str:
    """Accuracies without packing, guided on samples: a table per dataset and IPC."""
    parts = []
    for dataset, title in SWEEPS.items():
        records = [record for record in read(results / f"beta_sweep_{dataset}.json") if record["tiles"] == 1]
        records = [record for record in records if record.get("guide_on", "sample") == "sample"]
        for (ipc,), members in sorted(grouped(records, "ipc").items()):
            parts += [f"{title}, IPC {ipc}, accuracy in %:", guidance_table(members)]
        parts += [conditions(records)] if records else []
    return "\n\n".join(parts) or NO_RECORDS


def evidence_section(results: Path, name: str) -> str:
    """Guidance on one dataset: what its settings were chosen by, the final table, and the prior's samples."""
    parts = []
    records = read(results / f"{name}.json")
    tables = grouped(records, "eval_split", "ipc", "mixed_precision")
    for split, ipc, precision_of in sorted(tables, key=lambda each: (each[0] != HELD_OUT, *each[1:])):
        members = tables[split, ipc, precision_of]
        images = "validation images, which the settings are chosen by" if split == HELD_OUT else "test images"
        parts += [f"IPC {ipc}, accuracy in % on {images}:", guidance_table(members), conditions(members)]
    columns: Columns = {
        "images": lambda each: each["prior"],
        "classifier-free": lambda each: (
            f"{each.get('classifier_free_guidance_scale', 1):g}" if each["fingerprint"] else "–"
        ),
        "recognised %": lambda each: percent(each["recognised"]),
        "Frechet distance": lambda each: f"{each['frechet_distance']:.2f}",
    }
    measured = {record["dataset"] for record in records}
    if quality := [each for each in read(results / "prior_quality.json") if each["dataset"] in measured]:
        one = same(quality, "judge", "judge_accuracy", "per_class", "steps", "held_out_images")
        labels = one["judge"] in {record.get("teacher") for record in records}
        judge = "the teacher that labels" if labels else "a network with no part in the rest"
        parts += [
            "The prior, named by what it was trained on:",
            row_each(quality, columns),
            f"By {judge} ({percent(one['judge_accuracy'])} % on {one['held_out_images']:,} validation images), on "
            f"{one['per_class']} images a class; {one['steps']} DDIM steps, not guided.",
        ]
    return "\n\n".join(parts) or NO_RECORDS


def beta_section(results: Path) -> str:
    """All records of the sweeps with both estimates, a table per dataset, IPC and tiles."""
    parts = []
    for dataset, title in SWEEPS.items():
        records = read(results / f"beta_sweep_{dataset}.json")
        for (ipc, tiles), members in sorted(grouped(records, "ipc", "tiles").items()):
            packed = f", {tiles} tiles an image" if tiles > 1 else ""
            parts += [f"{title}, IPC {ipc}{packed}:", guidance_table(members, estimates=True), conditions(members)]
    return "\n\n".join(parts) or NO_RECORDS


def guidance_table(records: Sequence[Record], estimates: bool = False) -> str:
    """Settings by label mode, with both estimates and what the teacher recognises if `estimates`."""
    same(records)
    settings = sorted({record["setting"] for record in records}, key=setting_order)
    titles = {setting: guidance_title(setting) for setting in settings}
    modes = sorted({record["labels"] for record in records}, key=("mixed", *LABELS).index, reverse=True)
    header, rows = ["", *modes], accuracies(records, "setting", titles, "labels", modes)
    if estimates:
        header += ["log P(y given x)", "contextual score", "teacher on tiles %"]
        members = grouped(records, "setting")
        for setting, row in zip(settings, rows, strict=True):
            row += [f"{mean_of(members[setting,], name):.2f}" for name in ("prototype", "contextual")]
            row.append(f"{100 * mean_of(members[setting,], 'tile_accuracy'):.0f}")
    return table(header, rows)


def guidance_title(setting: str) -> str:
    """The setting's name in a table."""
    name, comma, weight = setting.partition(CLASS_WEIGHT)
    return UNGUIDED.get(name, name) + comma + weight


def setting_order(setting: str) -> tuple[int, str, float, float]:
    """Random images, the prior alone, then guided samples by what is guided, step, beta, class weight."""
    name, _, weight = setting.partition(CLASS_WEIGHT)
    if not name.startswith("beta"):
        return (list(UNGUIDED).index(name), "", 0.0, float(weight or 1))
    beta, scale, *guide_on = name.split(", ")
    return (len(UNGUIDED), " ".join([*guide_on, scale]), float(beta.removeprefix("beta ")), float(weight or 1))


def estimator_section(results: Path) -> str:
    """Accuracy of estimators and their two estimates, by contextual weight and epochs."""
    records = read(results / "estimator.json")
    if not records:
        return NO_RECORDS
    one = same(records, "dataset", "train_split", "encoder", "batch_size")
    columns: Columns = {
        "setting": lambda each: (
            f"lambda {each['kl_weight']:g}, {each['q_mode']}" if each["q_mode"] else "lambda 0 (MoCo)"
        ),
        "epochs": lambda each: str(each["epochs"]),
        "linear %": lambda each: percent(each["linear_accuracy"]),
        "kNN %": lambda each: percent(each["knn_accuracy"]),
        "prototype information": lambda each: f"{each['prototype']:.3f}",
        "contextual score": lambda each: f"{each['contextual']:.3f}",
    }
    ordered = sorted(records, key=lambda each: (each["epochs"], each["kl_weight"], str(each["q_mode"])))
    where = f"{one['dataset']}, `{one['train_split']}`, encoder {one['encoder']}, batch {one['batch_size']}"
    return f"{row_each(ordered, columns)}\n\n{where}, one seed each."


# Time and memory


def guidance_section(results: Path) -> str:
    """Time and memory of guided over unguided sampling."""
    columns: Columns = {
        "prior and estimator": lambda each: f"{each['prior']} with {each['estimator']}",
        "guides on": lambda each: each["guide_on"],
        "guides": lambda each: "every step" if each.get("every", 1) == 1 else f"one step in {each['every']}",
        "steps x images": lambda each: (
            f"{each['steps']} x {each['batch']}" + (f", {each['micro_batch']} a pass" if each["micro_batch"] else "")
        ),
        "time, guided over unguided": lambda each: (
            f"{each['ratio']:.2f} ({min(each['ratios']):.2f} to {max(each['ratios']):.2f})"
        ),
        "objective, un- and guided": lambda each: (
            f"{each['unguided_objective']:.2f}, {each['objective']:.2f}" if "objective" in each else ""
        ),
        "peak MB, un- and guided": lambda each: (
            f"{each['unguided_memory']['peak_mb']:.0f}, {each['guided_memory']['peak_mb']:.0f}"
        ),
    }
    return row_each(read(results / "guidance.json"), columns)


def schedulers_section(results: Path) -> str:
    """How much of a step's guidance reaches the final sample, by scheduler; other configurations if they differ."""

    def cells(record: Record) -> list[str]:
        found = [record[place].get("shares") for place in ("sample", "prediction")]
        return ["refused" if each is None else span((round(value, 2) for value in each), ".2f") for each in found]

    def name(record: Record) -> str:
        options = ", ".join(f"{option}={value}" for option, value in record["options"].items())
        return record["scheduler"] + (f" ({options})" if options else "")

    records = read(results / "schedulers.json")
    plain = {record["scheduler"]: cells(record) for record in records if not record["options"]}
    refused = [scheduler for scheduler, each in plain.items() if set(each) == {"refused"}]
    rows = [
        [name(record), *cells(record)]
        for record in records
        if record["scheduler"] not in refused
        and not (record["options"] and cells(record) == plain[record["scheduler"]])
    ]
    header = ["scheduler", "sample, x0_pred", "prediction"]
    return f"{table(header, rows)}\n\nRefused either way: {', '.join(refused)}."


def throughput_section(results: Path) -> str:
    """Images a second of student training beside those of a loop written by hand."""
    columns: Columns = {
        "student": lambda each: (
            f"{each['student']}, {each['image_size']} px, batch {each['batch_size']}, {precision(each)}"
        ),
        "images/s": lambda each: f"{each['images_per_second']['decoct']['median']:.0f}",
        "plain loop, images/s": lambda each: f"{each['images_per_second']['plain']['median']:.0f}",
        "ratio, median of pairs (range)": lambda each: "{median:.2f} ({min:.2f} to {max:.2f})".format_map(
            each["ratio"]
        ),
        "pairs": lambda each: str(each["repeats"]),
    }
    return row_each(dict(read(results / "student_throughput.json")).values(), columns)


def many_images_section(results: Path) -> str:
    """What a dataset of ImageNet-1K's shape cost, by part, and the projection."""
    record = dict(read(results / "many_images.json"))
    if not record:
        return NO_RECORDS
    titles = {
        "share": f"InfoUtil, one of {record['share_is_one_of']} ranks: its share of the scores",
        "all_classes": "random images of all classes, from candidates to the finished folder",
    }

    def scores(each: Record, when: str, what: str) -> float:
        return each["stages"]["scores"][when][what]

    columns: Columns = {
        "part": lambda each: each["title"],
        "first 100 candidates scored after, CPU s (wall)": lambda each: (
            f"{scores(each, 'first', 'cpu_seconds'):.0f} ({scores(each, 'first', 'seconds'):.0f})"
        ),
        "all, CPU s (wall)": lambda each: f"{each['cpu_seconds']:.0f} ({each['seconds']:.0f})",
        "memory without mapped files at the first shard, at the last, and at most, MB": lambda each: (
            f"{scores(each, 'first', 'anonymous_mb'):.0f}, {scores(each, 'last', 'anonymous_mb'):.0f}, "
            f"{each['anonymous_mb']:.0f}"
        ),
        "written, MB": lambda each: f"{each['bytes'] / 1e6:,.0f}",
    }
    parts = row_each([{**record[name], "title": title} for name, title in titles.items()], columns)
    projected = record["projection"]
    large = projected["at_224_px"]
    return (
        f"{parts}\n\n{record['images']:,} images of {record['image_size']} px in {record['classes']:,} classes "
        f"({record['dataset_bytes'] / 1e9:.1f} GB of JPEG in parquet), untrained {record['teacher']}, "
        f"IPC {record['ipc']}, "
        f"{record['tiles_per_image']} tiles and {record['mixed_views_per_image']} mixed views an image; one thread of "
        f"{record['cpu']}, which others used too.\n\nMeasured: {projected['forward_passes_per_cpu_second']:,} forward "
        f"passes a CPU second while scoring, so that all {record['candidates']:,} candidates take "
        f"{projected['scoring_cpu_hours_of_all_candidates']:.1f} CPU hours. Projected, not measured: at 224 px the "
        f"same run is {sum(large['forward_passes'].values()):,} forward passes, at an assumed "
        f"{large['assumed_images_per_second']:,.0f} images/s of ResNet-18 in bf16 "
        f"{large['hours_on_one_h100']:.1f} hours on one H100 and {large['hours_on_eight_h100']:.2f} on eight, if "
        "decoding keeps up."
    )


def hub_section(results: Path) -> str:
    """What publishing, verifying and loading a set cost: medians, and the largest peak of the three processes."""
    columns: Columns = {
        "set": lambda each: f"{each['name']}: {each['images']:,} images of {each['image_size']} px",
        "MB": lambda each: f"{each['bytes'] / 1e6:,.1f}",
        "tile labels / images": lambda each: f"{100 * each['tile_labels_share_of_images']:.1f} %",
        "publish, s": lambda each: f"{each['publish']['seconds'][1]:.1f}",
        "verify, s": lambda each: f"{each['verify']['seconds'][1]:.1f}",
        "load, s": lambda each: f"{each['load']['seconds'][1]:.1f}",
        "rows/s": lambda each: f"{each['load']['rows_per_second'][1]:,.0f}",
        "peak MB": lambda each: f"{max(each[step]['peak_mb'][2] for step in ('publish', 'verify', 'load')):.0f}",
        "runs": lambda each: str(each["repeats"]),
    }
    sets = dict(read(results / "hub.json")).items()
    return row_each([{**each, "name": name, **each["steps_min_median_max"]} for name, each in sets], columns)


# Cells and sentences


def read(path: Path) -> Any:
    """The content of a result file; an empty list if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns but the first are aligned right, or the sentence that nothing is recorded."""
    return markdown_table([header, *rows], align_right=True) if rows else NO_RECORDS


def row_each(records: Iterable[Record], columns: Columns) -> str:
    """A table with a row for each record."""
    return table(list(columns), [[cell(record) for cell in columns.values()] for record in records])


def grouped(records: Iterable[Record], *names: str) -> Groups:
    """Records by their values of some fields, in the order of their first records."""
    groups: Groups = {}
    for record in records:
        groups.setdefault(tuple(record.get(name) for name in names), []).append(record)
    return groups


def best_first(groups: Groups) -> list[tuple[tuple[Any, ...], list[Record]]]:
    """Groups by their mean accuracy."""
    return sorted(groups.items(), key=lambda item: -mean_of(item[1], "accuracy_mean"))


def mean_of(records: Sequence[Record], name: str) -> float:
    """Mean of a field."""
    return statistics.fmean(record[name] for record in records)


def same(records: Sequence[Record], *names: str) -> Record:
    """A record for all, which agree in some fields. Default: how students were trained and samples drawn.

    Raises:
        ValueError: If they do not agree.
    """
    for name in names or (*TRAINING, *SAMPLING):
        found = sorted({repr(record.get(name)) for record in records})
        if len(found) > 1:
            raise ValueError(f"{name} must be the same in all records of a table. Got {', '.join(found)}.")
    return records[0]


def accuracies(
    records: Sequence[Record], row: str, titles: Mapping[str, str], column: str, columns: Collection[Any]
) -> list[list[str]]:
    """Accuracies by two fields; `titles` has the values of `row` in order, and those without a record are left out."""
    cells = grouped(records, row, column)
    found = {first for first, _ in cells}
    return [
        [title, *(accuracy(cells.get((first, second), [])) for second in columns)]
        for first, title in titles.items()
        if first in found
    ]


def accuracy(records: Sequence[Record]) -> str:
    """Mean ± standard deviation in % (number of seeds) of records that differ in their seeds alone.

    Raises:
        ValueError: If two records have the same seed.
    """
    if not records:
        return "–"
    by_seed: dict[int, float] = {}
    for record in records:
        for seed, value in zip(record["seeds"], record["accuracies"], strict=True):
            if seed in by_seed:
                place = ", ".join(str(record.get(name)) for name in ("setting", "method", "ipc", "labels"))
                raise ValueError(f"Records must be unique. Got two of {place} with the seed {seed}.")
            by_seed[seed] = value
    return accuracy_cell(*mean_and_std(list(by_seed.values())), len(by_seed), count=True)


def teachers(records: Iterable[Record]) -> str:
    """Accuracies of the teachers that label, in %."""
    return span((100 * record["teacher_accuracy"] for record in records), ".2f")


def conditions(records: Sequence[Record]) -> str:
    """How the students of a table were trained, and on what."""
    one = same(records)
    samples = f"{one['sampling_steps']} {one['scheduler'].upper()} steps. " if "scheduler" in one else ""
    crops = "the protocol's crops" if one["rrc_scale"] is None else f"rrc_scale {one['rrc_scale']:g}"
    if any(record["labels"] == "views" for record in records):
        crops += " (stored views bring their own crops)"
    counts = map(len, grouped(records, "setting", "ipc", "tiles", "labels").values())
    return (
        f"{samples}Student {one['student']}, protocol `{one['protocol']}` with {one['epochs']} epochs and {crops}, "
        f"{one['epoch']} epoch, {precision(one)}. Teacher that labels: {teachers(records)} %. Mean ± standard "
        f"deviation over seeds (their number, {span(counts)} here); a seed draws the images and starts the student."
    )


def precision(record: Record) -> str:
    """`fp32`, or the half precision that a record's networks computed in."""
    return "fp32" if record["mixed_precision"] == "no" else str(record["mixed_precision"])


def span(values: Iterable[float], form: str = "g") -> str:
    """`3`, or `1 to 3`."""
    ordered = sorted(values)
    low, high = format(ordered[0], form), format(ordered[-1], form)
    return low if low == high else f"{low} to {high}"


# The files

SECTIONS = {
    "README.md": {
        "headline": headline_section,
    },
    "docs/results.md": {
        "self_contained": headline_section,
        "architectures": architectures_section,
        "bytes": bytes_section,
        "training": training_section,
        "informative": informative_section,
        "imagenette": imagenette_section,
        "results": results_section,
        "claims": claims_section,
        "many_images": many_images_section,
        "igds": igds_section,
        "sample_igds": partial(evidence_section, name="beta_held_out_sample"),
        "fashion_mnist": partial(evidence_section, name="fashion_mnist"),
        "cifar10_igds": partial(evidence_section, name="cifar10_igds"),
    },
    "docs/hub.md": {
        "hub": hub_section,
    },
    "benchmarks/README.md": {
        "selection": selection_section,
        "sweep": sweep_section,
        "ablation": ablation_section,
        "downstream": downstream_section,
        "throughput": throughput_section,
        "beta": beta_section,
        "estimator": estimator_section,
        "guidance": guidance_section,
    },
    "pipelines/igds/README.md": {"schedulers": schedulers_section},
}


def replace_section(text: str, name: str, content: str, where: Path) -> str:
    """The text with new content between the markers of a section.

    Raises:
        ValueError: If the markers are not there, once each and in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{where} must hold the markers {begin} and {end}, once each. Add them where the table goes.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Writes all sections, or compares them with the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md, docs/ and benchmarks/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a section is out of date")
    options = parser.parse_args(argv)
    outdated = []
    for file, sections in SECTIONS.items():
        path = options.root / file
        text = path.read_text(encoding="utf-8")
        for name, section in sections.items():
            fresh = replace_section(text, name, section(options.root / "benchmarks" / "results"), path)
            outdated += [f"{file}, section {name}"] if fresh != text else []
            text = fresh
        if not options.check:
            path.write_text(text, encoding="utf-8")
    for place in outdated:
        print(f"{place}: {'out of date; run python benchmarks/readme.py' if options.check else 'written'}")
    return int(options.check and bool(outdated))


if __name__ == "__main__":
    sys.exit(main())
