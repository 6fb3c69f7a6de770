"""The generated sections of the READMEs say what the records say."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .loading import load

Record = dict[str, Any]


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    return load("readme")


# Records, with the fields that the sections read


def student(accuracy: float, seed: int = 0, **fields: Any) -> Record:
    return {
        **{"task": "accuracy", "dataset": "cifar10", "method": "infoutil", "ipc": 10, "student": "convnet3"},
        **{"protocol": "rded_kd", "labels": "online", "teacher_accuracy": 0.8248, "epoch": "last"},
        **{"seeds": [seed], "accuracies": [accuracy], "accuracy_mean": accuracy, "accuracy_std": 0.0},
        **{"mixed_precision": "bf16", "tile_accuracy": 0.9, "seconds": 40.0, **fields},
    }


def three(*accuracies: float, **fields: Any) -> list[Record]:
    return [student(accuracy, seed, **fields) for seed, accuracy in enumerate(accuracies)]


def final(setting: str, *accuracies: float, **fields: Any) -> list[Record]:
    return three(*accuracies, **{"setting": setting, "stage": "final", "epochs": 300, "rrc_scale": 0.08, **fields})


def swept(setting: str, *accuracies: float, **fields: Any) -> list[Record]:
    """Of the sweep over beta."""
    sampling = {"eval_split": "test", "scheduler": "ddim", "sampling_steps": 50, "fingerprints": {}, "tiles": 1}
    estimates = {"prototype": -0.5, "contextual": 0.4, "tile_accuracy": 0.8, "labels": "views", "dataset": "sample"}
    return final(setting, *accuracies, **{**sampling, **estimates, **fields})


def strong(*accuracies: float, **fields: Any) -> list[Record]:
    return three(*accuracies, **{"dataset": "sample", "protocol": "strong_kd", **fields})


def ablated(setting: str, *accuracies: float, **factors: Any) -> list[Record]:
    shared = {
        **{"scoring": None, "order": None, "attribution": None, "noise": None, "cropping": "whole"},
        **{"label_teacher": "converged", "student": "convnet4", "candidates_per_class": 100, "coalitions": 128},
        **{"tiles": 4, "crop_fraction": 0.5, "scoring_teacher": "teacher", "dataset": "imagenette"},
        **{"overrides": {"epochs": 100}, "teacher": "teacher", "setting": setting, **factors},
    }
    return [{**record, "seed": record["seeds"][0]} for record in three(*accuracies, **shared)]


def hub_costs() -> Record:
    steps = {"publish": (4.04, 487.6), "verify": (2.0, 300.0), "load": (3.0, 200.0)}
    measured = {step: {"seconds": [1, seconds, 9], "peak_mb": [1, 1, mb]} for step, (seconds, mb) in steps.items()}
    measured["load"]["rows_per_second"] = [1, 12_345.6, 99_999]
    return {
        **{"images": 500, "image_size": 32, "bytes": 1_520_000, "tile_labels_share_of_images": 0.0098, "repeats": 3},
        "steps_min_median_max": measured,
    }


def carrying(scheduler: str, options: dict[str, Any], *shares: list[float] | None) -> dict[str, Any]:
    measured = [{"refused": "no"} if each is None else {"shares": each} for each in shares]
    return {"scheduler": scheduler, "options": options, **dict(zip(("sample", "prediction"), measured, strict=True))}


FILES: dict[str, Any] = {
    "cifar10": [
        *final("random", 0.50, 0.51, 0.52),
        *final("infoutil", 0.55, 0.56, 0.57),
        *final("infoutil", 0.30, ipc=1),
        *final("infoutil", 0.52, labels="views"),
        *final("random", 0.10, stage="sweep"),
        *final("whole, lowest", 0.40, 0.42, stage="sweep"),
        *final("whole, highest", 0.05, stage="sweep", labels="views"),
    ],
    "beta_sweep_sample": [
        *swept("beta 10, scale 0.2, sample", 0.70, guide_on="sample"),
        *swept("beta 1, scale 0.2, sample", 0.80, 0.82, guide_on="sample"),
        *swept("beta 1, scale 0.2, x0_pred", 0.99, guide_on="x0_pred"),
        *swept("guidance off", 0.60, labels="hard"),
        *swept("random", 0.50),
        *swept("random", 0.40, tiles=4),
    ],
    "ablation_imagenette": [
        *ablated("random", 0.60, 0.61, 0.62),
        *ablated("rded", 0.50, 0.51, 0.52, scoring="loss", order="lowest", cropping="random"),
        *ablated("norm", 0.40, 0.40, 0.40, scoring="grad_norm", order="highest", cropping="random"),
    ],
    "hub": {"cifar10": hub_costs()},
    "schedulers": [
        carrying("DDIMScheduler", {}, [1.0, 1.0], [1, 1]),
        carrying("DDIMScheduler", {"prediction_type": "v_prediction"}, [1.0, 1.0], [1, 1]),
        carrying("SomeScheduler", {}, None, None),
        carrying("UniPCMultistepScheduler", {}, None, [0.999, 1.021]),
        carrying("UniPCMultistepScheduler", {"solver_order": 3}, None, None),
    ],
}


@pytest.fixture
def root(readme, tmp_path) -> Path:
    """The pages with their markers, and records."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    for name in FILES:
        write(tmp_path, name, FILES[name])
    for file, sections in readme.SECTIONS.items():
        marked = [f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->" for name in sections]
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("\n".join(["# Title", *marked, "after"]))
    return tmp_path


def write(root: Path, name: str, records: Any) -> None:
    (root / "benchmarks" / "results" / f"{name}.json").write_text(json.dumps(records))


def section(readme: ModuleType, root: Path, name: str) -> str:
    (found,) = (sections[name] for sections in readme.SECTIONS.values() if name in sections)
    return found(root / "benchmarks" / "results")


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def row(text: str, name: str) -> list[str]:
    (found,) = (cells[1:] for cells in rows(text) if cells[0] == name)
    return found


# CIFAR-10


def test_main_table_has_mean_spread_and_count_beside_the_reported_numbers(readme, root):
    main, views = section(readme, root, "results").split("IPC), labels")[1:]
    assert rows(main)[0] == ["", "IPC 1", "IPC 10"]
    assert row(main, "random images") == ["–", "51.0 ± 1.0 (3)"]
    assert row(main, "InfoUtil, decoct's default") == ["30.0 (1)", "56.0 ± 1.0 (3)"]
    assert row(main, "RDED, reported") == ["23.5", "50.2"]
    assert row(main, "InfoUtil, reported") == ["28.5", "54.1"]
    assert row(views, "InfoUtil, decoct's default") == ["–", "52.0 (1)"]
    assert "herding" not in [cells[0] for cells in rows(main + views)]
    assert "reported" not in views.split("Student")[0]


def test_numbers_stand_at_the_right(readme, root):
    lines = section(readme, root, "results").splitlines()
    assert lines[3].startswith("| ---") and lines[3].count("-: |") == 2
    assert len({len(line) for line in lines[2:8]}) == 1


def test_conditions_come_from_the_records(readme, root):
    text = section(readme, root, "results")
    for words in ("`rded_kd` with 300 epochs", "rrc_scale 0.08", "last epoch", "bf16", "82.48 %", "1 to 3", "82.24 %"):
        assert words in text
    assert "random images (14.4, 26.0), herding (21.5, 31.6), forgetting (13.5, 23.3), at IPC 1, 10," in text
    write(root, "cifar10", [{**each, "rrc_scale": None} for each in FILES["cifar10"]])
    assert "the protocol's crops" in section(readme, root, "results")


def test_sweep_has_one_table_per_label_mode_the_best_first(readme, root):
    text = section(readme, root, "sweep")
    online, views = text.split("labels `views`")
    assert online.index("whole, lowest") < online.index("random")
    assert row(online, "whole, lowest") == ["41.0 ± 1.4 (2)", "90.0", "82.48"]
    assert row(views, "whole, highest") == ["5.0 (1)", "90.0", "82.48"]
    assert "InfoUtil, decoct's default" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rrc_scale": 0.5, "seeds": [9]}, "rrc_scale must be the same"),
        ({"protocol": "other", "seeds": [9]}, "protocol must be the same"),
        ({}, "Records must be unique"),
    ],
)
def test_records_that_do_not_belong_together_are_refused(readme, root, changes, message):
    write(root, "cifar10", [*FILES["cifar10"], *final("random", 0.5, **changes)])
    with pytest.raises(ValueError, match=message):
        readme.main(["--root", str(root)])


