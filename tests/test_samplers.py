"""A plan under every sampler: which expert serves which call, and what users hang on the loop."""

from collections.abc import Callable, Iterator

import diffusers
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image
from planned_pipeline import PIPE, PLAN, STOCK_SCHEDULER, counted, denoise, masked_by_hooks, sample

from alter_lib import PlanError, apply_plan, remove_plan


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    remove_plan(PIPE)
    PIPE.scheduler = STOCK_SCHEDULER


# samplers

SAMPLERS = {
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}, 6),
    "pndm with prk steps": ("PNDMScheduler", {"skip_prk_steps": False}, 6),
    "pndm 1000": ("PNDMScheduler", {"steps_offset": 0}, 1000),
    "ddim 1000": ("DDIMScheduler", {"steps_offset": 0}, 1000),
    "ddim, offset": ("DDIMScheduler", {"steps_offset": 1}, 3),
    "euler, fractions": ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}, 5),
    "euler, karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, 5),
    "euler 1000, offset": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, 1000),
    "dpm-solver++": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 5),
    "dpm-solver++ 1000": ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}, 1000),
    "unipc": ("UniPCMultistepScheduler", {}, 5),
    "unipc 1000": ("UniPCMultistepScheduler", {"timestep_spacing": "linspace"}, 1000),
    "heun": ("HeunDiscreteScheduler", {}, 3),
}


def stop_after(calls: int) -> Callable:
    """A pipeline callback; a 1000-step schedule need not be run to its end."""

    def callback(pipe: StableDiffusionPipeline, step: int, t: torch.Tensor, values: dict) -> dict:
        pipe._interrupt = step + 1 >= calls
        return values

    return callback


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler: str) -> None:
    name, config, steps = SAMPLERS[sampler]
    scheduler = getattr(diffusers, name)
    guidance = [1.0, 7.5][list(SAMPLERS).index(sampler) % 2]  # off and on in turn
    run = {"num_inference_steps": steps, "guidance_scale": guidance, "callback_on_step_end": stop_after(4)}
    PIPE.scheduler = scheduler.from_config({**STOCK_SCHEDULER.config, **config})
    with masked_by_hooks(PLAN) as visited:
        expected = sample(**run)
    apply_plan(PIPE, PLAN)
    with counted() as calls:
        assert torch.equal(sample(**run), expected)
    assert sum(calls.values()) == sum(len(PLAN.active_layers(t)) for t in visited)


def test_the_scheduler_may_change_under_a_plan() -> None:
    apply_plan(PIPE, PLAN)
    config = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    PIPE.scheduler = diffusers.EulerDiscreteScheduler.from_config({**STOCK_SCHEDULER.config, **config})
    with counted() as calls:
        sample(num_inference_steps=2)  # t = 999 and 0, given as 0.25 log sigma
    assert sum(calls.values()) == len(PLAN.active_layers(999)) + len(PLAN.active_layers(0))
    PIPE.scheduler = diffusers.EDMEulerScheduler()
    with pytest.raises(PlanError, match="EDMEulerScheduler does not count timesteps"):
        sample(num_inference_steps=2)


def test_the_overflow_of_an_offset_schedule() -> None:
    """PNDM and DDIM with steps_offset = 1 ask for t = 1000 at 1000 steps; the last expert serves it."""
    with masked_by_hooks(PLAN) as visited:
        expected = denoise(torch.tensor(1000))
    assert visited == [999]
    apply_plan(PIPE, PLAN)
    PIPE.scheduler.set_timesteps(1000)
    assert PIPE.scheduler.timesteps[0] == 1000
    assert torch.equal(denoise(PIPE.scheduler.timesteps[0]), expected)


def test_callbacks_see_every_step() -> None:
    apply_plan(PIPE, PLAN)
    seen = []
    sample(callback_on_step_end=lambda pipe, step, t, values: seen.append(int(t)) or values)
    assert seen == [751, 501, 501, 251, 1]


@pytest.mark.parametrize("apply_to_img2img", [True, False])
def test_image_to_image(apply_to_img2img: bool) -> None:
    img2img = StableDiffusionImg2ImgPipeline(**PIPE.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    image = Image.new("RGB", (32, 32), "red")
    with masked_by_hooks(PLAN) as visited:
        expected = sample(img2img, image=[image] * 2, strength=0.5)
    assert len(visited) == 3  # PNDM: 5 calls of which the first two are left out
    apply_plan(img2img if apply_to_img2img else PIPE, PLAN)
    assert torch.equal(sample(img2img, image=[image] * 2, strength=0.5), expected)
