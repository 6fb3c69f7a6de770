"""Every scheduler that diffusers has carries guidance to the final sample, or is refused."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    schedulers,
)

from decoct.pipelines.igds.schedulers import (
    SERVED,
    NotCarried,
    check_guidance,
    check_scheduler,
    level,
    prediction_steps,
    with_timesteps,
)

ROOT = Path(__file__).parents[2]
STEPS = 6
NAMES = sorted(name for name in dir(schedulers) if name.endswith("Scheduler"))


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """The benchmark that measures the same with more steps and configurations."""
    sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
    try:
        from loading import load
    finally:
        sys.path.pop(0)
    return load("schedulers")


SOLVERS = {"DPMSolverMultistep", "DPMSolverSinglestep", "EDMDPMSolverMultistep", "UniPCMultistep"}
TWICE = {"HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete"}  # two passes a step
# Options, and the schedulers that carry no guidance of samples with them, and none of predictions.
OPTIONS: tuple[tuple[dict[str, Any], set[str], set[str]], ...] = (
    ({"prediction_type": "v_prediction"}, SOLVERS | TWICE | {"PNDM", "SASolver"}, TWICE | {"PNDM"}),
    ({"solver_order": 3}, SOLVERS, {"EDMDPMSolverMultistep"}),
    ({"algorithm_type": "sde-dpmsolver++"}, SOLVERS, set()),
    (
        {"use_karras_sigmas": True},
        SOLVERS | TWICE | {"SASolver"},
        (TWICE - {"HeunDiscrete"}) | {"DEISMultistep", "SASolver"},
    ),
    (
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        SOLVERS | {"DEISMultistep", "SASolver"},
        {"DEISMultistep"},
    ),
    ({"clip_sample": True}, TWICE, TWICE),
    ({"thresholding": True}, SOLVERS, set()),
)


def configured(options: dict[str, Any]) -> dict[str, Any]:
    """The schedulers that take these options, by name."""
    found = {}
    for name in SERVED:
        accepted = inspect.signature(getattr(schedulers, name).__init__).parameters
        if options.keys() <= accepted.keys():
            off = {"clip_sample": False} if "clip_sample" in accepted else {}
            with contextlib.suppress(NotImplementedError):  # of another algorithm_type
                found[name] = getattr(schedulers, name)(**{**off, **options})
    return found


@pytest.mark.parametrize("place", ["sample", "prediction"])
@pytest.mark.parametrize(("options", "samples", "predictions"), OPTIONS, ids=lambda each: "-".join(sorted(each)))
def test_guidance_arrives_in_every_configuration_or_is_refused(benchmark, options, samples, predictions, place):
    """What clips does nothing within its bounds, in which such small guidance stays."""
    found = configured(options)
    if options.keys() & {"clip_sample", "thresholding"}:
        # Their own noise leaves the bounds: the network of the benchmark does not take it out.
        found = {name: each for name, each in found.items() if not name.startswith(("DDPM", "SASolver"))}
    assert found
    refused = set()
    for name, scheduler in found.items():
        try:
            arrived = benchmark.shares(scheduler, place, STEPS, size=0.01)
        except ValueError as error:
            assert name in str(error) and "from_config" in str(error)
            refused.add(name)
        else:
            assert all(0.95 <= share <= 1.05 for share in arrived), (name, arrived)
    expected = {f"{name}Scheduler" for name in (samples if place == "sample" else predictions)}
    assert refused == expected & found.keys()


@pytest.mark.parametrize("place", ["sample", "prediction"])
def test_guidance_of_one_step_arrives_or_is_refused(benchmark, place):
    served = {}
    for name, options, scheduler in benchmark.configurations():
        if options or name not in SERVED:
            continue
        found = benchmark.measure(scheduler, STEPS, (place,))[place]
        served[name] = "shares" in found
        if served[name]:
            assert all(0.95 <= share <= 1.05 for share in found["shares"]), (name, found)
        else:
            assert name in found["refused"] and "from_config" in found["refused"]
    assert set(served) == set(SERVED)
    assert served["DDPMScheduler"] and served["DDIMScheduler"] and served["EulerDiscreteScheduler"]
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EDMDPMSolverMultistepScheduler"):
        assert served[name] == (place == "prediction")


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("FlowMatchEuler", {"use_karras_sigmas": True}, 250),
        ("FlowMatchEuler", {"use_exponential_sigmas": True, "use_dynamic_shifting": True}, 250),
        ("FlowMatchEuler", {"use_beta_sigmas": True}, 1000),
        ("FlowMatchEuler", {"shift_terminal": 0.1}, 250),
        ("FlowMatchHeun", {}, 20),
        ("DPMSolverMultistep", {**FLOW, "use_karras_sigmas": True}, 250),
        ("DEISMultistep", FLOW, 20),
        ("EDMEuler", {"sigma_schedule": "exponential"}, 250),
        ("EDMDPMSolverMultistep", {"final_sigmas_type": "sigma_min"}, 20),
        ("DDIM", {"set_alpha_to_one": False}, 20),
        ("DDIM", {"timestep_spacing": "linspace"}, 50),
        ("DPMSolverMultistep", {}, 1500),  # more steps than DDIM has
        ("PNDM", {}, 20),
        ("KDPM2", {}, 20),
    ],
)
def test_the_remedy_that_is_named_carries_the_guidance(name, options, steps):
    kind = next(
        getattr(schedulers, each) for each in SERVED if each in (f"{name}Scheduler", f"{name}DiscreteScheduler")
    )
    scheduler, refused = kind(**options), 0
    for place in ("sample", "prediction"):
        try:
            check_guidance(with_timesteps(scheduler, steps), place)
        except NotCarried as error:
            refused += 1
            named = re.search(
                r"pipe\.scheduler = (\w+)(\.from_config\([^)]*\))(?:, and take (\d+) steps)?\.$", str(error)
            )
            other = eval(f"{named[1]}{named[2]}", vars(schedulers) | {"pipe": SimpleNamespace(scheduler=scheduler)})
            check_guidance(with_timesteps(other, int(named[3] or steps)), place)
            if "change it" in str(error):
                check_guidance(with_timesteps(scheduler, steps), "prediction")
    assert refused


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SERVED])
def test_other_schedulers_are_refused_by_name(name):
    kind = getattr(schedulers, name)
    with pytest.raises(ValueError, match=f"Got {name}: "):
        check_scheduler(kind.__new__(kind))


def test_the_record_has_every_scheduler_and_what_is_measured_today(benchmark):
    records = json.loads((ROOT / "benchmarks" / "results" / "schedulers.json").read_text("utf-8"))
    if {record["versions"]["diffusers"] for record in records} != {diffusers.__version__}:
        pytest.skip(f"diffusers {diffusers.__version__} has other schedulers than the record's")
    assert {record["scheduler"] for record in records} == set(NAMES)
    for record in records:
        for place in ("sample", "prediction"):
            assert all(0.95 <= share <= 1.05 for share in record[place].get("shares", []))
            assert ("shares" in record[place]) != ("refused" in record[place])
    recorded = {(record["scheduler"], *record["options"]): record for record in records}
    for name, options, scheduler in benchmark.configurations():
        # Refusals by name are quick; of the others, some.
        again = not isinstance(scheduler, Exception) and name not in SERVED
        if again or (not options and name in ("DDIMScheduler", "DPMSolverMultistepScheduler")):
            measured = benchmark.measure(scheduler)
            assert {place: recorded[(name, *options)][place] for place in measured} == measured


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDIMScheduler(prediction_type="flow"), "prediction_type of the scheduler must be one of .*Got 'flow'"),
        (UniPCMultistepScheduler(prediction_type="flow_prediction"), "use_flow_sigmas of UniPC.* must be True"),
        (UniPCMultistepScheduler(use_flow_sigmas=True), "use_flow_sigmas of UniPCMultistepScheduler must be True"),
        (
            DPMSolverMultistepScheduler(variance_type="learned_range"),
            "variance_type must be None for DPM.*Got 'learned",
        ),
        (
            FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
            r"invert_sigmas of FlowMatch.* must be False.*Got True: pipe.scheduler = .*config, invert_sigmas=False\)\.",
        ),
        (
            EDMEulerScheduler(prediction_type="sample"),
            "must be able to step as it is configured. Got EDMEulerScheduler: ",
        ),
    ],
)
def test_configurations_that_cannot_be_converted_are_refused(scheduler, message):
    with pytest.raises(ValueError, match=message):
        check_scheduler(scheduler, channels=4)


def test_measuring_leaves_a_scheduler_as_it_is():
    scheduler = UniPCMultistepScheduler()
    scheduler.set_timesteps(4)
    before = {key: value for key, value in vars(scheduler).items() if not isinstance(value, torch.Tensor)}
    state = torch.random.get_rng_state()
    prediction_steps(scheduler)
    assert {key: value for key, value in vars(scheduler).items() if not isinstance(value, torch.Tensor)} == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_levels_are_those_of_the_forward_process():
    for kind in (DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler):
        scheduler = with_timesteps(kind(), 5)
        for index, timestep in enumerate(scheduler.timesteps):
            parts = (torch.ones(1), torch.zeros(1))
            expected = [
                float(scheduler.add_noise(image, noise, timestep[None])) for image, noise in (parts, parts[::-1])
            ]
            assert level(scheduler, index) == pytest.approx(expected, abs=2e-3)
    flow = with_timesteps(FlowMatchEulerDiscreteScheduler(), 4)
    assert [round(sum(level(flow, index)), 6) for index in range(5)] == [1.0] * 5
    assert level(flow, 4) == (1.0, 0.0)
