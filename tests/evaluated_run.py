"""A run with an artefact, evaluated: tiny random pipelines, the real pictures."""

from pathlib import Path

import torch
from tiny_sd_pipeline import tiny_pipeline

from alter_lib.backbones import wrap
from alter_lib.evaluation import evaluate
from alter_lib.inference import save_pipeline
from alter_lib.params import load_params
from alter_lib.plan import ExpertPlan

N = 12


def plan_for(pipeline, seed: int = 0) -> ExpertPlan:
    """Three experts; the first, at the noisy end, runs everything."""
    backbone = wrap(pipeline)
    masks = torch.rand(3, len(backbone.layers), generator=torch.Generator().manual_seed(seed)) < 0.5
    masks[0] = True
    routing = torch.arange(backbone.num_train_timesteps - 1, -1, -1) * 3 // backbone.num_train_timesteps
    return ExpertPlan.for_backbone(backbone, masks, routing)


def evaluated(folder: Path) -> dict:
    """Params (as a mapping) of a run that has an artefact, and what `evaluate` left there."""
    tiny_pipeline().save_pretrained(folder / "teacher")
    student = tiny_pipeline(seed=1)
    save_pipeline(student, plan_for(student), folder / "t" / "alter")
    params = {
        "run": {"name": "t", "out": str(folder)},
        "backbone": {"id": str(folder / "teacher"), "device": "cpu"},
        "training": {"steps": 1, "hypernetwork_steps": 1, "batch_size": 1, "learning_rate": 1e-4, "warmup_steps": 0,
                     "hypernetwork_learning_rate": 1e-4},
        "sampling": {"guidance_scale": 3.0, "batch_size": 12},
        "evaluation": {"num_images": N, "steps": [3], "teacher_steps": [4, 3], "bootstrap": 30},
    }  # fmt: skip
    return {"params": params, "folder": folder, "result": evaluate(load_params(params))}
