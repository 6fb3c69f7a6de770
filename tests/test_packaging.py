"""What an installation must hold."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.resources import files
from pathlib import Path

import pytest

import decoct

ROOT = Path(__file__).parents[1]


def test_version_is_the_installed_one():
    try:
        installed = version("decoct")
    except PackageNotFoundError:
        pytest.skip("decoct is not installed")
    assert installed == decoct.__version__


def test_console_script_is_declared():
    scripts = {entry.name: entry.value for entry in entry_points(group="console_scripts")}
    assert scripts["decoct"] == "decoct.cli:main"


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("decoct.scripts", "train_teacher.py"),
        ("decoct.scripts", "distill.py"),
        ("decoct.scripts", "evaluate.py"),
        ("decoct.scripts", "accelerate_configs/multi_gpu.yaml"),
        ("decoct.presets", "cifar10.yaml"),
        ("decoct.presets", "protocols/rded_kd.yaml"),
        ("decoct.presets", "reported/infoutil.yaml"),
        ("decoct.presets", "infoutil_paper.yaml"),
        ("decoct.hub_cards", "dataset_card.md"),
        ("decoct.pipelines", "igds/pipeline.py"),
        ("decoct.pipelines", "igds/README.md"),
        ("decoct.data", "sample/prior/unet/diffusion_pytorch_model.safetensors"),
        ("decoct.data", "sample/estimator/model.safetensors"),
        ("decoct.pages", "page.html.jinja"),
        ("decoct.pages", "page.css"),
        ("decoct.pages", "page.js"),
        ("decoct", "py.typed"),
    ],
)
def test_data_files_are_found_in_the_package(package, name):
    assert files(package).joinpath(name).is_file()


def test_everything_exported_exists():
    assert all(getattr(decoct, name) is not None for name in decoct.__all__)
    assert set(decoct.__all__) <= set(dir(decoct))
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = decoct.missing


def test_every_dependency_is_pinned_within_its_range():
    from packaging.requirements import Requirement

    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    declared = [Requirement(text) for text in re.findall(r'^ +"([\w-]+(?:>=[\d.]+)?)",$', setup, re.M)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {pin.name.lower().replace("_", "-"): str(pin.specifier).removeprefix("==") for pin in pins}
    assert {"torch", "transformers"} <= {requirement.name for requirement in declared}
    for requirement in declared:
        assert requirement.specifier.contains(pinned[requirement.name.lower().replace("_", "-")]), requirement