# IGDS


def test_settings_stand_in_order_with_mean_spread_and_number_of_seeds(readme, root):
    found = rows(section(readme, root, "igds"))
    assert found[0] == ["", "hard", "views"]
    assert found[2:] == [
        ["random real images", "–", "50.0 (1)"],
        ["prior alone", "60.0 (1)", "–"],
        ["beta 1, scale 0.2, sample", "–", "81.0 ± 1.4 (2)"],
        ["beta 10, scale 0.2, sample", "–", "70.0 (1)"],
    ]
    full = section(readme, root, "beta")
    assert row(full, "beta 1, scale 0.2, x0_pred") == ["–", "99.0 (1)", "-0.50", "0.40", "80"]
    assert "IPC 10, 4 tiles an image" in full


@pytest.mark.parametrize("name", ["igds", "beta"])
def test_sweeps_of_other_conditions_never_share_a_table(readme, root, name):
    other = swept("beta 3, scale 0.2, sample", 0.9, epochs=1000, guide_on="sample")
    write(root, "beta_sweep_sample", [*FILES["beta_sweep_sample"], *other])
    with pytest.raises(ValueError, match="epochs must be the same"):
        section(readme, root, name)


# The other sections


def test_the_ablation_stands_below_the_files_own_headings(readme, root):
    text = section(readme, root, "ablation")
    assert "#### Table 6: scoring and cropping, convnet4" in text
    assert not any(line.startswith("# ") for line in text.splitlines())
    claims = section(readme, root, "claims")
    assert "61.0 ± 1.0 (3)" in claims and "#" not in claims
    assert "**Grad-norm scoring beats loss scoring** (holds in 0, does not hold in 1, undecided in 0" in claims


