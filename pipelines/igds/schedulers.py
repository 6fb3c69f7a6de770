"""What a scheduler makes of guidance: the noise in its samples, and how far a change of one step carries.

All that is needed of a scheduler is measured on a copy of it, with a network whose noise is constant: such a network
neither corrects a change nor amplifies it, so that a change `d` of a sample `signal * image + noise` is to move the
final image by `d / signal`. What a scheduler makes of it instead is what it carries. The file stands alone: a copy of
it travels with every saved pipeline.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import Tensor

__all__ = [
    "SERVED",
    "NotCarried",
    "PredictionSteps",
    "carried_by_predictions",
    "carried_by_samples",
    "check_guidance",
    "check_scheduler",
    "clean_coefficients",
    "is_flow",
    "level",
    "prediction_steps",
    "sample_scale",
    "with_timesteps",
]

SERVED = (
    "CogVideoXDDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")
TOLERANCE = 0.05  # of a change of a sample: what may be lost or gained on the way
TRIAL_STEPS = 4
LEAST_SHARE = 0.1  # of what the steps beside it carry: a step that carries less cannot be guided
REMEDY = "pipe.scheduler = {}.from_config(pipe.scheduler.config{})"
# Steps that every scheduler of `_remedy` carries guidance through: other ones may be so small at the end that none is.
USUAL_STEPS = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "shift_terminal": None,
    "timestep_spacing": "leading",
    "set_alpha_to_one": True,
    "sigma_schedule": "karras",
    "final_sigmas_type": "zero",
}


class NotCarried(ValueError):
    """A scheduler loses the guidance, or adds to it: another one, or another `guide_on`, helps."""


class PredictionSteps(NamedTuple):
    """For each step, how the clean image follows from sample and output, and how far guidance moves it.

    The clean image is `of_sample * sample + of_output * output`. Moved by `shift` there, the final image moves as far
    as by 1 in the next sample, on the scale of the network's inputs.
    """

    of_sample: Tensor
    of_output: Tensor
    shift: Tensor


def _remedy(scheduler: SchedulerMixin, guide_on: str, options: dict[str, Any]) -> str:
    """A scheduler of the same noise schedule that was seen to carry such guidance, in as many steps if any does."""
    kind = EDMEulerScheduler if _is_edm(scheduler) else DDIMScheduler
    changes: dict[str, Any] = {}
    code = ""
    if is_flow(scheduler):
        kind = FlowMatchEulerDiscreteScheduler
        if "flow_shift" in scheduler.config:
            changes, code = {"shift": scheduler.config.flow_shift}, ", shift=pipe.scheduler.config.flow_shift"
    taken = inspect.signature(kind.__init__).parameters
    usual = {
        name: value
        for name, value in USUAL_STEPS.items()
        if name in taken and scheduler.config.get(name, value) != value
    }
    steps = asked = scheduler.num_inference_steps or len(scheduler.timesteps)
    while steps:
        for spacing in ({}, usual):
            other = kind.from_config(scheduler.config, **changes, **spacing)
            if _is_carried(other, steps, guide_on, options):
                code += "".join(f", {name}={value!r}" for name, value in spacing.items())
                return REMEDY.format(kind.__name__, code) + ("" if steps == asked else f", and take {steps} steps")
        steps //= 2
    return "set guidance_scale=0"


def _is_carried(scheduler: SchedulerMixin, steps: int, guide_on: str, options: dict[str, Any]) -> bool:
    """Whether so many steps of a scheduler carry the guidance; False for steps that it cannot take."""
    try:
        scheduler = with_timesteps(scheduler, steps)
        return not _lost(scheduler, guide_on, _carried(scheduler, guide_on, options))
    except ValueError:
        return False


def is_flow(scheduler: SchedulerMixin) -> bool:
    """Whether samples are `(1 - noise) * image + noise * noise image`."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))


def _is_edm(scheduler: SchedulerMixin) -> bool:
    return type(scheduler).__name__.startswith("EDM")


def _prediction_type(scheduler: SchedulerMixin) -> str:
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow_prediction"
    return scheduler.config.prediction_type


