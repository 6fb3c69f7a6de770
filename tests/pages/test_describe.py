"""The facts of a run: its method in words, the command that repeats it, networks, settings and tables."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from decoct.arguments import parse_config
from decoct.config import DistillConfig, to_dict, without_effect
from decoct.pages.describe import Network, command_of, counted, describe, method_sentence, run_settings

from .cards import MANIFEST, record


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "rded", "tiles_per_image": 4, "ipc": [1, 10, 50]},
        {"method": "infoutil", "candidates_per_class": 0, "crop_fraction": 0.7, "dataset": "a b/it's $HOME"},
        {"method": "igds", "softplus": False, "prior_classes": [3, 1, 2], "beta": 0.0},
        {"method": "k_means", "skip_unreadable": True, "pool_factor": 2.0, "label_teacher": "by_ipc"},
    ],
)
def test_command_repeats_the_run(options):
    config = DistillConfig(**options)
    words = shlex.split(" ".join(command_of(to_dict(config))))
    assert words[:2] == ["decoct", "distill"]
    assert parse_config(DistillConfig, words[2:]) == config


@pytest.mark.parametrize("method", ["infoutil", "rded", "igds", "random", "k_center"])
def test_a_manifest_with_settings_without_effect_is_described_as_one_without(method):
    config = DistillConfig(method=method, slots=0)
    every, unused = to_dict(config), without_effect(config)
    decisive = {name: value for name, value in every.items() if name not in unused}
    assert {"beta", "utility"} & set(unused) and "label_bits" in unused and len(decisive) < len(every)
    assert run_settings(every) == run_settings(decisive)
    assert command_of(every) == command_of(decisive)


def test_no_command_for_data_in_memory():
    assert command_of(to_dict(DistillConfig(dataset="in memory"))) is None


def test_method_in_words():
    def words(**options: Any) -> str:
        return method_sentence(to_dict(DistillConfig(**options)))

    assert "Shapley" in words(tiles_per_image=4) and "gradient norm" in words() and "k-center" in words()
    assert words().startswith("Whole real images")
    assert words(method="rded").startswith("Random crops of real images, ranked by the teacher's loss, lowest first;")
    assert "herding" in words(method="herding") and "random" not in words(method="herding")
    for kernel in ("features", "gradients"):
        assert f"in the teacher's {kernel} (coverage)" in words(selection="coverage", coverage_kernel=kernel)
    assert "from which a regression best predicts the teacher's logits" in words(selection="regression")
    drawn = words(utility="random", selection="regression", pool_share=1.0)
    assert "chosen as those of all classes from which a regression" in drawn and "at random" not in drawn
    assert "forgot" in words(method="forgetting")
    assert "diffusion prior" in words(method="igds")


def test_networks_that_labelled_are_named_once_with_their_ipcs(manifest):
    early, converged = Network("runs/teacher/epoch_10", "f" * 12), Network("runs/teacher", "0123456789ab")
    manifest["label_teachers"]["5"] = manifest["label_teachers"]["1"]
    run = describe(manifest)
    assert run.teacher == converged
    assert run.labellers == [(early, [1, 5]), (converged, [10])]
    assert run.samplers == {}
    manifest |= {"prior": {"name": "user/prior"}, "estimator": None}
    assert describe(manifest).samplers == {"prior": Network("user/prior", "unknown"), "estimator": None}


def test_facts_by_ipc_have_numbers_for_keys(manifest):
    manifest |= {"ipcs": [10, 1], "betas": {"1": 0.5}, "information": {"1": {"prototype": 1.0, "contextual": 2.0}}}
    run = describe(manifest)
    assert run.ipcs == [1, 10] and run.images == {1: 10, 10: 100}
    assert run.tile_accuracy == {1: 0.9, 10: 0.95} and run.betas == {1: 0.5} and list(run.information) == [1]


def test_records_of_one_setting_share_a_table_and_other_tasks_stay_out(manifest):
    records = [record(), record(ipc=1), record(epoch="best"), record(task="continual")]
    run = describe(manifest, records)
    assert [(table.epoch, [row["ipc"] for row in table.rows]) for table in run.tables] == [
        ("best", ["10"]),
        ("last", ["1", "10"]),
    ]
    assert run.tables[1].records == [records[1], records[0]]
    assert run.other_records == [records[3]]


def test_a_manifest_of_an_older_version_says_less():
    run = describe({"config": {"method": "unheard"}, "label_names": ["a", "b"], "ipcs": [2]})
    assert (run.method, run.way, run.paper) == ("unheard", "unheard", None)
    assert (run.tiles, run.views, run.slots, run.teacher, run.labellers) == (1, 0, 0, None, [])
    assert not run.tile_accuracy and not run.tables and command_of(run.config) is None


def test_counted():
    assert [counted(number, "seed") for number in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


def test_accuracy_a_kilobyte_counts_the_images_and_the_labels_that_are_trained_on():
    columns = {"image": 9_000, "label": 100, "tile_logits": 400, "slot_codes": 1_500, "slot_scales": 200}
    columns |= {"slot_classes": 600, "slot_rest": 100, "view_logits": 50_000, "view_boxes": 5_000}
    manifest = {**MANIFEST, "bytes": {"10": columns}}
    records = [record(labels=labels) for labels in ("mixed", "views", "tiles", "hard", "online")]
    records.append(record(labels="mixed", ipc=50))
    rows = {(table.labels, row["ipc"]): row for table in describe(manifest, records).tables for row in table.rows}
    found = {key: (row["kilobytes"], row["per_kilobyte"]) for key, row in rows.items()}
    assert found == {
        ("mixed", "10"): ("11.5", "5.2"),  # 60 % in 11.5 kB
        ("views", "10"): ("64.1", "0.94"),
        ("tiles", "10"): ("9.5", "6.3"),
        ("hard", "10"): ("9.1", "6.6"),
        ("online", "10"): ("–", "–"),  # it takes a teacher
        ("mixed", "50"): ("–", "–"),  # not noted
    }
