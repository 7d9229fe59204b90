"""The what-if panel draws the same seeds before and after an edit, with the sampler that is chosen beside it."""

import re

import numpy as np
import pytest
import torch
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan, apply_plan
from alter_lib.backbones import wrap
from alter_lib.inference.patching import patch_of
from alter_lib.params import Sampling
from alter_lib.widgets import MaskInspector

SAMPLING = Sampling(steps=2, guidance_scale=1.0, seed=7)


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_dit_pipeline])
def test_edits_change_the_pictures_and_leave_the_pipeline_as_it_was(make) -> None:
    backbone = wrap(make())
    masks = torch.ones(2, len(backbone.layers), dtype=torch.bool)
    plan = ExpertPlan.for_backbone(backbone, masks, torch.arange(backbone.num_train_timesteps) % 2)
    inspector = MaskInspector(plan, backbone.pipeline, SAMPLING)
    panel = inspector.what_if
    apply_plan(backbone.pipeline, plan)
    same = panel._draw(plan)
    np.testing.assert_array_equal(panel._draw(panel.plan), same)  # not edited yet; the same seeds again
    inspector.edit.value = True
    for toggle in panel.layers[:4]:
        toggle.value = False
    panel.interval.value, panel.target.value = (0, backbone.num_train_timesteps - 1), inspector.expert.value
    panel.reroute.click()
    assert (panel._draw(panel.plan) != same).any()
    assert patch_of(backbone.pipeline).plan == plan  # the plan that was applied before
    panel.generate.click()
    assert not panel.generate.disabled
    assert re.search(r'alt="seeds 0 to 3, above before and below after the edits" src="data:image/png;base64,iVBOR',
                     panel.pictures.value)  # fmt: skip


def test_a_plan_of_another_backbone_is_one_line() -> None:
    ours, other = wrap(tiny_pipeline()), wrap(tiny_dit_pipeline())
    masks, routing = torch.ones(1, len(other.layers), dtype=torch.bool), torch.zeros(1000, dtype=torch.int64)
    panel = MaskInspector(ExpertPlan.for_backbone(other, masks, routing), ours.pipeline, SAMPLING).what_if
    panel.generate.click()
    assert "Not drawn. plan: backbone.class: the plan is for DiTTransformer2DModel" in panel.said.value
    assert patch_of(ours.pipeline) is None and panel.pictures.value == ""


def test_the_chosen_sampler_draws() -> None:
    backbone = wrap(tiny_pipeline())
    masks, routing = torch.ones(1, len(backbone.layers), dtype=torch.bool), torch.zeros(1000, dtype=torch.int64)
    inspector = MaskInspector(ExpertPlan.for_backbone(backbone, masks, routing), backbone.pipeline, SAMPLING)
    by_own = inspector.what_if._draw(inspector.plan)
    inspector.sampler.scheduler.value, inspector.sampler.steps.value = "DDIMScheduler", 3
    assert (inspector.what_if._draw(inspector.plan) != by_own).any()
    drawn_with = inspector.sampler.sampling
    assert (drawn_with.scheduler, drawn_with.steps, drawn_with.guidance_scale, drawn_with.seed) == (
        "DDIMScheduler", 3, 1.0, 7
    )  # fmt: skip
