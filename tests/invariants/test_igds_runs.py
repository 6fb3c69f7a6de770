"""What IGDS samples does not depend on the number of processes, nor on being killed on the way."""

from __future__ import annotations

import pytest

from decoct.arguments import parse_config
from decoct.config import DistillConfig
from decoct.synthesis.distill import distill


@pytest.fixture(scope="module")
def arguments(sample_part, trained_teacher, tiny_prior, tiny_estimator) -> list[str]:
    """A run of 8 shards of samples, of two classes each, and 12 label shards, with guidance that moves the pixels."""
    networks = {"teacher": trained_teacher, "prior": tiny_prior, "estimator": tiny_estimator}
    words = ["--method", "igds", "--dataset", str(sample_part)]
    words += [word for name, folder in networks.items() for word in (f"--{name}", str(folder))]
    settings = "--ipc 1 2 --tiles_per_image 4 --guidance_batch 2 --guidance_scale 20 --beta 0.5 --sampling_steps 3"
    return [*words, *settings.split(), "--micro_batch", "4", "--views", "3", "--batch_size", "16", "--shard_size", "1"]


def test_one_process_equals_two(written_by_two, uninterrupted, assert_same_run, tmp_path):
    first, second = written_by_two
    for stage, count in (("sampled", 8), ("ipc_1", 4), ("ipc_2", 8)):
        shares = [sum(name.startswith(f"{stage}-") for name in names) for names in (first, second)]
        assert shares == [count // 2, count // 2], "both processes must have had work"
    assert not first & second
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_run_killed_at_sampling_and_at_labelling_ends_the_same(
    scripts, arguments, uninterrupted, kill_when, assert_same_run, tmp_path
):
    words = [*arguments, "--output_dir", str(tmp_path / "run")]
    shards = tmp_path / "run" / "shards"
    for stage, total in (("sampled", 8), ("ipc", 12)):
        kill_when(
            lambda stage=stage: len(list(shards.glob(f"{stage}*.parquet"))) >= 2,
            *(scripts / "distill.py", *words),
            cwd=tmp_path,
        )
        assert 2 <= len(list(shards.glob(f"{stage}*.parquet"))) < total, "there must be work left"
        assert not (tmp_path / "run" / "manifest.json").exists()
    assert len(list(shards.glob("sampled-*.parquet"))) == 8, "the second start must have finished the sampling"
    distill(parse_config(DistillConfig, words))
    assert_same_run(tmp_path / "run", uninterrupted)
