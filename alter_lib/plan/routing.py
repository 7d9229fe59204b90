"""Routing without flicker: the nearest one that has few intervals. A learned router may change the expert from timestep
to timestep; whether that helps or hurts is a factor of the study (`training.routing_intervals`)."""

from dataclasses import replace

import numpy as np
import torch

from .expert_plan import ExpertPlan


def snapped(plan: ExpertPlan, num_intervals: int) -> ExpertPlan:
    """The plan with at most `num_intervals` intervals of timesteps; of all those routings the one that keeps the
    expert of the most timesteps. Masks stay as they are, so the ratio may change."""
    routing = nearest_intervals(plan.routing.numpy(), plan.num_experts, num_intervals)
    return replace(plan, routing=torch.from_numpy(routing))


def nearest_intervals(routing: np.ndarray, num_experts: int, num_intervals: int) -> np.ndarray:
    """A routing [T] of at most `num_intervals` intervals that agrees with `routing` [T] at the most timesteps.

    Dynamic program: kept[k, i] counts the agreements up to t of the best routing in k + 1 intervals whose last expert
    is i.
    """
    impossible, experts = -len(routing) - 1, np.arange(num_experts)
    kept = np.full((num_intervals, num_experts), impossible)
    kept[0] = routing[0] == experts
    entered = np.zeros((len(routing), num_intervals, num_experts), bool)  # an interval of expert i begins at t
    before = np.zeros((len(routing), num_intervals), int)  # and the expert of the interval that it follows
    for t in range(1, len(routing)):
        before[t, 1:] = kept[:-1].argmax(1)
        entering = np.concatenate([[impossible], kept[:-1].max(1)])[:, None]
        entered[t] = entering > kept
        kept = np.maximum(kept, entering) + (routing[t] == experts)
    k = kept.max(1).argmax()  # the first, so the fewest intervals, among equals
    i, found = kept[k].argmax(), np.empty(len(routing), np.int64)
    for t in reversed(range(len(routing))):
        found[t] = i
        if entered[t, k, i]:
            i, k = before[t, k], k - 1
    return found
