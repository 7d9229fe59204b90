"""ExpertPlan: counted by hand, saved and loaded, corrected to a target, and refused when it does not fit."""

import json
from itertools import combinations

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan, PlanError
from alter_lib.backbones import wrap
from alter_lib.plan import CostTable
from alter_lib.plan.correction import smallest_subset

PIPELINE = tiny_pipeline()
BACKBONE = wrap(PIPELINE)
N_L = len(BACKBONE.layers)


def small_plan(masks: list[str], routing: list[int], costs: list[int], fixed: int, **details: object) -> ExpertPlan:
    denominator = details.pop("denominator", "total")
    return ExpertPlan(
        masks=torch.tensor([[bit == "1" for bit in mask] for mask in masks]),
        routing=torch.tensor(routing),
        layer_names=tuple(f"layer.{i}" for i in range(len(costs))),
        cost=CostTable(tuple(costs), fixed, "linear+conv", (8, 8), denominator),
        backbone_class="UNet2DConditionModel",
        architecture_hash="0" * 64,
        **details,
    )


@st.composite
def plans(draw: st.DrawFn, experts: int = 4, layers: int = 8, timesteps: int = 40) -> ExpertPlan:
    n_e, n_l = draw(st.integers(1, experts)), draw(st.integers(1, layers))
    return small_plan(
        draw(st.lists(st.text("01", min_size=n_l, max_size=n_l), min_size=n_e, max_size=n_e)),
        draw(st.lists(st.integers(0, n_e - 1), min_size=1, max_size=timesteps)),
        draw(st.lists(st.integers(1, 50), min_size=n_l, max_size=n_l)),
        draw(st.integers(0, 100)),
        denominator=draw(st.sampled_from(["total", "prunable"])),
        target_ratio=draw(st.none() | st.floats(0.1, 1)),
        provenance=draw(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=2)),
    )


HAND = small_plan(["1100", "0111"], [0, 0, 0, 1], [10, 20, 30, 40], fixed=100)


def test_ratio_by_hand() -> None:
    # expert 0 runs 100 + 10 + 20 = 130 of 200, expert 1 100 + 20 + 30 + 40 = 190; three timesteps and one
    assert HAND.expert_macs() == [130, 190]
    assert HAND.macs_ratio() == pytest.approx((3 * 130 + 190) / (4 * 200))
    assert HAND.macs_ratio([0, 3, 3]) == pytest.approx((130 + 2 * 190) / (3 * 200))
    assert HAND.macs_ratio(costs=CostTable((1, 1, 1, 1), 0, "linear+conv", (4, 4))) == pytest.approx(9 / 16)
    prunable = small_plan(["1100", "0111"], [0, 0, 0, 1], [10, 20, 30, 40], fixed=100, denominator="prunable")
    assert prunable.macs_ratio() == pytest.approx((3 * 30 + 90) / (4 * 100))


def test_active_layers() -> None:
    assert HAND.active_layers(0) == ("layer.0", "layer.1")
    assert HAND.active_layers(3) == ("layer.1", "layer.2", "layer.3")
    for t in (-1, 4):
        with pytest.raises(PlanError, match=f"timestep: {t} is outside 0..3"):
            HAND.active_layers(t)


@given(plans())
@settings(max_examples=50, deadline=None)
def test_ratio_is_the_mean_over_timesteps(plan: ExpertPlan) -> None:
    """Paper B.2: S(m_t) = sum_l m_l c_l / sum_l c_l, averaged over t."""
    shares = []
    for t in range(plan.num_train_timesteps):
        macs = sum(
            c for name, c in zip(plan.layer_names, plan.cost.layers, strict=True) if name in plan.active_layers(t)
        )
        shares.append((plan.cost.always + macs) / plan.cost.whole)
    assert plan.macs_ratio() == pytest.approx(sum(shares) / len(shares))


@given(plans())
@settings(max_examples=50, deadline=None)
def test_save_load_is_identity(tmp_path_factory: pytest.TempPathFactory, plan: ExpertPlan) -> None:
    folder = tmp_path_factory.mktemp("plan")
    plan.save(folder)
    for path in (folder, folder / "plan.json"):
        loaded = ExpertPlan.load(path)
        assert loaded == plan
        assert torch.equal(loaded.masks, plan.masks) and torch.equal(loaded.routing, plan.routing)
    assert [file.name for file in folder.iterdir()] == ["plan.json"]


