"""Claim: guidance that enters the prediction reaches the final sample by every scheduler, or the scheduler is refused.

    python benchmarks/schedulers.py

A network whose noise is constant, and guidance of one step alone, which enters the next sample (`sample`, `x0_pred`)
or the prediction (`prediction`). Either is compared with its ideal effect on the final sample, that of DDIM: a change
`d` of a sample `signal * image + noise` moves the image by `d / signal`. All schedulers of diffusers are measured, with
20 steps, as they are without arguments (but for `clip_sample`, which is off) and in the configurations below that
they have. It takes a minute of one core.

One record per scheduler and configuration goes to benchmarks/results/schedulers.json: the smallest and the largest
share that arrives for either kind, or what the refusal says. `python benchmarks/readme.py` writes the table of the
pipeline's README from it.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RESULTS = Path(__file__).parent / "results"
STEPS = 20
PLACES = ("sample", "prediction")
CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"prediction_type": "v_prediction"},
    {"solver_order": 3},
    {"algorithm_type": "sde-dpmsolver++"},
    {"use_karras_sigmas": True},
    {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
)


def configurations() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every scheduler of diffusers in every configuration that it takes: name, options, and it, or why it is none."""
    import diffusers

    names = sorted(name for name in dir(diffusers.schedulers) if name.endswith("Scheduler"))
    for name in names:
        kind = getattr(diffusers.schedulers, name)
        accepted = inspect.signature(kind.__init__).parameters
        for options in CONFIGURATIONS:
            if all(option in accepted for option in options):
                off = {"clip_sample": False} if "clip_sample" in accepted else {}
                try:
                    yield name, options, kind(**off, **options)
                except (ImportError, NotImplementedError, TypeError, ValueError) as error:
                    if not options:
                        yield name, options, error


def noise_free_output(scheduler: Any, sample: Any, signal: float, noise: float) -> Any:
    """What a network puts out that takes a sample for `signal * image` without any noise."""
    image = sample / signal if signal else sample * 0
    if type(scheduler).__name__.startswith("EDM"):
        data = scheduler.config.sigma_data
        kept = data**2 / (noise**2 + data**2)
        sign = 1 if scheduler.config.prediction_type == "epsilon" else -1
        return sign * (image - kept * sample) * (noise**2 + data**2) ** 0.5 / (noise * data)
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    total = (signal**2 + noise**2) ** 0.5
    return {"epsilon": 0 * image, "sample": image, "v_prediction": -noise / total * image, "flow_prediction": -image}[
        kind
    ]


def shares(scheduler: Any, guide_on: str, steps: int = STEPS, size: float = 0.1) -> list[float]:
    """For each step, how much of a guidance of that step alone arrives, through `InformationGuidance` itself.

    Raises:
        ValueError: If the scheduler is refused.
    """
    import torch

    from decoct.data.spec import ImageSpec
    from decoct.igds.loading import build_estimator
    from decoct.pipelines.igds.guidance import InformationGuidance
    from decoct.pipelines.igds.schedulers import check_scheduler, level, sample_scale, with_timesteps

    class Kick(InformationGuidance):
        """A gradient of 1 in one step."""

        step = -1

        def is_guided(self, step_index: int, steps: int) -> bool:
            return step_index == self.step

        def _gradient(self, pipeline: Any, images: Any, labels: Any, step_index: int) -> Any:
            return torch.ones_like(images)

    check_scheduler(scheduler)
    spec = ImageSpec(8, 1, (0.5,), (0.5,), ("a", "b"))
    estimator = build_estimator("resnet10_w4", spec, 4)
    kick = Kick(estimator=estimator, class_labels=[0], guide_on=guide_on, guidance_scale=size)

    def sampled(step: int) -> float:
        ready = with_timesteps(scheduler, steps)
        generator = torch.Generator().manual_seed(0)
        options = {"generator": generator} if "generator" in inspect.signature(ready.step).parameters else {}
        sample = torch.zeros(1, 1, 1, 1)
        kick.step = step
        with kick.attached(SimpleNamespace(scheduler=ready)):
            for index, timestep in enumerate(ready.timesteps):
                if hasattr(ready, "scale_model_input"):
                    ready.scale_model_input(sample, timestep)
                output = noise_free_output(ready, sample, *level(ready, index))
                sample = ready.step(output, timestep, sample, return_dict=False, **options)[0]
        return float(sample)

    ready, plain = with_timesteps(scheduler, steps), sampled(-1)
    ideals = [
        size * sample_scale(ready, index + 1) / level(ready, index + 1)[0] for index in range(len(ready.timesteps))
    ]
    return [(sampled(index) - plain) / ideal for index, ideal in enumerate(ideals)]


def measure(scheduler: Any, steps: int = STEPS, places: Sequence[str] = PLACES) -> dict[str, Any]:
    """The smallest and the largest share that arrives, by kind of guidance, or what the refusal says."""
    if isinstance(scheduler, Exception):
        return {place: {"refused": str(scheduler).strip().split("\n")[0]} for place in places}
    measured = {}
    for place in places:
        try:
            found = shares(scheduler, place, steps)
            measured[place] = {"shares": [round(min(found), 3), round(max(found), 3)]}
        except ValueError as error:
            measured[place] = {"refused": str(error)}
    return measured


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, default=RESULTS / "schedulers.json", help="Result file.")
    args = options.parse_args(words)

    import diffusers

    from decoct.config import config_hash
    from decoct.results.records import merge_records
    from decoct.run.versions import installed_versions

    diffusers.utils.logging.set_verbosity_error()
    versions = installed_versions()
    for name, settings, scheduler in configurations():
        setting = {"scheduler": name, "options": settings, "steps": STEPS}
        record = {**setting, **measure(scheduler), "versions": versions, "config_hash": config_hash(setting)}
        merge_records(args.output, [record])
        print(name, settings, *(f"{place}: {record[place]}" for place in PLACES), flush=True)


if __name__ == "__main__":
    main()