def test_costs_of_the_hub_are_medians_and_the_largest_peak(readme, root):
    costs = ["1.5", "1.0 %", "4.0", "2.0", "3.0", "12,346", "488", "3"]
    assert row(section(readme, root, "hub"), "cifar10: 500 images of 32 px") == costs


def test_the_front_page_has_sets_beside_random_images_and_bytes(readme, root):
    assert section(readme, root, "headline") == "No records yet."
    fields = {"dataset": "cifar10", "labels": "mixed", "eval_split": "test", "image_bytes": 230_400, "bytes": 444_444}
    ours = strong(0.76, 0.78, **fields)
    random = [{**record, "method": "random", **fields} for record in strong(0.75, 0.75)]
    alone = [{**record, "ipc": 50} for record in ours]
    write(root, "self_contained", [*ours, *random, *alone])
    write(root, "seconds", {"seconds": {"10": {"median": 91.6}}})
    text = section(readme, root, "headline")
    cells = row(text, "10")
    assert cells[:2] == ["77.0 ± 1.4 (2)", "75.0 ± 0.0 (2)"]
    assert cells[2].startswith("+2.0 points, 95 % interval")
    assert cells[3:] == ["444", "230", "92", "82.5", "54.1"]
    assert "cifar10, test split; student convnet3" in text
    assert [cells[0] for cells in rows(text)[1:] if cells[0].isdigit()] == ["10"]  # nothing stands beside the others


def test_ways_of_choosing_stand_by_their_accuracy_beside_random_images(readme, root):
    fields = {
        "labels": "mixed",
        "eval_split": "held_out",
        "mixed_precision": "bf16",
        "slots": 300,
        "training": "9 steps",
    }
    best = strong(0.76, 0.78, **fields, setting="easiest")
    random = [{**each, "method": "random", "setting": "random"} for each in strong(0.75, 0.75, **fields)]
    fewer = [{**each, "slots": 20} for each in random]
    write(root, "selection_sample", [*random, *best, *fewer])
    text = section(readme, root, "selection")
    assert "sample, IPC 10, 300 views, 9 steps:" in text and "sample, IPC 10, 20 views, 9 steps:" in text
    cells = row(text, "easiest")
    assert cells[0] == "77.0 ± 1.4 (2)" and cells[1].startswith("+2.0 points, 95 % interval")
    assert ["random", "75.0 ± 0.0 (2)", "–"] in rows(text)
    assert text.index("| easiest") < text.index("| random")
    assert "images held out of the training split" in text and "2 seeds." in text


def test_views_are_compared_with_uniform_ones_by_seed(readme, root):
    shared = {"dataset": "sample", "ipc": 1, "slots": 300, "steps": 2000}
    found = {"uniform": (0.5, 0.6), "area": (0.4, 0.4), "mass": (0.52, 0.63)}
    records = [
        {**shared, "views": way, "seed": seed, "accuracy": value}
        for way, values in found.items()
        for seed, value in enumerate(values)
    ]
    write(root, "informative_views", records)
    cells = row(section(readme, root, "informative"), "sample")
    assert cells[:4] == ["1", "55.0 ± 7.1 (2)", "40.0 ± 0.0 (2)", "57.5 ± 7.8 (2)"]
    assert cells[4].startswith("+2.5 points, 95 % interval")


