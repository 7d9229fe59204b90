"""Timesteps of real schedulers, mapped to 0..T-1 by each one's own rule, and read without a synchronisation a step."""

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alter_lib import PlanError
from alter_lib.plan.schedules import HostTimesteps, timestep_index, visited_timesteps

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
CONTINUOUS = {"timestep_type": "continuous", "prediction_type": "v_prediction"}


def scheduler(name: str, **config: object) -> diffusers.SchedulerMixin:
    return getattr(diffusers, name)(**{**BETAS, **config})


PNDM = scheduler("PNDMScheduler", skip_prk_steps=True, steps_offset=1)


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
@given(t=st.integers(0, 999))
def test_integers_stand_for_themselves(name: str, t: int) -> None:
    assert timestep_index(t, 1000, scheduler(name)) == timestep_index(float(t), 1000) == t


def test_rounding_clamping_and_refusal() -> None:
    assert timestep_index(1000, 1000, PNDM) == 999  # steps_offset at T steps
    assert [timestep_index(t, 1000) for t in (0.4, 0.5, 1.49, 998.5, 999.5, -0.3)] == [0, 1, 1, 999, 999, 0]
    for t in (-1, 1001, -0.6):
        with pytest.raises(PlanError, match="is outside 0..999"):
            timestep_index(t, 1000)


def test_visited_timesteps_by_hand() -> None:
    # PLMS repeats the second step: 21 calls for 20 steps of 50
    assert visited_timesteps(PNDM, 20) == [951, 901, 901, *range(851, 0, -50)]
    assert len(visited_timesteps(PNDM, 50)) == 51
    assert visited_timesteps(scheduler("DDIMScheduler", steps_offset=1), 4) == [751, 501, 251, 1]
    assert visited_timesteps(scheduler("EulerDiscreteScheduler"), 3) == [999, 500, 0]  # 999, 499.5, 0
    assert len(visited_timesteps(scheduler("HeunDiscreteScheduler"), 20)) == 39
    assert visited_timesteps(PNDM, 10, strength=0.3) == visited_timesteps(PNDM, 10)[7:]


def test_every_training_timestep_is_visited_at_1000_steps() -> None:
    assert visited_timesteps(scheduler("DDIMScheduler"), 1000) == list(range(999, -1, -1))
    offset = visited_timesteps(scheduler("DDIMScheduler", steps_offset=1), 1000)
    assert offset == [999, *range(999, 0, -1)]  # t = 1000 is clamped
    assert max(visited_timesteps(PNDM, 1000)) == 999


SAMPLERS = [
    ("DPMSolverMultistepScheduler", {}), ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverSinglestepScheduler", {}), ("UniPCMultistepScheduler", {}), ("DEISMultistepScheduler", {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("EulerAncestralDiscreteScheduler", {}), ("LMSDiscreteScheduler", {}), ("KDPM2DiscreteScheduler", {}),
    ("DDPMScheduler", {"timestep_spacing": "leading", "steps_offset": 1}), ("LCMScheduler", {}), ("TCDScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": False}),
]  # fmt: skip


@pytest.mark.parametrize("name, config", SAMPLERS)
def test_visited_timesteps_are_the_schedule_rounded(name: str, config: dict) -> None:
    sampler = scheduler(name, **config)
    before = sampler.timesteps
    visited = visited_timesteps(sampler, 10)
    assert sampler.timesteps is before  # the pipeline's scheduler is left alone
    sampler.set_timesteps(10)
    assert len(visited) == len(sampler.timesteps)
    assert all(abs(a - b) <= 0.5 for a, b in zip(visited, sampler.timesteps.tolist(), strict=True))


def test_continuous_euler_goes_back_through_sigma() -> None:
    """0.25 log sigma at training timestep t must come back as t."""
    continuous, discrete = scheduler("EulerDiscreteScheduler", **CONTINUOUS), scheduler("EulerDiscreteScheduler")
    for steps in (7, 20, 1000):
        assert visited_timesteps(continuous, steps) == visited_timesteps(discrete, steps)
    continuous.set_timesteps(5)
    assert continuous.timesteps[-1] < 0  # its own units: nothing that could be rounded


def test_flow_matching() -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    assert visited_timesteps(flow, 4) == [999, 667, 334, 1]  # 1000, 667, 334, 1
    with pytest.raises(PlanError, match="0.5 under FlowMatchEulerDiscreteScheduler looks like t / 1000"):
        timestep_index(0.5, 1000, flow)


@pytest.mark.parametrize(
    "name", ["EDMEulerScheduler", "CMStochasticIterativeScheduler", "SCMScheduler", "IPNDMScheduler"]
)
def test_schedulers_in_other_units_are_refused(name: str) -> None:
    with pytest.raises(PlanError, match=f"scheduler: {name} does not count timesteps"):
        timestep_index(1, 1000, getattr(diffusers, name)())


def test_another_number_of_train_timesteps_is_refused() -> None:
    with pytest.raises(PlanError, match="DDIMScheduler has num_train_timesteps 500, the plan 1000"):
        timestep_index(1, 1000, scheduler("DDIMScheduler", num_train_timesteps=500))


def test_numbers_and_cpu_tensors_are_read_as_they_are() -> None:
    host = HostTimesteps()
    assert host.read(7) == [7] and host.read(torch.tensor(7.5)) == [7.5]
    assert host.read(torch.tensor([1, 2])) == [1, 2]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_the_schedule_is_copied_once(dtype: torch.dtype) -> None:
    """What a pipeline passes, from a schedule on a device: elements, slices of image-to-image, expanded elements."""
    host, schedule = HostTimesteps(), torch.tensor([951, 901, 901, 851, 1], dtype=dtype)
    assert host.look_up(schedule[0]) == [951]
    copy = host._schedule
    for t, value in zip(schedule[2:], (901, 851, 1), strict=True):
        assert host.look_up(t) == host.look_up(t[None]) == host.look_up(t.expand(6)) == [value]
    assert host.look_up(schedule[1::2]) == [901, 851]
    assert host._schedule is copy
    schedule[4] = 3  # a schedule that is written to, or another one, is read again
    assert host.look_up(schedule[4]) == [3]
    assert host.look_up(torch.tensor([5, 4], dtype=dtype)[1]) == [4]
