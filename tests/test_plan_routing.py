"""Snapped routing: against all routings of a small case, and what holds for every one."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan
from alter_lib.backbones import wrap
from alter_lib.plan.routing import nearest_intervals, snapped

routings = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(np.array)


def intervals(routing: np.ndarray) -> int:
    return 1 + int((np.diff(routing) != 0).sum())


@given(routings, st.integers(1, 4))
def test_no_routing_of_so_few_intervals_agrees_more(routing: np.ndarray, count: int) -> None:
    found = nearest_intervals(routing, 3, count)
    rivals = (np.array(each) for each in product(range(3), repeat=len(routing)))
    best = max((rival == routing).sum() for rival in rivals if intervals(rival) <= count)
    assert intervals(found) <= count and (found == routing).sum() == best


@given(routings)
def test_enough_intervals_change_nothing(routing: np.ndarray) -> None:
    assert np.array_equal(nearest_intervals(routing, 3, intervals(routing)), routing)
    assert np.array_equal(nearest_intervals(routing, 3, 50), routing)


def test_a_flicker_goes_and_the_intervals_stay() -> None:
    routing = np.repeat([4, 1, 7], 300)
    flickering = routing.copy()
    flickering[[10, 290, 450, 451, 800]] = [1, 7, 4, 7, 0]
    assert np.array_equal(nearest_intervals(flickering, 10, 3), routing)


def test_a_snapped_plan_keeps_its_masks_and_is_recounted() -> None:
    backbone = wrap(tiny_pipeline())
    masks = torch.ones(2, len(backbone.layers), dtype=torch.bool)
    masks[1, ::2] = False
    routing = torch.cat([torch.zeros(500, dtype=torch.int64), torch.arange(500) % 2])
    plan = ExpertPlan.for_backbone(backbone, masks, routing, 0.65)
    found = snapped(plan, 1)
    assert torch.equal(found.masks, plan.masks) and found.routing.unique().tolist() == [0]
    assert plan.achieved_ratio < 1 and found.achieved_ratio == 1 and found.target_ratio == 0.65


@pytest.mark.parametrize("count", [1, 3])
def test_one_expert_has_one_interval(count: int) -> None:
    assert nearest_intervals(np.zeros(5, int), 1, count).tolist() == [0] * 5