def test_file_format(tmp_path: pytest.TempPathFactory) -> None:
    HAND.save(tmp_path / "a" / "other.json")
    content = json.loads((tmp_path / "a" / "other.json").read_text())
    assert content["format"] == "alter-plan/1"
    assert content["experts"] == ["1100", "0111"]
    assert content["routing"] == [[0, 2, 0], [3, 3, 1]]
    assert content["layers"][3] == {"name": "layer.3", "cost": 40}
    assert content["cost"]["fixed"] == 100 and content["cost"]["total"] == 200
    assert content["achieved_ratio"] == pytest.approx(0.725)


DAMAGE = {
    "missing key": (lambda c: c.pop("experts"), "experts: Field required"),
    "unknown key": (lambda c: c.update(expert=[]), "expert: Extra inputs"),
    "other format": (lambda c: c.update(format="alter-plan/9"), "format: .*'alter-plan/9'"),
    "not a bit": (lambda c: c["experts"].__setitem__(1, "01x1"), r"experts\.1: .*'01x1'"),
    "short mask": (lambda c: c["experts"].__setitem__(0, "110"), r"experts\.0: 3 bits, .* 4 layers"),
    "edited mask": (lambda c: c["experts"].__setitem__(0, "1110"), "achieved_ratio: 0.725, but .* 0.8375"),
    "edited cost": (lambda c: c["layers"][0].update(cost=11), "cost.total: 200, but .* 201"),
    "negative cost": (lambda c: c["layers"][0].update(cost=-1), r"layers\.0\.cost: .*-1"),
    "float cost": (lambda c: c["cost"].update(fixed=1.5), r"cost\.fixed: .*1\.5"),
    "overlap": (lambda c: c["routing"].__setitem__(1, [2, 3, 1]), r"routing: row \[2, 3, 1\] overlaps"),
    "gap": (lambda c: c["routing"].__setitem__(0, [0, 1, 0]), "routing: timesteps 2..2 are missing"),
    "short": (lambda c: c["routing"].pop(), "routing: timesteps 3..3 are missing"),
    "past the end": (
        lambda c: c["routing"].__setitem__(1, [3, 4, 1]),
        r"routing: row \[3, 4, 1\] must lie within",
    ),
    "no such expert": (
        lambda c: c["routing"].__setitem__(1, [3, 3, 2]),
        "routing: expert 2, .* experts 0..1",
    ),
    "name twice": (lambda c: c["layers"][0].update(name="layer.1"), "layers: a name stands twice"),
    "target": (lambda c: c.update(target_ratio=1.5), r"target_ratio: .*1\.5"),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_files_are_refused(tmp_path: pytest.TempPathFactory, damage: object, message: str) -> None:
    content = HAND.to_dict()
    damage(content)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PlanError, match=message) as error:
        ExpertPlan.load(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_missing_truncated_and_non_json_files(tmp_path: pytest.TempPathFactory) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(PlanError, match="no such file"):
        ExpertPlan.load(tmp_path)
    HAND.save(path)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(PlanError, match="truncated"):
        ExpertPlan.load(path)
    path.write_text("[]")
    with pytest.raises(PlanError, match="file: "):
        ExpertPlan.load(path)


def test_shapes_are_checked() -> None:
    for masks, message in (([True, False], "experts: shape"), ([[True] * 3], "experts: shape")):
        with pytest.raises(PlanError, match=message):
            ExpertPlan(torch.tensor(masks), HAND.routing, HAND.layer_names, HAND.cost, "UNet2DConditionModel", "0")
    with pytest.raises(PlanError, match="none given"):
        HAND.macs_ratio([])
    with pytest.raises(PlanError, match="costs: 1 layers"):
        HAND.macs_ratio(costs=CostTable((1,), 0, "linear+conv", (4, 4)))


def test_for_backbone_and_validate() -> None:
    plan = ExpertPlan.for_backbone(BACKBONE, torch.ones(2, N_L, dtype=torch.bool), torch.zeros(1000, dtype=torch.int64))
    assert plan.achieved_ratio == 1.0 and plan.cost.total == BACKBONE.total_macs
    plan.validate(BACKBONE)
    plan.validate(BACKBONE.denoiser)
    with pytest.raises(PlanError, match="num_train_timesteps: the plan has 999, the backbone 1000"):
        ExpertPlan.for_backbone(BACKBONE, plan.masks, plan.routing[:999])
    with pytest.raises(PlanError, match="experts: shape"):
        ExpertPlan.for_backbone(BACKBONE, plan.masks[:, 1:], plan.routing)


def test_wrong_backbone_is_refused() -> None:
    plan = ExpertPlan.for_backbone(BACKBONE, torch.ones(1, N_L, dtype=torch.bool), torch.zeros(1000, dtype=torch.int64))
    wider = UNet2DConditionModel.from_config({**PIPELINE.unet.config, "block_out_channels": (8, 16, 24, 24)})
    with pytest.raises(PlanError, match="backbone.architecture_hash: .* another width"):
        plan.validate(wider)
    with pytest.raises(PlanError, match="backbone.class: the plan is for UNet2DConditionModel, this is Linear"):
        plan.validate(torch.nn.Linear(1, 1))
    names = (*plan.layer_names[:3], "mid_block.resnets.9", *plan.layer_names[4:])
    with pytest.raises(PlanError, match="layers: the plan has mid_block.resnets.9, the backbone"):
        ExpertPlan(plan.masks, plan.routing, names, plan.cost, plan.backbone_class, plan.architecture_hash).validate(
            PIPELINE.unet
        )


@given(st.lists(st.integers(-20, 20).filter(bool), max_size=9), st.integers(-40, 40), st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_smallest_subset_against_all_subsets(values: list[int], low: int, width: int) -> None:
    values = sorted(values, reverse=True)
    fits = [
        size
        for size in range(len(values) + 1)
        if any(low <= sum(chosen) <= low + width for chosen in combinations(values, size))
    ]
    found = smallest_subset(values, low, low + width)
    assert (found is None) == (not fits)
    if found is not None:
        assert len(set(found)) == len(found) == fits[0]
        assert low <= sum(values[i] for i in found) <= low + width


@given(st.integers(0, 2**31), st.floats(0.3, 0.95), st.sampled_from(["total", "prunable"]), st.integers(3, 10))
@settings(max_examples=20, deadline=None)
def test_correction_reaches_the_target(seed: int, target: float, denominator: str, num_experts: int) -> None:
    random = torch.Generator().manual_seed(seed)
    masks = torch.rand(num_experts, N_L, generator=random) < 0.7
    routing = torch.randint(num_experts, (1000,), generator=random)
    plan = ExpertPlan.for_backbone(BACKBONE, masks, routing, denominator=denominator)
    corrected = plan.corrected(target)
    assert abs(corrected.achieved_ratio - target) <= 0.01 * target + 1e-12
    assert torch.equal(corrected.routing, plan.routing) and corrected.target_ratio == target
    flipped = int((corrected.masks ^ plan.masks).sum())
    # no fewer flips can do: even the largest ones together stay short of the window
    gap = abs(plan.achieved_ratio - target) - 0.01 * target
    served = torch.bincount(routing, minlength=num_experts)[:, None].double()
    weights = served * torch.tensor(plan.cost.layers).double() / (1000 * plan.cost.whole)
    towards = plan.masks if plan.achieved_ratio > target else ~plan.masks
    assert flipped == 0 or weights[towards].sort(descending=True).values[: flipped - 1].sum() < gap


def test_correction_leaves_a_plan_on_target_alone_and_refuses_the_impossible() -> None:
    plan = small_plan(["1100"], [0], [10, 20, 30, 40], fixed=100, target_ratio=0.65)
    assert plan.corrected() is plan
    assert plan.corrected(0.8).masks.tolist() in ([[True, True, True, False]], [[False, True, False, True]])
    with pytest.raises(PlanError, match="no masks .* give 0.4 within 1.0%; the plan has 0.6500"):
        plan.corrected(0.4)
    with pytest.raises(PlanError, match="target_ratio: 1.2"):
        plan.corrected(1.2)
    with pytest.raises(PlanError, match="the plan has none"):
        HAND.corrected()
