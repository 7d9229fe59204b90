"""Between an ExpertPlan and the content of its plan.json."""

from typing import Any

import torch

from .costs import CostTable
from .expert_plan import ExpertPlan
from .file import FORMAT, PlanError, PlanFile, decode_routing, encode_routing, shown


def content_of(plan: ExpertPlan) -> dict[str, Any]:
    """What plan.json holds; the optional keys only where they say something."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "backbone": {"class": plan.backbone_class, "architecture_hash": plan.architecture_hash},
        "num_train_timesteps": plan.num_train_timesteps,
        "cost": {"unit": "macs", **counted(plan.cost), "total": plan.cost.total},
        "layers": [{"name": name, "cost": macs} for name, macs in zip(plan.layer_names, plan.cost.layers, strict=True)],
        "experts": ["".join("1" if runs else "0" for runs in mask) for mask in plan.masks.tolist()],
        "routing": encode_routing(plan.routing.tolist()),
        "target_ratio": plan.target_ratio,
        "achieved_ratio": plan.achieved_ratio,
        "provenance": plan.provenance,
    }
    if plan.latency:
        measured = {"device": plan.latency.device, "layers": list(plan.latency.layers)}
        content["latency"] = {"unit": "ns", **counted(plan.latency), **measured}
    return content | ({"dropped_layers": list(plan.dropped_layers)} if plan.dropped_layers else {})


def counted(costs: CostTable) -> dict[str, Any]:
    """How costs were counted, and what no plan can save."""
    return {
        "convention": costs.convention,
        "resolution": list(costs.resolution),
        "denominator": costs.denominator,
        "fixed": costs.fixed,
    }


def checked(plan_class: type[ExpertPlan], content: PlanFile) -> ExpertPlan:
    """The plan of a file's content. Raises PlanError, naming the key, for parts that don't fit together."""
    cost, names = content.cost, tuple(layer.name for layer in content.layers)
    for i, bits in enumerate(content.experts):
        if len(bits) != len(names):
            raise PlanError(f"experts.{i}: {len(bits)} bits, expected one for each of the {len(names)} layers")
    if unknown := [name for name in content.dropped_layers if name not in names]:
        raise PlanError(f"dropped_layers: {shown(unknown[0])} is not among the layers")
    plan = plan_class(
        masks=torch.tensor([[bit == "1" for bit in bits] for bits in content.experts]),
        routing=torch.tensor(decode_routing(content.routing, content.num_train_timesteps)),
        layer_names=names,
        cost=CostTable(tuple(layer.cost for layer in content.layers), cost.fixed, cost.convention, cost.resolution,
                       cost.denominator),
        backbone_class=content.backbone.class_name,
        architecture_hash=content.backbone.architecture_hash,
        target_ratio=content.target_ratio,
        provenance=content.provenance,
        latency=latency_table(content),
        dropped_layers=tuple(content.dropped_layers),
    )  # fmt: skip
    check_costs(plan, content)
    return plan


def check_costs(plan: ExpertPlan, content: PlanFile) -> None:
    """Raises PlanError where the sums that a file holds are not those of its layers, masks and routing."""
    if plan.cost.total != content.cost.total:
        raise PlanError(f"cost.total: {content.cost.total}, but fixed and layers add up to {plan.cost.total}")
    if plan.cost.whole == 0 or plan.budget.whole == 0:
        raise PlanError("layers: no cost in the denominator, a ratio needs one")
    if abs(plan.achieved_ratio - content.achieved_ratio) > 1e-6:
        raise PlanError(
            f"achieved_ratio: {content.achieved_ratio}, but masks, routing and costs give {plan.achieved_ratio:.6f}"
        )


def latency_table(content: PlanFile) -> CostTable | None:
    if (found := content.latency) is None:
        return None
    return CostTable(tuple(found.layers), found.fixed, found.convention, found.resolution, found.denominator,
                     "latency", found.device)  # fmt: skip