def test_imagenette_has_whole_images_and_mosaics_beside_random_ones(readme, root):
    fields = {"dataset": "imagenette", "labels": "mixed", "eval_split": "validation", "mixed_precision": "bf16"}
    fields |= {"steps": 500, "student": "convnet4", "teacher_accuracy": 0.736}
    ours, random = (strong(value, tiles=4, **fields) for value in (0.7, 0.67))
    write(root, "imagenette", [*ours, *({**each, "method": "random"} for each in random)])
    text = section(readme, root, "imagenette")
    assert row(text, "10")[:3] == ["4", "70.0 (1)", "67.0 (1)"]
    assert "validation split, student convnet4" in text and "73.6 at IPC 10" in text


# The command


def test_fashion_mnist_shows_what_its_settings_were_chosen_by_before_the_final_table(readme, root):
    guided = "beta 1, scale 1, sample"
    chosen = swept(guided, 0.7, ipc=10, eval_split="held_out")
    found = [swept(name, value, ipc=10, eval_split=None) for name, value in (("infoutil", 0.6), (guided, 0.71))]
    write(root, "fashion_mnist", [*found[0], *found[1], *chosen])
    shared = {"dataset": chosen[0]["dataset"], "per_class": 30, "steps": 25, "held_out_images": 6000}
    shared = {**shared, "fingerprint": None, "judge": "judge", "judge_accuracy": 0.9}
    real = {"prior": "real images", "recognised": 0.887, "frechet_distance": 0.42, **shared}
    write(root, "prior_quality", [real, {**real, "prior": "of other data", "dataset": "another"}])
    text = section(readme, root, "fashion_mnist")
    assert text.index("IPC 10, accuracy in % on validation images") < text.index("IPC 10, accuracy in % on test images")
    assert row(text, "InfoUtil, real images") == ["60.0 (1)"]
    assert row(text, "real images") == ["–", "88.7", "0.42"]
    assert "of other data" not in text
    assert "By a network with no part in the rest (90.0 % on 6,000 validation images)" in text
    write(root, "fashion_mnist", [{**chosen[0], "teacher": "judge"}])
    assert "By the teacher that labels (90.0 %" in section(readme, root, "fashion_mnist")


def test_only_the_sections_are_written_and_check_tells_when_they_are_out_of_date(readme, root, capsys):
    path = root / "docs" / "results.md"
    before = path.read_text()
    assert readme.main(["--root", str(root), "--check"]) == 1
    assert path.read_text() == before
    assert "docs/results.md, section igds: out of date" in capsys.readouterr().out
    assert readme.main(["--root", str(root)]) == 0
    written = path.read_text()
    assert written.startswith("# Title\n<!-- self_contained:begin -->") and written.endswith(
        "<!-- cifar10_igds:end -->\nafter"
    )
    assert "\nold\n" not in written + (root / "benchmarks" / "README.md").read_text()
    assert readme.main(["--root", str(root), "--check"]) == 0
    write(root, "cifar10", [*FILES["cifar10"], *final("rded", 0.4, 0.5, 0.6)])
    capsys.readouterr()
    assert readme.main(["--root", str(root), "--check"]) == 1
    assert capsys.readouterr().out == "docs/results.md, section results: out of date; run python benchmarks/readme.py\n"


def test_without_records_the_sections_say_so(readme, root):
    for name in FILES:
        (root / "benchmarks" / "results" / f"{name}.json").unlink()
    assert readme.main(["--root", str(root)]) == 0
    for file, sections in readme.SECTIONS.items():
        assert (root / file).read_text().count("No records yet.") == len(sections)


def test_missing_markers_are_an_error_that_names_the_file(readme, root):
    (root / "README.md").write_text("# Title\n")
    with pytest.raises(ValueError, match=r"README.md must hold the markers <!-- headline:begin -->"):
        readme.main(["--root", str(root)])


def test_the_repositorys_sections_are_what_its_records_say(readme):
    assert readme.main(["--check"]) == 0


def test_schedulers_that_carry_no_guidance_stand_below_the_table(readme, root):
    found = section(readme, root, "schedulers")
    assert rows(found)[2:] == [
        ["DDIMScheduler", "1.00", "1.00"],
        ["UniPCMultistepScheduler", "refused", "1.00 to 1.02"],
        ["UniPCMultistepScheduler (solver_order=3)", "refused", "refused"],
    ]
    assert found.endswith("Refused either way: SomeScheduler.")
