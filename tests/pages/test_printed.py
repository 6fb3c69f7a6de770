"""What the scripts print when they are done."""

from __future__ import annotations

from decoct.pages.printed import distill_report, format_settings, teacher_report


def test_settings_are_aligned_and_mappings_indented():
    text = format_settings({"images": 4000, "forward_passes": {"utility": 16000}, "compile": False})
    assert text.splitlines() == [
        "images          4,000",
        "forward_passes",
        "  utility       16,000",
        "compile         False",
    ]


def test_teacher_report_names_the_early_teachers_that_were_saved():
    record = {
        "accuracy": 0.87,
        "epochs": [{"accuracy": 0.7}, {"accuracy": 0.8}, {"accuracy": 0.87}],
        "config": {"save_epochs": [2, 3, 10]},
    }
    text = teacher_report(record, "runs/teacher")
    assert "87.0 %" in text
    assert "80.0 % after epoch 2" in text
    assert "runs/teacher/epoch_2" in text
    assert "epoch_3" not in text
    assert "epoch_10" not in text


def test_distill_report_says_how_to_load_what_came_out(tmp_path):
    manifest = {
        "config": {"method": "rded"},
        "ipcs": [1, 10],
        "label_names": ["cat", "dog"],
        "tile_accuracy": {"1": 1.0, "10": 0.95},
    }
    text = distill_report(manifest, str(tmp_path))
    assert "IPC 10: 20 images; the teacher recognises 95 % of their tiles" in text
    assert f'load_dataset("{tmp_path}", "ipc_10", split="train")' in text
    assert str(tmp_path / "preview.png") in text
