"""Greedy plans: which layer leaves next, how intervals share a budget, against search over everything."""

from itertools import product

import pytest
import torch
from tiny_sd_pipeline import tiny_pipeline
from tiny_training import RandomBatches

from alter_lib import baselines, greedy, skipping
from alter_lib.backbones import wrap
from alter_lib.params import Loss
from alter_lib.training.objective import Objective


class Additive:
    """An error that each skipped layer adds its own share to, and a pair of layers more: [N_i, N_L], (a, b): extra."""

    def __init__(self, own: list[list[float]], pairs: dict[tuple[int, int], float]) -> None:
        self.own, self.pairs, self.num_intervals = torch.tensor(own), pairs, len(own)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        gone = ~masks
        extra = sum(value * (gone[:, a] & gone[:, b]) for (a, b), value in self.pairs.items())
        return (self.own * gone).sum(1) + extra


def test_a_layer_leaves_by_what_it_costs_beside_those_that_have_left():
    """Alone, 0 and 1 are the cheapest two. Once 0 has left, 1 costs 1 + 10, so 2 goes second, and 1 last."""
    found = greedy.eliminate(Additive([[0.5, 1.0, 3.0, 4.0]], {(0, 1): 10.0}), torch.ones(4))
    assert found.order.tolist() == [[0, 2, 3, 1]]
    assert found.errors.tolist() == [[0.0, 0.5, 3.5, 7.5, 18.5]]
    assert found.masks(torch.tensor([2])).tolist() == [[False, True, False, True]]


def test_macs_count_and_each_interval_has_its_own_order():
    """Error for MACs: 1 / 4 before 0.5 / 1 in the first interval; the second one turns it around."""
    found = greedy.eliminate(Additive([[1.0, 0.5], [4.0, 0.1]], {}), torch.tensor([4.0, 1.0]))
    assert found.order.tolist() == [[0, 1], [1, 0]]


def test_intervals_share_a_budget_as_a_search_over_all_choices_would():
    random = torch.Generator().manual_seed(0)
    errors = torch.rand(3, 5, generator=random, dtype=torch.float64).sort(1).values.cumsum(1)  # convex
    errors -= errors[:, :1].clone()
    active = torch.linspace(1, 0, 5, dtype=torch.float64).repeat(3, 1)
    dropped = greedy.cheapest(errors, active, 0.5)
    choices = [k for k in product(range(5), repeat=3) if sum(k) >= 6]  # at most half of the twelve stay
    best = min(choices, key=lambda k: sum(errors[i, k[i]] for i in range(3)))
    assert dropped.tolist() == list(best)


def test_an_interval_that_needs_more_gets_more():
    errors = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.0, 5.0, 10.0, 15.0]])
    active = torch.linspace(1, 0.1, 4).repeat(2, 1)
    first, second = greedy.cheapest(errors, active, 0.6).tolist()
    assert first == 3 and second <= 1


@pytest.mark.parametrize("num_intervals", [1, 2])
def test_the_error_of_masks_is_that_of_forwards_without_the_layers(num_intervals):
    backbone = wrap(tiny_pipeline())
    unet = backbone.denoiser.eval()
    objective = Objective(unet, unet, backbone.pipeline.scheduler.config, Loss())
    batches = list(baselines.evenly_timed(RandomBatches(), 4, 1000, 8))
    error = greedy.SkippingError.on(backbone, objective, batches, num_intervals)
    masks = torch.ones(num_intervals, len(backbone.layers), dtype=torch.bool)
    masks[:, 1] = masks[-1, 3] = False
    found, modules = error(masks), [layer.module for layer in backbone.layers]
    for index in range(num_intervals):
        changes = []
        for noised in map(objective.noise, batches):
            with torch.no_grad():
                whole = objective.run(unet, noised)[0]
                skipped = objective.run(unet, noised, skipping.sub_batch(modules, masks[index].repeat(4, 1)))[0]
            here = noised.timesteps * num_intervals // 1000 == index
            changes += (skipped - whole)[here].square().mean((1, 2, 3)).tolist()
        assert found[index].item() == pytest.approx(sum(changes) / len(changes), rel=1e-4)
        assert found[index] > 0
