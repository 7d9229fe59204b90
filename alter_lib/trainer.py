"""One step of Algorithm 1 and the state that it changes: theta (the student), Phi (the hypernetwork), optimizers."""

import copy
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from . import checkpoints, losses, skipping
from .backbones import Backbone, load_backbone
from .data.latents import Batch, Batches, generator
from .hypernetwork import Decisions, Hypernetwork
from .objective import Noised, Objective
from .params import Params, ParamsError
from .plan import ExpertPlan

TRAINING_SECTIONS = ("backbone", "cost", "data", "hypernetwork", "loss", "training")


class Trainer:
    """Builds everything that a run needs from its params; `step` is one iteration of Algorithm 1."""

    def __init__(self, params: Params, backbone: Backbone | None = None) -> None:
        self.params, training = params, params.training
        AcceleratorState._reset_state()  # a kernel may train a second run, with another precision
        self.accelerator = Accelerator(mixed_precision=training.mixed_precision, cpu=params.backbone.device == "cpu")
        device = self.accelerator.device
        torch.manual_seed(params.run.seed)
        self.backbone = backbone or load_backbone(params.backbone, device=str(device), cost=params.cost)
        self.student = self.backbone.denoiser.train()
        teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.objective = Objective(
            teacher, self.student, self.backbone.pipeline.scheduler.config, params.loss, self.accelerator.autocast
        )
        self.modules = [layer.module for layer in self.backbone.layers]
        self.layer_macs = torch.tensor([float(layer.macs) for layer in self.backbone.layers], device=device)
        self.fixed_macs = float(self.backbone.fixed_macs) if params.cost.denominator == "total" else 0.0
        self.e_t = self.backbone.timestep_embeddings(params.hypernetwork.timestep_embedding)  # frozen: the teacher's
        options = params.hypernetwork.model_dump(
            exclude={"num_experts", "timestep_embedding", "ratio_masks", "ratio_gradient"}
        )
        self.net = Hypernetwork(params.hypernetwork.num_experts, len(self.modules), self.e_t.shape[1], **options).to(
            device
        )
        self.batches = Batches(self.backbone.pipeline, params.data, training.batch_size, params.run.seed)
        self.theta, self.phi = list(self.student.parameters()), list(self.net.parameters())
        self.optimizers = {
            "theta": torch.optim.AdamW(
                self.theta, training.learning_rate, weight_decay=training.weight_decay, fused=True
            ),
            "phi": torch.optim.AdamW(
                self.phi, training.hypernetwork_learning_rate, weight_decay=training.weight_decay, fused=True
            ),
        }
        lengths = {"theta": training.steps, "phi": training.hypernetwork_steps}
        kind = "constant_with_warmup" if training.schedule == "constant" else training.schedule
        self.schedules = {
            name: get_scheduler(
                kind,
                optimizer,
                num_warmup_steps=min(training.warmup_steps, lengths[name]),
                num_training_steps=lengths[name],
            )
            for name, optimizer in self.optimizers.items()
        }
        self.ema = EMAModel(self.theta, decay=training.ema_decay, foreach=True) if training.ema_decay else None
        self.step_count, self.final_plan = 0, None
        self.refresh_masks()
        if training.hypernetwork_steps == 0:
            self.freeze_plan()

    # --- the two tables -------------------------------------------------------------------------------------------

    def current_plan(self) -> ExpertPlan:
        """The evaluation-mode plan of Phi now; after T_end, the plan that the backbone is fine-tuned for."""
        if self.final_plan is not None:
            return self.final_plan
        return self.net.plan(
            self.backbone,
            self.e_t,
            target_ratio=self.params.loss.target_ratio,
            denominator=self.params.cost.denominator,
        )

    def refresh_masks(self) -> None:
        """Evaluation-mode masks for the backbone phase (Algorithm 1): no noise, round and argmax."""
        plan = self.current_plan()
        self.masks, self.routing, self.ratio = plan.masks, plan.routing, plan.achieved_ratio

    def freeze_plan(self) -> None:
        """At T_end Phi is done; where asked to, its plan gets the smallest correction that meets the budget."""
        self.final_plan = self.current_plan()
        if self.params.training.correct_ratio:
            self.final_plan = self.final_plan.corrected(self.params.loss.target_ratio)
        self.refresh_masks()

    # --- one step ---------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, float | str]:
        """One iteration of Algorithm 1. Returns a row of history.csv (images/s is filled in by `fit`)."""
        k, joint = self.step_count, self.step_count < self.params.training.hypernetwork_steps
        batch = self.batches.batch(k, self.accelerator.process_index, self.accelerator.num_processes)
        row: dict[str, float | str] = {"step": k + 1, "phase": "joint" if joint else "backbone"}
        if self.params.training.execution == "reference":
            row |= self.reference_step(batch, joint)
        else:
            noised = self.objective.noise(batch)
            taught = self.objective.teach(noised)  # one teacher pass serves both phases
            row |= self.hypernetwork_phase(noised, taught) if joint else {}
            row |= self.backbone_phase(noised, taught)
        self.step_count += 1
        if self.step_count == self.params.training.hypernetwork_steps:
            self.freeze_plan()
        return row | {
            "ratio": self.ratio,
            "experts_used": len(self.routing.unique()),
            "learning_rate": self.schedules["theta"].get_last_lr()[0],
            "hypernetwork_learning_rate": self.schedules["phi"].get_last_lr()[0],
        }

    def reference_step(self, batch: Batch, joint: bool) -> dict[str, float]:
        """The authors' procedure, to compare with: backbone first, dense masks, and for each phase its own noise,
        timesteps and teacher pass."""
        noised = self.objective.noise(batch)
        row = self.backbone_phase(noised, self.objective.teach(noised))
        if joint:
            random = generator(self.params.run.seed, self.step_count, 2)
            again = Batch(
                batch.latents,
                torch.randn(batch.noise.shape, generator=random),
                batch.condition,
                torch.randint(self.backbone.num_train_timesteps, batch.timesteps.shape, generator=random),
            )
            noised = self.objective.noise(again)
            row |= self.hypernetwork_phase(noised, self.objective.teach(noised))
        return row

    def hypernetwork_phase(self, noised: Noised, taught: tuple) -> dict[str, float]:
        """Phi by L_H = L_perf + lambda_ratio L_ratio + lambda_balance L_balance; theta frozen (paper §3.3)."""
        options, weights = self.params.hypernetwork, self.params.loss
        for parameter in self.theta:
            parameter.requires_grad_(False)
        decisions = self.net.sample(self.e_t, generator(self.params.run.seed, self.step_count, 1))
        masks = decisions.at(noised.device_timesteps)
        performance = self.objective.performance(noised, taught, self.differentiable(masks))
        steered = (
            self.net.evaluate(self.e_t, options.ratio_gradient) if options.ratio_masks == "evaluation" else decisions
        )
        ratio = losses.ratio_loss(self.active(steered), weights.target_ratio)
        balance = losses.balance_loss(self.net.router(self.e_t))
        total = performance["L_U"] + weights.ratio * ratio + weights.balance * balance
        total.backward()
        self.update("phi", self.phi)
        self.refresh_masks()
        for parameter in self.theta:
            parameter.requires_grad_(True)
        return {
            "L_H": total.item(),
            "L_perf": performance["L_U"].item(),
            "L_ratio": ratio.item(),
            "L_balance": balance.item(),
            "sampled_ratio": self.active(decisions).item(),
        }

    def backbone_phase(self, noised: Noised, taught: tuple) -> dict[str, float]:
        """theta by L_U under evaluation-mode masks; Phi frozen (paper §3.3)."""
        hard = self.masks[self.routing[noised.timesteps]]
        terms = self.objective.performance(noised, taught, self.executed(hard))
        terms["L_U"].backward()
        self.update("theta", self.theta)
        if self.ema:
            self.ema.step(self.theta)
        return {name: value.item() for name, value in terms.items()}

    def differentiable(self, masks: torch.Tensor) -> AbstractContextManager:
        """How the layers run while masks [B, N_L] carry gradients."""
        if self.params.training.execution == "sub_batch" and self.params.hypernetwork.estimator == "straight_through":
            return skipping.straight_through(self.modules, masks, masks.detach().cpu() > 0.5)
        return skipping.masked(self.modules, masks)

    def executed(self, hard: torch.Tensor) -> AbstractContextManager:
        """How the layers run under hard masks [B, N_L] bool."""
        if self.params.training.execution == "sub_batch":
            return skipping.sub_batch(self.modules, hard)
        return skipping.masked(self.modules, hard.to(self.accelerator.device, torch.float32))

    def active(self, decisions: Decisions) -> torch.Tensor:
        """S, averaged over all T timesteps: exact, and the same on every process."""
        return losses.active_share(decisions.routing @ decisions.masks, self.layer_macs, self.fixed_macs).mean()

    def update(self, name: str, parameters: list[torch.nn.Parameter]) -> None:
        """One AdamW step. A parameter that no sample reached has gradient 0, on one process as on many."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.accelerator.num_processes > 1:
            flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
            flat = self.accelerator.reduce(flat, "mean")
            for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                parameter.grad.copy_(part.view_as(parameter))
        if self.params.training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, self.params.training.max_grad_norm)
        self.optimizers[name].step()
        self.schedules[name].step()
        self.optimizers[name].zero_grad(set_to_none=True)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        tensors = {
            "student": checkpoints.unshared(self.student),
            "hypernetwork": self.net.state_dict(),
            **{f"optimizer_{name}": checkpoints.flatten_optimizer(o) for name, o in self.optimizers.items()},
        }
        if self.ema:
            tensors["ema"] = {str(i): shadow for i, shadow in enumerate(self.ema.shadow_params)}
        if self.final_plan is not None:
            tensors["plan"] = {"masks": self.masks, "routing": self.routing}
        checkpoints.save(
            folder,
            self.step_count,
            tensors,
            {
                "params": {name: self.params.dump()[name] for name in TRAINING_SECTIONS},
                "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            },
        )

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. Raises ParamsError, one line a key, where it was made with other params."""
        tensors, state = checkpoints.load(path)
        now = self.params.dump()
        differing = [
            f"{path}: made with {section}.{key} = {state['params'][section].get(key)!r}, now {value!r}: "
            "set another run.name or remove the run folder"
            for section in TRAINING_SECTIONS
            for key, value in now[section].items()
            if (section, key) != ("backbone", "device") and state["params"][section].get(key) != value
        ]
        if differing:
            raise ParamsError(differing)
        self.student.load_state_dict({**self.student.state_dict(), **tensors["student"]})
        self.net.load_state_dict(tensors["hypernetwork"])
        for name, optimizer in self.optimizers.items():
            checkpoints.restore_optimizer(optimizer, tensors[f"optimizer_{name}"])
            self.schedules[name].load_state_dict(state["schedules"][name])
            for group, rate in zip(optimizer.param_groups, self.schedules[name].get_last_lr(), strict=True):
                group["lr"] = rate
        if self.ema:
            self.ema.shadow_params = [tensors["ema"][str(i)].to(p.device) for i, p in enumerate(self.theta)]
            self.ema.optimization_step = state["step"]
        self.step_count = state["step"]
        if "plan" in tensors:
            self.final_plan = replace(self.current_plan(), **tensors["plan"])
        self.refresh_masks()
