"""MACs by each convention against the paper's printed figures; times and memory of whole images."""

import pytest
import torch
from tiny_dit_pipeline import tiny_dit_pipeline
from tiny_sd_pipeline import tiny_pipeline

from alter_lib.backbones import wrap
from alter_lib.backbones.macs import LINEAR_CONV, WITH_ATTENTION
from alter_lib.evaluation.cost import (
    PAPER,
    baseline_cost_metrics,
    baseline_macs,
    call_metrics,
    canonical,
    conventions,
    cost_metrics,
    counted,
    recounted,
    sampler_macs,
)
from alter_lib.evaluation.latency import REPEATS, time_metrics
from alter_lib.evaluation.methods import Method
from alter_lib.evaluation.paper_tables import paper_table
from alter_lib.params import ROOT, Params, load_params
from alter_lib.plan import ExpertPlan


@pytest.fixture(scope="module")
def backbone():
    return wrap(tiny_pipeline())


def params(**evaluation) -> Params:
    values = {f"evaluation.{key}": value for key, value in evaluation.items()}
    fixed = {"backbone.device": "cpu", "sampling.guidance_scale": 3.0, "evaluation.teacher_results": None}
    return load_params("params/tiny_sd.yaml", fixed | values)


def test_sd21_counts_what_the_paper_prints_in_both_of_its_conventions() -> None:
    config = (ROOT / "alter_lib" / "backbones" / "configs" / "sd21" / "unet.json").read_text()
    macs = {name: count[""] / 1e9 for name, count in counted("UNet2DConditionModel", config, (96, 96), 77).items()}
    table_2 = paper_table("2").loc[("SDv2.1", 50), "MACs T/image"] * 1000 / 50
    assert macs[LINEAR_CONV] == pytest.approx(table_2, rel=1e-3)
    assert macs[WITH_ATTENTION] == pytest.approx(1074.6, rel=1e-3)
    assert macs[PAPER] == pytest.approx(paper_table("1").loc[("SDv2.1", 25), "MACs G/step"], rel=3e-3)


@pytest.mark.parametrize(
    ("name", "row"), [("bk_sdm_v2_base", "BK-SDM-v2 Base"), ("bk_sdm_v2_small", "BK-SDM-v2 Small")]
)
def test_bk_sdm_s_released_configurations_count_what_table_1_prints(name: str, row: str) -> None:
    macs = baseline_macs(name, (96, 96))
    assert macs[PAPER] / 1e9 == pytest.approx(paper_table("1").loc[(row, 25), "MACs G/step"], rel=3e-3)
    assert macs[LINEAR_CONV] < macs[WITH_ATTENTION] < macs[PAPER]


def test_a_recount_is_the_backbone_s_own_count(backbone) -> None:
    for convention in (WITH_ATTENTION, LINEAR_CONV):
        own, again = wrap(backbone.pipeline, convention), recounted(backbone, convention)
        assert [layer.macs for layer in again.layers] == [layer.macs for layer in own.layers]
        assert (again.fixed_macs, again.macs_convention) == (own.fixed_macs, convention)
    paper, whole = recounted(backbone, PAPER), recounted(backbone, WITH_ATTENTION)
    assert paper.fixed_macs == whole.fixed_macs  # every attention lies in a prunable layer
    resnets = [(a.macs, b.macs) for a, b in zip(paper.layers, whole.layers, strict=True) if a.kind == "resnet"]
    assert resnets and all(a == b for a, b in resnets)


def test_cross_attention_as_self_attention_by_hand(backbone) -> None:
    """One transformer at 8 x 8: 64 queries against 16 tokens count as against 64, q k^T and its product with v."""
    counts = counted("UNet2DConditionModel", canonical(backbone.denoiser.config), (8, 8), 16)
    name, width = "down_blocks.0.attentions.0", 8
    more = counts[PAPER][name] - counts[WITH_ATTENTION][name]
    assert more == 2 * 64 * (64 - 16) * width


def test_a_plan_s_calls_are_averaged_over_the_visited_timesteps(backbone) -> None:
    masks = torch.ones(2, len(backbone.layers), dtype=torch.bool)
    masks[1] = False
    plan = ExpertPlan.for_backbone(backbone, masks, (torch.arange(1000) < 500).long())
    found = {m.macs_convention: m.value for m in call_metrics(params(), backbone, 4, "alter", plan)}
    assert list(found) == conventions(backbone) == [*[LINEAR_CONV, WITH_ATTENTION], PAPER]
    for convention, value in found.items():
        network = recounted(backbone, convention)
        # PNDM at 4 steps calls at 751, 501, 501, 251, 1: three of five with everything
        assert value == round((3 * network.total_macs + 2 * network.fixed_macs) / 5)


def test_a_dit_has_no_cross_attention() -> None:
    backbone = wrap(tiny_dit_pipeline())
    assert conventions(backbone) == [LINEAR_CONV, WITH_ATTENTION]
    own = recounted(backbone, WITH_ATTENTION)
    assert [layer.macs for layer in own.layers] == [layer.macs for layer in backbone.layers]


def test_a_baseline_s_image_costs_its_share_of_the_teacher_s(backbone) -> None:
    options = params(protocol="prompts", prompts="x", baselines=["bk_sdm_v2_small"], steps=[3])
    total = next(m for m in baseline_cost_metrics(options, backbone, "bk_sdm_v2_small") if m.name == "total_macs")
    per_call = baseline_macs("bk_sdm_v2_small", backbone.resolution)[WITH_ATTENTION]
    assert total.value == pytest.approx(4 * 2 * per_call, rel=1e-6)  # PNDM calls 4 times for 3 steps, guided
    assert sampler_macs(options, backbone, 3) == 8 * backbone.total_macs


def test_times_have_quantiles_and_say_what_was_timed(backbone) -> None:
    options = params(latency_batch_sizes=[1, 2], bootstrap=50)
    found = time_metrics(options, Method("teacher", backbone.pipeline, (1,)), 1)
    assert [(m.name, m.batch_size) for m in found] == [
        (name, size) for size in (1, 2) for name in ("latency", "throughput", "peak_memory")
    ]
    for latency, throughput, memory in (found[:3], found[3:]):
        assert latency.spread[0] <= latency.value <= latency.spread[1] and latency.n == REPEATS
        assert latency.interval[0] <= latency.value <= latency.interval[1]
        assert throughput.value == pytest.approx(latency.batch_size / latency.value)
        assert throughput.interval[0] <= throughput.value <= throughput.interval[1]
        assert memory.value > 1e7 and latency.device == memory.device
        for each in (latency, throughput, memory):
            assert (each.sampler, each.guidance_scale, each.resolution) == ("PNDMScheduler", 3.0, 32)
            assert (each.dtype, each.seed, each.steps) == ("float32", 0, 1)


def test_macs_are_of_the_latents_that_they_are_counted_at() -> None:
    """Whatever the pipeline draws at: 16 x 16 latents are 64 px here."""
    found = cost_metrics(params(), wrap(tiny_pipeline(), resolution=(16, 16)), 3)
    assert [(each.name, each.resolution, each.sampler) for each in found] == [("total_macs", 64, "PNDMScheduler")]