def check_scheduler(scheduler: SchedulerMixin, channels: int | None = None) -> None:
    """Raises ValueError, in one line, for a scheduler whose samples and predictions cannot be converted, or that fails.

    Args:
        channels: Of the samples; None if they are not known, or those of a text-to-image pipeline.
    """
    name = type(scheduler).__name__
    if name not in SERVED:
        raise ValueError(
            "scheduler must be one of `schedulers.SERVED`, such as DDIMScheduler, EulerDiscreteScheduler, "
            f"UniPCMultistepScheduler or FlowMatchEulerDiscreteScheduler. Got {name}: "
            f"{REMEDY.format('DDIMScheduler', '')}, or load another prior, if this one has no such noise schedule."
        )
    kind = _prediction_type(scheduler)
    if kind not in PREDICTIONS:
        raise ValueError(f"prediction_type of the scheduler must be one of {list(PREDICTIONS)}. Got {kind!r} ({name}).")
    if (kind == "flow_prediction") != is_flow(scheduler):
        raise ValueError(
            f"use_flow_sigmas of {name} must be True where it predicts the flow, and only there. Got {kind!r} with "
            f"use_flow_sigmas={scheduler.config.get('use_flow_sigmas')}."
        )
    if channels is not None and scheduler.config.get("use_dynamic_shifting"):
        raise ValueError(
            f"use_dynamic_shifting of {name} must be False here: text-to-image pipelines alone know the shift of a "
            f"size. Got True: pipe.scheduler = {name}.from_config(pipe.scheduler.config, use_dynamic_shifting=False)."
        )
    if scheduler.config.get("invert_sigmas"):
        raise ValueError(
            f"invert_sigmas of {name} must be False: its sigmas are to say how much noise is in a sample, not how much "
            f"image. Got True: pipe.scheduler = {name}.from_config(pipe.scheduler.config, invert_sigmas=False)."
        )
    learned = scheduler.config.get("variance_type") in ("learned", "learned_range")
    if learned and channels not in (None, 3) and name.startswith(("DPMSolver", "SASolver")):
        raise ValueError(
            f"variance_type must be None for {name}, which takes a learned one to follow 3 channels. "
            f"Got {scheduler.config.variance_type!r} for {channels}: "
            f"pipe.scheduler = {name}.from_config(pipe.scheduler.config, variance_type=None)."
        )
    try:
        _sampled(with_timesteps(scheduler, TRIAL_STEPS), "sample", 0.0, {})
        clean_coefficients(with_timesteps(scheduler, TRIAL_STEPS), 0)
    except ZeroDivisionError:
        raise ValueError(
            f"prediction_type of {name} must be 'v_prediction' or 'sample' where the first timestep is all "
            f"noise, as with rescale_betas_zero_snr. Got {kind!r}."
        ) from None
    except (NotImplementedError, ValueError) as error:
        raise ValueError(f"scheduler must be able to step as it is configured. Got {name}: {error}") from error


def level(scheduler: SchedulerMixin, index: int) -> tuple[float, float]:
    """Weights of image and noise in the sample before step `index`; `(1, 0)` after the last step."""
    if index >= len(scheduler.timesteps):
        return 1.0, 0.0
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None:
        alpha = float(scheduler.alphas_cumprod[int(scheduler.timesteps[index])])
        return alpha**0.5, (1 - alpha) ** 0.5
    sigma = float(sigmas[index])
    if is_flow(scheduler):
        return 1 - sigma, sigma
    if _is_edm(scheduler) or not hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return 1.0, sigma
    return 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5


def sample_scale(scheduler: SchedulerMixin, index: int) -> float:
    """What the sample before step `index` is divided by to have the scale of DDPM's; exactly 1 where it has it."""
    signal, noise = level(scheduler, index)
    return (1 + noise**2) ** 0.5 if signal == 1 and not is_flow(scheduler) else 1.0


def clean_coefficients(scheduler: SchedulerMixin, index: int) -> tuple[float, float]:
    """Factors of sample and output whose sum is the clean image that the network predicts before step `index`."""
    signal, noise = level(scheduler, index)
    kind = _prediction_type(scheduler)
    if _is_edm(scheduler):  # Karras et al. (2022), Table 1
        data = scheduler.config.sigma_data
        total = noise**2 + data**2
        return data**2 / total, (1 if kind == "epsilon" else -1) * noise * data / total**0.5
    if kind == "epsilon":
        return 1 / signal, -noise / signal
    if kind == "sample":
        return 0.0, 1.0
    if kind == "v_prediction":
        total = signal**2 + noise**2
        return signal / total, -noise / total**0.5
    return 1 / (signal + noise), -noise / (signal + noise)


def with_timesteps(scheduler: SchedulerMixin, steps: int, **options: Any) -> SchedulerMixin:
    """A copy that is about to take `steps` reverse steps.

    Args:
        **options: Of its `set_timesteps`; `sigmas` stand in the place of the number of steps.
    """
    scheduler = _fresh_copy(scheduler)
    if scheduler.config.get("use_dynamic_shifting") and "mu" in inspect.signature(scheduler.set_timesteps).parameters:
        options = {"mu": 1.0, **options}
    scheduler.set_timesteps(**({} if "sigmas" in options else {"num_inference_steps": steps}), **options)
    return scheduler


def _fresh_copy(scheduler: SchedulerMixin) -> SchedulerMixin:
    """A copy without the wrapper that guidance puts around `step`."""
    scheduler = copy.copy(scheduler)
    vars(scheduler).pop("step", None)
    return copy.deepcopy(scheduler)


def carried_by_samples(scheduler: SchedulerMixin, **options: Any) -> Tensor:
    """For each step, the share of a change of its sample, made after it, that the final sample has: 1 is ideal.

    Args:
        scheduler: With timesteps, before its first step.
        **options: Of its `step`.
    """
    effects = _effects(scheduler, "sample", options)
    return effects * torch.tensor([level(scheduler, index + 1)[0] for index in range(len(effects))])


def carried_by_predictions(scheduler: SchedulerMixin, **options: Any) -> Tensor:
    """For each step, how far the final sample moves by a change of 1 in the clean image that is predicted there."""
    return _effects(scheduler, "prediction", options)


