"""A plan from wherever one lies: a file, an artefact, or a checkpoint of a training that may still run."""

from dataclasses import replace
from pathlib import Path

from ..backbones import load_backbone
from ..params import load_params
from ..plan import ExpertPlan
from ..plan.file import PlanError
from ..studies import hypernetwork
from . import checkpoints


def plan_at(source: str | Path) -> ExpertPlan:
    """The plan of a plan.json, of a folder that holds one, or of a checkpoint, runs/<name>/checkpoints/step-000200.

    A checkpoint's plan is the one kept at T_end, before that the hypernetwork's evaluation-mode one; the backbone that
    its run names is loaded for it, on the CPU. Raises PlanError where there is no plan or the checkpoint is damaged.
    """
    folder = Path(source)
    if not (folder / checkpoints.STATE).exists():
        return ExpertPlan.load(folder)
    if reason := checkpoints.damage(folder):
        raise PlanError(f"{folder}: damaged checkpoint: {reason}")
    state = checkpoints.state(folder)
    params = load_params(state["params"])
    backbone = load_backbone(params.backbone, device="cpu", cost=params.cost)
    net, e_t = hypernetwork(params, backbone)
    learned = checkpoints.tensors(folder, "hypernetwork")
    dtype = next(iter(learned.values())).dtype
    net.to(dtype).load_state_dict(learned)
    plan = net.plan(backbone, e_t.to(dtype), target_ratio=params.loss.target_ratio, denominator=params.cost.denominator,
                    provenance={"training_step": state["step"]})  # fmt: skip
    kept = checkpoints.tensors(folder, "plan") if (folder / "plan.safetensors").exists() else {}
    return replace(plan, **kept)
