"""A training step by execution: what sub-batches save against the authors' procedure and against dense masks."""

from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..backbones.timing import timed
from ..params import Params, load_params
from ..plan import ExpertPlan
from ..training.trainer import Trainer
from .forward import random_plan, spread

MODES = ("sub_batch", "masked", "reference")


def pin(trainer: Trainer, plan: ExpertPlan) -> None:
    """Hold the hypernetwork's output at `plan`, noise and updates notwithstanding; what is computed stays the same."""
    net, device = trainer.net, trainer.accelerator.device
    # 6 from the threshold: noise crosses it 1 in 400 times
    logits = (plan.masks * 12.0 - 6.0 - net.mask_offset).to(device)
    routes = (torch.nn.functional.one_hot(plan.routing, plan.num_experts) * 20.0).to(device)
    generate, route = net.generator.forward, net.router.forward
    net.generator.forward = lambda: logits + 0 * generate()
    net.router.forward = lambda e_t: routes + 0 * route(e_t)
    trainer.refresh_masks()


def trainers(params: Params, plan: ExpertPlan | None) -> dict[str, Trainer]:
    """One trainer a mode, all at the same plan: the run's, or random masks on equal intervals."""
    fixed = {"training.hypernetwork_steps": 2, "training.steps": max(4, params.training.steps), "run.name": "benchmark"}
    fixed |= {"training.warmup_steps": 0, "hypernetwork.num_experts": plan.num_experts if plan else 10}
    found = {}
    for mode in MODES:
        trainer = Trainer(load_params(params.dump(), fixed | {"training.execution": mode}))
        pin(trainer, plan or random_plan(trainer.backbone, params.loss.target_ratio, 0, 10))
        found[mode] = trainer
    return found


def training_steps(params: Params, plan: ExpertPlan | None, repeats: int) -> dict[str, Any]:
    """Seconds of a step by phase and mode, and relative to `reference`."""
    modes, found = trainers(params, plan), {}
    for phase, first_step in (("joint", 0), ("backbone", 2)):
        rounds = []
        for _ in tqdm(range(repeats + 1), desc=f"training steps, {phase} phase"):
            for trainer in modes.values():
                trainer.step_count = first_step  # the same batch again and again
            rounds.append([timed(trainer.step, trainer.accelerator.device) for trainer in modes.values()])
        seconds = dict(zip(modes, np.array(rounds[1:]).T, strict=True))
        found[phase] = {mode: {"seconds": spread(values), "over_reference": spread(values / seconds["reference"])}
                        for mode, values in seconds.items()}  # fmt: skip
    plan = modes["sub_batch"].current_plan()
    return found | {"batch_size": params.training.batch_size, "macs_ratio": plan.achieved_ratio}
