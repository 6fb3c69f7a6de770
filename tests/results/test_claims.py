"""Tables and verdicts of made-up ablations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from decoct.results.claims import claims_of, format_ablation
from decoct.results.factors import RANDOM_IMAGES, RDED, Factors, infoutil

FULL = infoutil("highest")
RANDOM_CROPS = dataclasses.replace(FULL, attribution=None, noise=None)
NO_NOISE = dataclasses.replace(FULL, noise=0.0)
GRAD_CAM = dataclasses.replace(FULL, attribution="grad_cam")
LOSS = Factors("loss", "lowest", "kernel_shap", 2.0)


def records_of(setting: Factors, accuracies: Sequence[float], **changes: Any) -> list[dict[str, Any]]:
    """One record per accuracy, seeds counting from 0."""
    shared = {
        "setting": setting.name,
        **dataclasses.asdict(setting),
        "cropping": setting.cropping,
        "label_teacher": "converged",
        "labels": "online",
        "ipc": 10,
        "student": "convnet3",
        "tile_accuracy": 0.5,
        "candidates_per_class": 300,
        "coalitions": 128,
        "crop_fraction": 0.5,
        "scoring_teacher": "runs/teacher",
        "dataset": "cifar10",
        "method": "infoutil",
        "tiles": 4,
        "protocol": "rded_kd",
        "overrides": {"epochs": 150},
        "epoch": "last",
        "teacher": "runs/teacher",
        "teacher_accuracy": 0.771,
        **changes,
    }
    return [{**shared, "seed": seed, "accuracy_mean": accuracy} for seed, accuracy in enumerate(accuracies)]


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the table under a heading, without the rule."""
    lines = text.split(f"### {title}", 1)[1].split("\n\n")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def test_table_6_has_check_marks_means_and_the_number_of_seeds():
    records = [
        *records_of(RANDOM_IMAGES, [0.55]),
        *records_of(RDED, [0.50, 0.52, 0.54]),
        *records_of(LOSS, [0.5, 0.5]),
        *records_of(RANDOM_CROPS, [0.4, 0.4, 0.4], ipc=1),
        *records_of(FULL, [0.6, 0.62]),
    ]
    assert table(format_ablation(records), "Table 6") == [
        ["grad-norm scoring", "attribution crops", "first", "IPC 1", "IPC 10"],
        ["random images", "", "", "–", "55.0 (1)"],
        ["✗", "✗", "lowest loss", "–", "52.0 ± 2.0 (3)"],
        ["✗", "✓", "lowest loss", "–", "50.0 ± 0.0 (2)"],
        ["✓", "✗", "highest norm", "40.0 ± 0.0 (3)", "–"],
        ["✓", "✓", "highest norm", "–", "61.0 ± 1.4 (2)"],
    ]


def test_tables_7_and_8_have_a_row_per_ipc_and_order():
    lowest = infoutil("lowest")
    records = [
        *records_of(RANDOM_IMAGES, [0.55]),
        *records_of(FULL, [0.6]),
        *records_of(NO_NOISE, [0.5]),
        *records_of(lowest, [0.7]),
        *records_of(lowest, [0.3], ipc=1),
        *records_of(GRAD_CAM, [0.45]),
    ]
    text = format_ablation(records)
    assert table(text, "Table 7") == [
        ["first", "IPC", "standard", "w/o noise", "random images"],
        ["highest norm", "1", "–", "–", "–"],
        ["highest norm", "10", "60.0 (1)", "50.0 (1)", "55.0 (1)"],
        ["lowest norm", "1", "30.0 (1)", "–", "–"],
        ["lowest norm", "10", "70.0 (1)", "–", "55.0 (1)"],
    ]
    assert table(text, "Table 8")[2] == ["highest norm", "10", "45.0 (1)", "60.0 (1)", "55.0 (1)"]
    assert "### Table 6" not in text and "### Table 11" not in text


def test_table_11_has_all_students_and_the_others_one_each():
    records = [
        record
        for student, gain in (("convnet3", 0.0), ("resnet18", 0.1))
        for setting, accuracy in ((RANDOM_IMAGES, 0.5), (RDED, 0.6), (FULL, 0.7))
        for record in records_of(setting, [accuracy + gain], student=student)
    ] + records_of(NO_NOISE, [0.4])
    text = format_ablation(records)
    assert [row[:2] + row[2:] for row in table(text, "Table 11")[1:]] == [
        ["convnet3", "random images", "50.0 (1)"],
        ["convnet3", "RDED", "60.0 (1)"],
        ["convnet3", "InfoUtil, highest norm first", "70.0 (1)"],
        ["resnet18", "random images", "60.0 (1)"],
        ["resnet18", "RDED", "70.0 (1)"],
        ["resnet18", "InfoUtil, highest norm first", "80.0 (1)"],
    ]
    assert text.count("### Table 7") == 1 and text.count("### All settings") == 2