def _effects(scheduler: SchedulerMixin, where: str, options: dict[str, Any]) -> Tensor:
    """What a change of 1 in each step alone, a row each, does to the final sample."""
    changed, plain = (_sampled(scheduler, where, size, options) for size in (1.0, 0.0))
    return changed - plain


def _sampled(scheduler: SchedulerMixin, where: str, size: float, options: dict[str, Any]) -> Tensor:
    """Final samples of a constant noise of 0; row `k` is changed by `size` in step `k`."""
    scheduler = _fresh_copy(scheduler)
    # What clips is not linear, and does nothing to samples within its bounds.
    off = {name: False for name in ("clip_sample", "thresholding") if name in scheduler.config}
    scheduler.register_to_config(**off)
    if "variance_type" in vars(scheduler):  # a learned one would have to come with the output
        scheduler.variance_type = "fixed_small"
        scheduler.register_to_config(variance_type="fixed_small")
    scheduler.timesteps = scheduler.timesteps.cpu()
    accepted = inspect.signature(scheduler.step).parameters
    options = {name: value for name, value in options.items() if name in accepted}
    if "generator" in accepted:
        options["generator"] = torch.Generator().manual_seed(0)
    steps = len(scheduler.timesteps)
    sample = torch.zeros(steps, 1, 1, 1)
    for index, timestep in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "scale_model_input"):  # some schedulers insist on it
            scheduler.scale_model_input(sample, timestep)
        signal, _ = level(scheduler, index)
        of_sample, of_output = clean_coefficients(scheduler, index)
        clean = sample / signal if signal else torch.zeros_like(sample)
        if where == "prediction":
            clean[index] += size
        output = (clean - of_sample * sample) / of_output
        sample = scheduler.step(output, timestep, sample, **options).prev_sample.clone()
        if where == "sample":
            sample[index] += size
    return sample.flatten()


def prediction_steps(scheduler: SchedulerMixin, **options: Any) -> PredictionSteps:
    """How guidance enters the predictions of a scheduler, step by step.

    Args:
        scheduler: With timesteps, before its first step.
        **options: Of its `step`, such as `eta`.

    Raises:
        NotCarried: If some step carries no change of its prediction, or one of the other sign.
    """
    carried = _checked(scheduler, "prediction", options)
    indices = range(len(carried))
    coefficients = torch.tensor([clean_coefficients(scheduler, index) for index in indices])
    ideal = torch.tensor([sample_scale(scheduler, index + 1) / level(scheduler, index + 1)[0] for index in indices])
    return PredictionSteps(coefficients[:, 0], coefficients[:, 1], ideal / carried)


def check_guidance(scheduler: SchedulerMixin, guide_on: str, **options: Any) -> None:
    """Raises NotCarried, a ValueError that names the remedy, if a scheduler does not carry the guidance.

    Args:
        scheduler: With timesteps, before its first step.
        guide_on: `sample`, `x0_pred` or `prediction`.
        **options: Of its `step`, such as `eta`.
    """
    _checked(scheduler, guide_on, options)


def _checked(scheduler: SchedulerMixin, guide_on: str, options: dict[str, Any]) -> Tensor:
    """What a scheduler carries of the guidance; arguments and errors as of `check_guidance`."""
    carried = _carried(scheduler, guide_on, options)
    lost = _lost(scheduler, guide_on, carried)
    if not lost:
        return carried
    name, remedy = type(scheduler).__name__, _remedy(scheduler, guide_on, options)
    if guide_on != "prediction" and not _lost(scheduler, "prediction", _carried(scheduler, "prediction", options)):
        raise NotCarried(f"guide_on must be 'prediction' for {name}, {lost}. Got {guide_on!r}: change it, or {remedy}.")
    what = "every prediction" if guide_on == "prediction" else "every sample"
    raise NotCarried(f"scheduler must carry guidance of {what}. Got {name}, {lost}: {remedy}.")


def _carried(scheduler: SchedulerMixin, guide_on: str, options: dict[str, Any]) -> Tensor:
    """`carried_by_predictions` or `carried_by_samples`."""
    measure = carried_by_predictions if guide_on == "prediction" else carried_by_samples
    return measure(scheduler, **options)


def _lost(scheduler: SchedulerMixin, guide_on: str, carried: Tensor) -> str:
    """How a scheduler loses what it should carry, in words; nothing where it does not."""
    if guide_on == "prediction":
        beside = torch.cat([carried[:1], carried, carried[-1:]])
        share = carried / ((beside[:-2] + beside[2:]) / 2).clamp_min(1e-6)
        if bool((share >= LEAST_SHARE).all()):
            return ""
        step = int((~(share >= LEAST_SHARE)).nonzero()[0])
        return f"whose step {step} of {len(carried)} carries {float(share[step]):.2f} times what the steps beside it do"
    if bool(((carried - 1).abs() <= TOLERANCE).all()):
        return ""
    least, most = float(carried.min()), float(carried.max())
    return f"which carries between {least:.2f} and {most:.2f} of a change of a sample to the last step"
