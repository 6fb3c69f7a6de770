"""What a dataset card says of results, and the commands that repeat and measure it."""

from __future__ import annotations

import ast
import shlex

from decoct.pages.dataset_card import dataset_card

from .cards import blocks, record


def test_results_have_a_table_for_each_setting_with_random_images_and_a_verdict(manifest):
    results = [record(), record(ipc=1, accuracy_mean=0.3, baseline=None, baseline_note="turned off")]
    results += [record(overrides={"epochs": 30}), record(epoch="best"), record(task="continual")]
    text = " ".join(dataset_card(manifest, results=results).split())
    assert text.count("| IPC | tiles | network |") == 3
    assert "| 10 | 1 | convnet3 | 90.0 | 60.0 ± 1.0 | 2 | 50.0 ± 1.0 |" in text
    points = "+10.0 points, 95 % interval +10.0 to +10.0"
    assert f"InfoUtil beats random images (60.0 against 50.0; 2 and 2 seeds; {points})." in text.replace("\\", "")
    assert "InfoUtil was not compared with random images: turned off." in text
    assert "protocol `rded_kd (epochs=30)`" in text
    assert "best epoch, which was chosen on the test images" in text
    assert "`results.json` has 1 more record, of other tasks." in text


def test_the_accuracy_to_expect_is_that_of_the_examples_own_setting(manifest):
    other = record(protocol="strong_kd", accuracy_mean=0.7)
    assert "Expect an accuracy of about 60.0 % ± 1.0" in dataset_card(manifest, results=[other, record()])
    alone = dataset_card(manifest, results=[other])
    assert "Expect an accuracy" not in alone
    assert "For comparison, decoct measured 70.0 % ± 1.0 with the same labels (`convnet3` under the protocol" in alone
    for unlike in (record(labels="tiles"), record(ipc=1)):
        text = dataset_card(manifest, results=[unlike])
        assert "Expect an accuracy" not in text and "For comparison" not in text


def test_the_command_makes_the_set_again_and_sends_it_nowhere(manifest):
    manifest["config"] |= {"views": 20, "push_to_hub": "someone/else", "commit_message": "x", "teacher": "runs/teacher"}
    command = blocks(dataset_card(manifest), "bash")[1]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["decoct", "distill"]
    assert words[words.index("--ipc") :][:3] == ["--ipc", "1", "10"]
    assert words[words.index("--views") + 1] == "20"
    assert not {"--push_to_hub", "--commit_message", "--output_dir"} & set(words)
    assert "someone/else" not in dataset_card(manifest)
    manifest["config"]["teacher"] = "in memory"
    assert len(blocks(dataset_card(manifest), "bash")) == 1


def test_evaluation_names_the_columns_that_the_run_was_given(manifest):
    manifest["config"] |= {"dataset_config": "plain_text", "label_column": "fine_label", "eval_split": "valid"}
    card = dataset_card(manifest)
    assert "--dataset_config plain_text --eval_split valid --label_column fine_label" in blocks(card, "bash")[0]
    code = blocks(card, "python")[2]
    assert 'load_dataset("uoft-cs/cifar10", "plain_text")' in code
    assert 'source["valid"]' in code and 'label = "fine_label"' in code and "ClassLabel" not in code
    manifest["config"]["image_column"] = "img"
    ast.parse(blocks(dataset_card(manifest), "python")[2])


def test_the_commands_work_from_elsewhere(manifest):
    assert blocks(dataset_card(manifest, "user/small"), "bash")[0].endswith("--seeds 3 --output_dir runs/evaluation\n")
    assert "--output_dir" not in blocks(dataset_card(manifest, "small"), "bash")[0]  # beside the run folder
    assert "--students convnet3 " in dataset_card(manifest)
    manifest["image_size"] = 224
    assert "--students convnet6 " in dataset_card(manifest)