def test_label_modes_teachers_and_protocols_never_share_a_table():
    changes: list[dict[str, Any]] = [
        {},
        {"labels": "hard", "label_teacher": None},
        {"label_teacher": "early", "teacher": "runs/teacher/epoch_2", "teacher_accuracy": 0.42},
        {"protocol": "strong_kd"},
        {"overrides": {"epochs": 300}},
    ]
    records = [
        record
        for index, change in enumerate(changes)
        for setting in (RDED, FULL)
        for record in records_of(setting, [index / 10], **change)
    ]
    text = format_ablation(records)
    assert text.count("### Table 11") == len(changes)
    sections = text.split("\n## ")[1:]
    for index in range(len(changes)):
        shown = [section for section in sections if f" {10 * index:.1f} (1)" in section]
        assert len(shown) == 1
        cells = {cell for row in table(shown[0], "Table 11")[1:] for cell in row[2:]}
        assert cells == {"–", f"{10 * index:.1f} (1)"}
    early = next(section for section in sections if "early teacher" in section)
    assert "runs/teacher/epoch_2, accuracy 42.0 %" in early


def test_the_caption_says_how_the_numbers_were_made():
    caption = format_ablation(records_of(RDED, [0.5, 0.6])).split("\n\n")[2]
    for part in (
        "Dataset cifar10",
        "Protocol rded_kd with epochs=150",
        "online labels of the converged teacher (runs/teacher, accuracy 77.1 %)",
        "last epoch",
        "k = 4",
        "300 candidates",
        "128 coalitions",
        "(0, 1)",
    ):
        assert part in caption


def test_no_records_give_no_tables():
    assert format_ablation([]) == "# Ablation of InfoUtil\n"


# Claims


def test_every_claim_compares_settings_that_differ_in_its_factor():
    claims = claims_of(["highest", "lowest"])
    assert len({(claim.text, claim.where) for claim in claims}) == len(claims) == 16
    for claim in claims:
        better, worse = dataclasses.asdict(claim.better), dataclasses.asdict(claim.worse)
        differ = {name for name in better if better[name] != worse[name]}
        if claim.text.startswith("Noise"):
            assert differ == {"noise"}
        elif claim.text.startswith("Shapley"):
            assert differ == {"attribution"}
        elif claim.text.startswith("Attribution"):
            assert differ == {"attribution", "noise"}
        elif claim.text.startswith("Grad-norm"):
            assert differ in ({"scoring"}, {"scoring", "order"})


def test_differences_are_paired_by_seed():
    # Unpaired, the spread over the seeds (0.1) would hide the difference; the fourth seed has no partner.
    records = [*records_of(FULL, [0.31, 0.42, 0.53, 0.1]), *records_of(NO_NOISE, [0.3, 0.4, 0.51])]
    text = format_ablation(records)
    assert "**Noise beats no noise** (holds in 1, does not hold in 0, undecided in 0 of 1):" in text
    assert "- IPC 10, highest gradient norm first: holds (+1.7 points, 95 % interval +0.2 to +3.1)" in text
    assert "Shapley beats" not in text


def test_each_order_and_ipc_is_judged_by_itself():
    lowest = infoutil("lowest")
    records = [
        *records_of(RDED, [0.5, 0.5]),
        *records_of(FULL, [0.4, 0.4]),
        *records_of(lowest, [0.6, 0.6]),
        *records_of(RDED, [0.5, 0.6], ipc=50),
        *records_of(lowest, [0.6, 0.5], ipc=50),
    ]
    text = format_ablation(records)
    assert "**InfoUtil beats RDED** (holds in 1, does not hold in 1, undecided in 1 of 3):" in text
    assert "- IPC 10, highest gradient norm first: does not hold (-10.0 points, 95 % interval -10.0 to -10.0)" in text
    assert "- IPC 50, lowest gradient norm first: undecided (+0.0 points, 95 % interval -" in text
