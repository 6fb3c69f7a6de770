"""Writing a report again, or of a folder that lacks something."""

from __future__ import annotations

import pytest
from worlds import draw_no_pictures

from decoct.config import DistillConfig
from decoct.files import read_json
from decoct.pages.report import write_report
from decoct.run.folder import write_json
from decoct.synthesis.distill import distill

from .reading import Page


def test_writing_again_keeps_the_pictures(copied, make_record):
    folder = copied("infoutil")
    before = Page(folder / "report.html")
    write_json(folder / "results.json", [make_record(1, [0.4])])
    for _ in range(2):
        assert write_report(folder) == folder / "report.html"
    after = Page(folder / "report.html")
    assert before.all("image") == after.all("image") and after.all("image")
    assert "40.0" in after.text
    assert {path.name for path in folder.iterdir()} == {path.name for path in copied("random").iterdir()} | {
        "results.json"
    }, "no temporary file stays"


@pytest.mark.parametrize("content", [None, "<p>mine</p>", '<script type="application/json" id="report">[1</script>'])
def test_without_kept_pictures_it_says_so(copied, content):
    folder = copied("infoutil")
    (folder / "report.html").unlink()
    if content is not None:
        (folder / "report.html").write_text(content)
    write_report(folder)
    page = Page(folder / "report.html")
    assert "Source images are not shown" in page.text and "The size of the source is not known" in page.text
    assert not page.all("image") and page.all("rect", class_="box") and len(page.all("img")) == 8
    assert "Source images" in Page(write_report(folder)).text, "such a report can be written again"


def test_report_is_outside_the_manifests_hashes(distilled):
    for method in ("infoutil", "igds"):
        assert (distilled(method) / "report.html").is_file()
        assert "report.html" not in read_json(distilled(method) / "manifest.json")["files"]


def test_run_killed_before_its_manifest(distilled, sample_part, trained_teacher, tmp_path, monkeypatch):
    config = DistillConfig(
        method="random", dataset=str(sample_part), teacher=str(trained_teacher), ipc=[1], slots=0, batch_size=16,
        output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    draw_no_pictures(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("decoct.synthesis.run.write_card", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            distill(config)
    assert not (tmp_path / "run" / "manifest.json").exists()
    distill(config)
    assert len(Page(tmp_path / "run" / "report.html").all("image")) == 4


def test_folder_without_manifest(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json"):
        write_report(tmp_path)


def test_broken_results_leave_the_report_as_it_was(copied):
    folder = copied("random")
    before = (folder / "report.html").read_bytes()
    (folder / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json must be JSON"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_old_manifest_with_little_in_it(copied):
    folder = copied("infoutil")
    manifest = read_json(folder / "manifest.json")
    keys = ("label_names", "image_mean", "image_std", "image_size", "channels", "ipcs")
    few = {**{key: manifest[key] for key in keys}, "teacher": None, "config": {"method": "infoutil"}}
    write_json(folder / "manifest.json", few)
    assert "Teacher none" in Page(write_report(folder)).text
