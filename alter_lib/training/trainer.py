"""One step of Algorithm 1 and the state that it changes: theta (the student), Phi (the hypernetwork), optimizers."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel

from .. import losses, skipping
from ..backbones import Backbone, load_backbone
from ..backbones.latency import with_latency
from ..baselines import given_plan
from ..data.latents import Batch, Batches, generator
from ..hypernetwork import Decisions, Hypernetwork
from ..params import Params
from ..plan import ExpertPlan
from ..plan.costs import CostTable
from ..plan.routing import snapped
from .accelerator import make_accelerator
from .adapters import add_adapters
from .history import Clock, gpu_memory
from .nonfinite import StepGuard
from .objective import Noised, Objective
from .optimizers import NetworkOptimizer

Losses = dict[str, torch.Tensor]
PHASES = {(True, True): "joint", (True, False): "hypernetwork", (False, True): "backbone"}  # (Phi, theta) is updated


class Trainer:
    """Builds everything that a run needs from its params; `step` is one iteration of Algorithm 1."""

    def __init__(self, params: Params, backbone: Backbone | None = None, batches: Batches | None = None) -> None:
        """backbone, batches: in place of those of the params. Raises ParamsError for what can't be trained."""
        self.params, training = params, params.training
        self.accelerator = make_accelerator(params)
        self.execution = training.execution
        torch.manual_seed(params.run.seed)
        backbone = backbone or load_backbone(params.backbone, device=str(self.device), cost=params.cost)
        with self.accelerator.main_process_first():  # one process measures, if any: the costs are the same on all
            self.backbone = with_latency(backbone, params)
        self.modules = [layer.module for layer in self.backbone.layers]
        self.make_networks()
        self.batches = batches or Batches(self.backbone.pipeline, params.data, training.batch_size, params.run.seed)
        self.theta = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        phi = list(self.net.parameters())
        self.optimizers = {
            "theta": NetworkOptimizer(
                self.accelerator, self.theta, training.learning_rate, training.steps, training, training.optimizer
            ),
            "phi": NetworkOptimizer(
                self.accelerator, phi, training.hypernetwork_learning_rate, training.hypernetwork_steps, training
            ),
        }
        self.ema = EMAModel(self.theta, decay=training.ema_decay, foreach=True) if training.ema_decay else None
        self.clock = Clock(self.device)
        self.guard = StepGuard(training.max_skipped_steps, self.accelerator.scaler is not None)
        self.step_count, self.final_plan = 0, None
        self.refresh_masks()
        if training.hypernetwork_steps == 0:
            self.freeze_plan()

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def make_networks(self) -> None:
        """Teacher and student from the backbone, and the hypernetwork: what is trained in float32 at least."""
        training, options = self.params.training, self.params.hypernetwork
        self.student = self.backbone.denoiser.train()
        teacher = copy.deepcopy(self.student).eval().requires_grad_(False)
        dtype = torch.promote_types(self.student.dtype, torch.float32)
        if self.student.dtype != dtype:
            self.student.to(dtype)  # master weights
        if teacher.dtype != (wanted := getattr(torch, training.teacher_dtype or "", dtype)):
            teacher.to(wanted)
        self.e_t = self.backbone.timestep_embeddings(options.timestep_embedding).to(dtype)  # frozen: the teacher's
        chosen = options.model_dump(exclude={"num_experts", "timestep_embedding", "ratio_masks", "ratio_gradient"})
        net = Hypernetwork(options.num_experts, len(self.modules), self.e_t.shape[1], **chosen)
        self.net = net.to(self.device, dtype)
        costs = CostTable.budget_of(self.backbone, self.params.cost.denominator)
        self.layer_macs = torch.tensor(costs.layers, dtype=dtype, device=self.device)  # or ns, by cost.unit
        self.fixed_macs = float(costs.always)
        self.adapters = add_adapters(self.student, training.lora_rank) if training.lora_rank else None
        self.prepare_forwards(teacher)
        self.objective = Objective(
            teacher,
            self.student,
            self.backbone.pipeline.scheduler.config,
            self.params.loss,
            self.accelerator.autocast,
        )

    def prepare_forwards(self, teacher: torch.nn.Module) -> None:
        """Compiled and checkpointed, as the params have it: what is computed stays the same."""
        training = self.params.training
        if training.compile != "none":
            teacher.compile(dynamic=False)
        if training.compile == "both":
            skipping.compile_forwards(self.modules)
        if training.gradient_checkpointing:
            skipping.checkpoint_forwards(self.modules)

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
        """At T_end Phi is done, and under training.plan there is nothing to learn: the plan that the backbone is
        fine-tuned for, with its routing snapped and its budget met (the smallest correction) where asked to."""
        training = self.params.training
        plan = self.given_plan() if training.plan else self.current_plan()
        if training.routing_intervals:
            plan = snapped(plan, training.routing_intervals)
        if training.correct_ratio and plan.target_ratio:
            plan = plan.corrected()
        self.final_plan = plan
        self.refresh_masks()

    def given_plan(self) -> ExpertPlan:
        """training.plan. All processes make it, so that a fault stops all of them; the main one's is taken."""
        plan = given_plan(self.params, self.backbone, self.objective, self.batches)
        return broadcast_object_list([plan])[0]

    # --- one step ---------------------------------------------------------------------------------------------------

    @property
    def theta_updates(self) -> int:
        """How often theta was updated: with order two_stage it waits until T_end."""
        training = self.params.training
        return max(0, self.step_count - training.iterations + training.steps)

    def step(self) -> dict[str, float | str]:
        """One iteration of Algorithm 1. Returns a row of history.csv (images/s is filled in by `fit`).

        With order two_stage it updates Phi alone until T_end and theta alone after it; each network meets the batches
        that it meets in the joint order.
        """
        k, training = self.step_count, self.params.training
        of_phi = k < training.hypernetwork_steps
        of_theta = training.order == "joint" or not of_phi
        self.clock.start()
        number = k if of_phi else self.theta_updates
        batch = self.batches.batch(number, self.accelerator.process_index, self.accelerator.num_processes)
        row: dict[str, float | str] = {"step": k + 1, "phase": PHASES[of_phi, of_theta]}
        if self.execution == "reference":
            row |= self.reference_step(batch, of_phi, of_theta)
        else:
            parts, taught = self.taught(batch)  # one teacher pass serves both phases
            row |= self.hypernetwork_phase(parts, taught) if of_phi else {}
            row |= self.backbone_phase(parts, taught) if of_theta else {}
        self.guard.check(row, self.batches, number)
        self.step_count += 1
        if self.step_count == training.hypernetwork_steps:
            self.freeze_plan()
        return row | self.clock.seconds() | gpu_memory(self.device) | {
            "ratio": self.ratio,
            "experts_used": len(self.routing.unique()),
            "learning_rate": self.optimizers["theta"].learning_rate,
            "hypernetwork_learning_rate": self.optimizers["phi"].learning_rate,
        }  # fmt: skip

    def reference_step(self, batch: Batch, of_phi: bool, of_theta: bool) -> dict[str, float]:
        """The authors' procedure, to compare with: backbone first, dense masks, and for each phase its own noise,
        timesteps and teacher pass."""
        row = self.backbone_phase(*self.taught(batch)) if of_theta else {}
        if of_phi:
            row |= self.hypernetwork_phase(*self.taught(self.drawn_again(batch)))
        return row

    def drawn_again(self, batch: Batch) -> Batch:
        """The same samples with other noise and timesteps; this process's share of one draw for all."""
        random = generator(self.params.run.seed, self.step_count, 2)
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        size = self.params.training.batch_size
        noise = torch.randn((size, *batch.noise.shape[1:]), generator=random)[share]
        timesteps = torch.randint(self.backbone.num_train_timesteps, (size,), generator=random)[share]
        return Batch(batch.latents, noise, batch.condition, timesteps)

    def taught(self, batch: Batch) -> tuple[list[Noised], list[tuple]]:
        """The batch in micro-batches, and what the teacher makes of each."""
        parts = self.objective.noise(batch).split(self.params.training.gradient_accumulation_steps)
        self.clock.mark("data")
        taught = [self.objective.teach(part) for part in parts]
        self.clock.mark("teacher")
        return parts, taught

    def hypernetwork_phase(self, parts: list[Noised], taught: list[tuple]) -> dict[str, float]:
        """Phi by L_H = L_perf + lambda_ratio L_ratio + lambda_balance L_balance; theta frozen (paper §3.3)."""
        with frozen(self.theta):
            rows = [self.hypernetwork_losses(*part, len(parts)) for part in zip(parts, taught, strict=True)]
        norm = self.optimizers["phi"].step()
        self.refresh_masks()
        self.clock.mark("hypernetwork")
        return self.means(rows) | {"hypernetwork_grad_norm": norm}

    def hypernetwork_losses(self, noised: Noised, taught: tuple, count: int) -> Losses:
        """The terms of L_H on one of `count` micro-batches; its gradients are added to Phi's."""
        options, weights = self.params.hypernetwork, self.params.loss
        decisions = self.net.sample(self.e_t, generator(self.params.run.seed, self.step_count, 1))
        masks = decisions.at(noised.device_timesteps)
        performance = self.objective.performance(noised, taught, self.differentiable(masks))
        steered = (
            self.net.evaluate(self.e_t, options.ratio_gradient) if options.ratio_masks == "evaluation" else decisions
        )
        ramp = weights.ratio_ramp * self.params.training.hypernetwork_steps
        target = losses.ramped_target(weights.target_ratio, self.step_count, ramp)
        ratio = losses.ratio_loss(self.active(steered), target)
        balance = losses.balance_loss(self.net.router(self.e_t))
        total = performance["L_U"] + weights.ratio * ratio + weights.balance * balance
        self.optimizers["phi"].backward(total / count)
        terms = {"L_H": total, "L_perf": performance["L_U"], "L_ratio": ratio, "L_balance": balance}
        return detached(terms | {"sampled_ratio": self.active(decisions)})

    def backbone_phase(self, parts: list[Noised], taught: list[tuple]) -> dict[str, float]:
        """theta by L_U under evaluation-mode masks; Phi frozen (paper §3.3)."""
        rows = [self.backbone_losses(*part, len(parts)) for part in zip(parts, taught, strict=True)]
        norm = self.optimizers["theta"].step()
        if self.ema:
            self.ema.step(self.theta)
        self.clock.mark("backbone")
        return self.means(rows) | {"grad_norm": norm}

    def backbone_losses(self, noised: Noised, taught: tuple, count: int) -> Losses:
        """The terms of L_U on one of `count` micro-batches; its gradients are added to theta's."""
        hard = self.masks[self.routing[noised.timesteps]]
        terms = self.objective.performance(noised, taught, self.executed(hard))
        self.optimizers["theta"].backward(terms["L_U"] / count)
        return detached(terms)

    def differentiable(self, masks: torch.Tensor) -> AbstractContextManager:
        """How the layers run while masks [B, N_L] carry gradients."""
        if self.execution == "sub_batch" and self.params.hypernetwork.estimator == "straight_through":
            return skipping.straight_through(self.modules, masks, masks.detach().cpu() > 0.5)
        return skipping.masked(self.modules, masks)

    def executed(self, hard: torch.Tensor) -> AbstractContextManager:
        """How the layers run under hard masks [B, N_L] bool."""
        if self.execution == "sub_batch":
            return skipping.sub_batch(self.modules, hard)
        return skipping.masked(self.modules, hard.to(self.device, torch.float32))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """theta is its moving average inside, where there is one."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.theta)
        self.ema.copy_to(self.theta)
        try:
            yield
        finally:
            self.ema.restore(self.theta)

    def active(self, decisions: Decisions) -> torch.Tensor:
        """S, averaged over all T timesteps: exact, and the same on every process."""
        return losses.active_share(decisions.routing @ decisions.masks, self.layer_macs, self.fixed_macs).mean()

    def means(self, rows: list[Losses]) -> dict[str, float]:
        """Each loss over the micro-batches and the processes: the whole batch's."""
        values = torch.stack([torch.stack(list(row.values())) for row in rows]).mean(0)
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        return dict(zip(rows[0], values.tolist(), strict=True))


@contextmanager
def frozen(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """No gradients for `parameters` inside."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def detached(terms: Losses) -> Losses:
    """Without the graph, which would keep a micro-batch's activations while the next one runs."""
    return {name: value.detach() for name, value in terms.items()}
