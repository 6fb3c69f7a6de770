"""The ablation grid as data, and a tiny ablation end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from accelerate import Accelerator
from worlds import draw_no_pictures

from decoct.config import AblateConfig, DistillConfig, config_hash
from decoct.data.loading import load_split
from decoct.evaluation.ablate import ablate, cells_of, plan_ablate
from decoct.files import read_json
from decoct.models.zoo import load_classifier
from decoct.results.claims import format_ablation, format_ablation_plan
from decoct.results.factors import KEY, RANDOM_IMAGES, RDED, Factors, combinations_of, infoutil, table_combinations
from decoct.synthesis.real import distill_images
from decoct.synthesis.shared import heatmap_settings, score_settings


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    draw_no_pictures(monkeypatch)


# The grid


def test_what_each_table_needs():
    assert [setting.name for setting in table_combinations("6", "highest")] == [
        "random",
        "rded",
        "loss-kernel_shap-lowest",
        "grad_norm-random_crops-highest",
        "grad_norm-kernel_shap-highest",
    ]
    assert [setting.name for setting in table_combinations("7", "lowest")] == [
        "random",
        "grad_norm-kernel_shap-lowest",
        "grad_norm-kernel_shap-no_noise-lowest",
    ]
    assert table_combinations("8", "lowest")[1] == Factors("grad_norm", "lowest", "grad_cam", 2.0)
    assert table_combinations("11", "highest") == [RANDOM_IMAGES, RDED, infoutil("highest")]


def test_settings_that_tables_share_are_one():
    names = [setting.name for setting in combinations_of(["6", "7", "8", "11"], ["highest", "lowest"], False)]
    assert len(names) == len(set(names)) == 11
    # random, RDED and loss on attribution crops have one order; four settings have two.
    assert sum(name.endswith("highest") for name in names) == 4


def test_the_full_grid_has_every_combination_once_and_no_noise_on_random_crops():
    settings = combinations_of(["7"], ["highest", "lowest"], True)
    assert len(settings) == len(set(settings)) == 1 + 3 * 5
    assert len({setting.name for setting in settings}) == 16
    assert all(setting.noise is None for setting in settings if setting.cropping != "attribution")
    assert {setting.order for setting in settings if setting.scoring == "loss"} == {"lowest"}
    assert set(combinations_of(["6", "7", "8", "11"], ["highest", "lowest"], False)) < set(settings)


def test_orders_share_scores_and_nothing_else_does():
    variants = combinations_of([], ["highest", "lowest"], True)[1:]
    made = {variant: DistillConfig(**variant.distill_options(0.5), tiles_per_image=4) for variant in variants}
    scores = {config_hash(score_settings(config)) for config in made.values()}
    assert len(scores) == len({variant.scores for variant in variants}) == 10
    heatmaps = {config_hash(found) for config in made.values() if (found := heatmap_settings(config)) is not None}
    assert len(heatmaps) == 2  # KernelSHAP's and Grad-CAM's
    highest, lowest = infoutil("highest"), infoutil("lowest")
    assert score_settings(made[highest]) == score_settings(made[lowest]) and highest.name != lowest.name


def test_only_the_factor_differs_in_what_is_distilled():
    config = AblateConfig(crop_fraction=0.75)
    made = {
        setting: DistillConfig(**setting.distill_options(config.crop_fraction))
        for setting in combinations_of([], ["highest", "lowest"], True)
    }
    scores, crops = infoutil("lowest"), Factors("grad_norm", "lowest", None, None)

    def difference(first: Factors, second: Factors) -> set[str]:
        return {name for name, value in vars(made[first]).items() if value != vars(made[second])[name]}

    assert difference(infoutil("highest"), scores) == {"utility_order"}
    assert difference(scores, Factors("loss", "lowest", "kernel_shap", 2.0)) == {"utility"}
    assert difference(crops, RDED) == {"utility"}
    assert difference(scores, Factors("grad_norm", "lowest", "kernel_shap", 0.0)) == {"noise_scale"}
    assert difference(scores, Factors("grad_norm", "lowest", "grad_cam", 2.0)) == {"attribution"}
    assert difference(scores, crops) == {"method", "attribution", "crop_fraction"}
    assert made[RDED].method == "rded" and made[scores].crop_fraction == 0.75
    assert {config.selection for config in made.values()} == {"top"}


def test_cells_go_seed_by_seed_and_hard_labels_come_once():
    config = AblateConfig(
        tables=["11"],
        utility_orders=["lowest"],
        label_teachers=["converged", "early"],
        labels=["hard", "online"],
        students=["convnet3", "convnet4"],
        ipc=[10, 1],
        seeds=2,
        seed=5,
    )
    cells = cells_of(config)
    keys = [tuple(cell.identity[name] for name in KEY) for cell in cells]
    assert [key[-1] for key in keys] == [5] * 36 + [6] * 36
    assert len(keys) == len(set(keys)) == 2 * 3 * (2 + 1) * 2 * 2
    assert len({cell.distil.output_dir for cell in cells}) == 2 * 3 * 2
    assert ("rded", None, "hard", 1, "convnet3", 5) in keys
    assert {key[1] for key in keys if key[2] == "online"} == {"converged", "early"}
    config.labels = ["hard"]
    assert {tuple(cell.distil.label_teacher) for cell in cells_of(config)} == {("converged",)}


def test_windows_as_large_as_the_image_are_refused():
    with pytest.raises(ValueError, match="crop_fraction must be in"):
        AblateConfig(crop_fraction=1.0)


# A run


@pytest.fixture
def config(sample_part, trained_teacher, tmp_path):
    def make(**options: Any) -> AblateConfig:
        settings: dict[str, Any] = {
            "dataset": str(sample_part),
            "teacher": str(trained_teacher),
            "output_dir": str(tmp_path / "ablation"),
            "tables": ["6", "7"],
            "ipc": [1],
            "candidates_per_class": 8,
            "coalitions": 30,
            "utility_orders": ["lowest"],
            "students": ["convnet3_w8"],
            "seeds": 1,
            "epochs": 1,
            "batch_size": 16,
        }
        return AblateConfig(**{**settings, **options})

    return make


def contents(folder: Path, pattern: str) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob(pattern) if path.is_file()}


def test_an_ablation_records_every_cell_and_a_rerun_does_nothing(config, tmp_path, monkeypatch):
    folder = tmp_path / "ablation"
    plan = plan_ablate(config())
    assert not folder.exists()
    assert (plan["sets"], plan["students"], plan["done"]) == (6, 6, 0)
    # RDED and grad-norm on random crops; loss, grad-norm, and grad-norm without noise on windows of one set of maps
    assert (plan["heatmaps"], plan["scorings"]) == (1, 5)
    assert plan["forward_passes"]["attribution"] == 4 * 8 * 31
    assert plan["images_seen"] == 6 * 4
    assert "6 students to train" in format_ablation_plan(plan)

    records = ablate(config())
    assert records == read_json(folder / "ablation.json") and len(records) == 6
    assert {record["setting"] for record in records} == set(plan["settings"])
    for record in records:
        assert 0 <= record["accuracy_mean"] <= 1 and 0 <= record["tile_accuracy"] <= 1
        assert (record["labels"], record["label_teacher"], record["seed"]) == ("online", "converged", 0)
        assert record["overrides"] == {"epochs": 1} and record["tiles"] == 4
        assert 0 <= record["teacher_accuracy"] <= 1
    text = (folder / "ablation.md").read_text()
    assert text == format_ablation(records)
    assert "### Table 6" in text and "### Table 7" in text and "### Table 8" not in text
    assert plan_ablate(config())["students"] == 0

    before = contents(folder, "**/*.json") | contents(folder, "**/*.parquet")
    monkeypatch.setattr("decoct.evaluation.run.train_student", None)
    assert ablate(config()) == records
    assert contents(folder, "**/*.json") | contents(folder, "**/*.parquet") == before

    # Killed before the last records were written: what the students reached is still there.
    (folder / "ablation.json").unlink()
    plan = plan_ablate(config())
    assert (plan["sets"], plan["students"]) == (0, 6) and not any(plan["forward_passes"].values())
    assert ablate(config()) == records

    for stage in (ablate, plan_ablate):
        with pytest.raises(ValueError, match="candidates_per_class: 8 there, 9 now"):
            stage(config(candidates_per_class=9))


def test_more_tables_labels_and_teachers_extend_an_ablation(config, tmp_path):
    folder = tmp_path / "ablation"
    first = ablate(config(tables=["11"], labels=["tiles"]))
    scores = contents(folder, "scores/**/*.parquet")
    assert len(first) == 3 and scores
    both = ablate(config(tables=["11"], labels=["tiles", "hard"], label_teachers=["converged", "early"]))
    assert [record for record in both if record in first] == first
    labels = sorted((record["labels"], str(record["label_teacher"])) for record in both)
    assert labels == sorted(3 * [("tiles", "converged"), ("tiles", "early"), ("hard", "None")])
    assert contents(folder, "scores/**/*.parquet") == scores
    text = format_ablation(both)
    assert text.count("### Table 11") == 3 and "epoch_2" in text


def test_shared_scores_choose_the_tiles_that_distilling_chooses(config, tmp_path):
    wanted = config(tables=["11"], labels=["hard"])
    ablate(wanted)
    teacher = load_classifier(wanted.teacher)
    images = load_split(wanted, "train")
    names = ("dataset", "teacher", "ipc", "tiles_per_image", "candidates_per_class", "coalitions", "batch_size")
    for setting in (RDED, infoutil("lowest"), RANDOM_IMAGES):
        shared = {name: getattr(wanted, name) for name in names}
        options = {**setting.distill_options(wanted.crop_fraction), "output_dir": str(tmp_path / setting.name)}
        distill_images(DistillConfig(**shared, **options), images, teacher, Accelerator())
        expected, found = (
            pq.read_table(next(Path(folder).glob("data/ipc_1/*.parquet")), columns=["image", "label", "tiles"])
            for folder in (tmp_path / setting.name, tmp_path / f"ablation/sets/{setting.name}/converged/seed_0")
        )
        assert found.equals(expected)


def test_problems_are_found_before_anything_is_written(config, tmp_path):
    with pytest.raises(ValueError, match="at least 40 candidates"):
        ablate(config(ipc=[10]))
    with pytest.raises(ValueError, match="minimax_hard.*Got 'online'"):
        ablate(config(protocol="minimax_hard"))
    with pytest.raises(ValueError, match="no_such_network"):
        ablate(config(students=["no_such_network"]))
    with pytest.raises(ValueError, match="coalitions must be even, from 30 on. Got 16"):
        ablate(config(coalitions=16))
    with pytest.raises(ValueError, match="coalitions must be even, from 30 on. Got 16"):
        plan_ablate(config(coalitions=16))
    assert not (tmp_path / "ablation").exists()
