"""The model card that save_pipeline writes beside the weights and their plan."""

from diffusers import DiffusionPipeline

from ..plan import ExpertPlan

TEMPLATE = """\
---
library_name: diffusers
tags: [alter, pruning, mixture-of-experts]
---

# {name}

**Without its plan this pipeline runs unpruned.** `plan.json` holds which layers each temporal expert runs and which
expert serves each timestep. The weights were fine-tuned under it; `DiffusionPipeline.from_pretrained` loads them
without complaint and without the plan.

```python
from alter_lib import doctor, load_pipeline

pipe = load_pipeline("{name}")  # this folder, or its hub id: weights and plan together
print(doctor(pipe))  # is the plan active, which layers are skipped, what it saves
```

On a pipeline that is already loaded: `apply_plan(pipe)`, off again with `remove_plan(pipe)`.

| | |
|---|---|
| method | ALTER: layer pruning and temporal expert routing (Yang et al., NeurIPS 2025, arXiv 2505.21817) |
| pipeline | {pipeline} |
| backbone | {backbone}, architecture {hash} |
| experts | {num_experts} over {num_layers} prunable layers |
| active MACs | {ratio:.2%} of {denominator}, averaged over all {timesteps} timesteps{target} |
{latency}| MACs of the whole network | {total:.4g} G a forward at batch 1, {height} x {width} latents ({convention}) |

| expert | share of the timesteps | layers that run | active MACs |
|---|---|---|---|
{experts}

{dropped}The ratio over the timesteps that a sampler visits, or at another resolution, differs: `doctor(pipe)` prints
it.
"""
DROPPED = """\
**{count} of {num_layers} layers are not in this folder**, since no expert runs them: {names}. Without its plan the
pipeline does not run at all; `load_pipeline` leaves them out.

"""
DENOMINATORS = {"total": "the whole network", "prunable": "the prunable layers"}


def model_card(pipe: DiffusionPipeline, plan: ExpertPlan, name: str) -> str:
    """Markdown: what the pipeline is, what it costs, and that it needs its plan."""
    served = plan.routing.bincount(minlength=plan.num_experts) / plan.num_train_timesteps
    rows = zip(served.tolist(), plan.masks.sum(1).tolist(), plan.expert_macs(), strict=True)
    cost = plan.cost
    return TEMPLATE.format(
        name=name,
        pipeline=type(pipe).__name__,
        backbone=plan.backbone_class,
        hash=plan.architecture_hash[:12],
        num_experts=plan.num_experts,
        num_layers=len(plan.layer_names),
        ratio=plan.macs_ratio(),
        denominator=DENOMINATORS[cost.denominator],
        timesteps=plan.num_train_timesteps,
        target="" if plan.target_ratio is None or plan.latency else f" (target {plan.target_ratio:.2%})",
        latency=latency_row(plan),
        dropped=dropped_paragraph(plan),
        total=cost.total / 1e9,
        height=cost.resolution[0],
        width=cost.resolution[1],
        convention=cost.convention,
        experts="\n".join(
            f"| {i} | {share:.1%} | {layers} | {macs / cost.whole:.1%} |"
            for i, (share, layers, macs) in enumerate(rows)
        ),
    )


def latency_row(plan: ExpertPlan) -> str:
    """The budget, where it is not in MACs."""
    if plan.latency is None:
        return ""
    target = "" if plan.target_ratio is None else f", target {plan.target_ratio:.2%}"
    how = f"{plan.latency.device}, {plan.latency.convention}"
    return f"| active latency, the budget | {plan.achieved_ratio:.2%}{target} ({how}) |\n"


def dropped_paragraph(plan: ExpertPlan) -> str:
    """What `compact` left out."""
    names = ", ".join(f"`{name}`" for name in plan.dropped_layers)
    count, num_layers = len(plan.dropped_layers), len(plan.layer_names)
    return DROPPED.format(count=count, num_layers=num_layers, names=names) if count else ""
