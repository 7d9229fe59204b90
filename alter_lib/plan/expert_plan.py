"""The expert plan: all that is left of the hypernetwork at inference (paper §3.2).

Two tables hold it: masks [N_e, N_L] (which prunable layers each temporal expert runs) and routing [T]
(which expert serves each timestep). This file needs torch and numpy only; it knows nothing of training.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from .costs import CostTable, Denominator
from .file import PlanError, plan_path, read_plan_file, write_plan_file

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..backbones import Backbone


@dataclass(frozen=True, eq=False)
class ExpertPlan:
    """Masks and routing for one backbone, with the costs that give its ratio.

    masks: bool [N_e, N_L], True = the layer runs; routing: int64 [T], the expert of each timestep.
    layer_names: module paths of the N_L prunable layers in execution order.
    target_ratio: the ratio that training aimed at, None for a plan made by hand.
    cost: MACs; latency: nanoseconds, where the budget was counted in them (`cost.unit: latency`), else None.
    dropped_layers: layers whose weights the pipeline beside the plan no longer has (`compact`).
    Raises PlanError where shapes or values do not fit together.
    """

    masks: Tensor
    routing: Tensor
    layer_names: tuple[str, ...]
    cost: CostTable
    backbone_class: str
    architecture_hash: str
    target_ratio: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    latency: CostTable | None = None
    dropped_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", torch.as_tensor(self.masks).detach().to("cpu", torch.bool).clone())
        object.__setattr__(self, "routing", torch.as_tensor(self.routing).detach().to("cpu", torch.int64).clone())
        object.__setattr__(self, "layer_names", tuple(self.layer_names))
        num_layers = len(self.layer_names)
        if self.masks.ndim != 2 or self.masks.shape[1] != num_layers:
            raise PlanError(f"experts: shape {list(self.masks.shape)}, expected [num_experts, {num_layers}]")
        for costs in filter(None, (self.cost, self.latency)):
            if len(costs.layers) != num_layers:
                raise PlanError(f"layers: {len(costs.layers)} costs for {num_layers} layers")
        if len(set(self.layer_names)) < num_layers:
            raise PlanError("layers: a name stands twice")
        if self.routing.ndim != 1 or len(self.routing) == 0:
            raise PlanError(f"routing: shape {list(self.routing.shape)}, expected [num_train_timesteps]")
        if self.routing.min() < 0 or self.routing.max() >= self.num_experts:
            found = sorted(set(self.routing.tolist()) - set(range(self.num_experts)))
            raise PlanError(f"routing: expert {found[0]}, the plan has experts 0..{self.num_experts - 1}")

    @classmethod
    def for_backbone(
        cls,
        backbone: "Backbone",
        masks: Tensor,
        routing: Tensor,
        target_ratio: float | None = None,
        denominator: Denominator = "total",
        provenance: dict[str, Any] | None = None,
    ) -> Self:
        """A plan of `masks` [N_e, N_L] and `routing` [T] for `backbone`, at its costs; its budget is in latency where
        the backbone carries a table of it."""
        plan = cls(
            masks=masks,
            routing=routing,
            layer_names=tuple(layer.name for layer in backbone.layers),
            cost=CostTable.of(backbone, denominator),
            backbone_class=backbone.class_name,
            architecture_hash=backbone.architecture_hash,
            target_ratio=target_ratio,
            provenance=provenance or {},
            latency=backbone.latency and replace(backbone.latency, denominator=denominator),
        )
        plan.validate(backbone)
        return plan

    @property
    def num_experts(self) -> int:
        """N_e."""
        return self.masks.shape[0]

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.routing)

    @property
    def budget(self) -> CostTable:
        """The costs that target_ratio and achieved_ratio are counted in."""
        return self.latency or self.cost

    @property
    def achieved_ratio(self) -> float:
        """The share of the budget's cost that stays active, averaged over all T timesteps."""
        return self.macs_ratio(costs=self.budget)

    def expert_macs(self, costs: CostTable | None = None) -> list[int]:
        """MACs (or nanoseconds, by `costs`) that each expert runs [N_e], of those in the denominator."""
        costs = costs or self.cost
        if len(costs.layers) != len(self.layer_names):
            raise PlanError(f"costs: {len(costs.layers)} layers, the plan has {len(self.layer_names)}")
        return [
            costs.always + sum(macs for macs, runs in zip(costs.layers, mask, strict=True) if runs)
            for mask in self.masks.tolist()
        ]

    def macs_ratio(self, timesteps: Iterable[int] | None = None, costs: CostTable | None = None) -> float:
        """Share of MACs that stays active, averaged over `timesteps` (the ratio of paper B.2, hard masks).

        Args:
            timesteps: those that a sampler visits, each 0..T-1, repeats count; None for all T.
            costs: a cost table at another resolution, convention or unit; None for the plan's own MACs.
        Raises PlanError for a timestep outside 0..T-1, for none at all, or for a table of another length.
        """
        costs = costs or self.cost
        macs = self.expert_macs(costs)
        experts = self.routing.tolist() if timesteps is None else [self.expert(t) for t in timesteps]
        if not experts:
            raise PlanError("timesteps: none given, a ratio needs at least one")
        return sum(macs[expert] for expert in experts) / (len(experts) * costs.whole)

    def expert(self, t: int) -> int:
        """The expert of timestep `t`. Raises PlanError outside 0..T-1."""
        if not 0 <= t < self.num_train_timesteps:
            raise PlanError(f"timestep: {t} is outside 0..{self.num_train_timesteps - 1}")
        return int(self.routing[t])

    def active_layers(self, t: int) -> tuple[str, ...]:
        """Names of the prunable layers that run at timestep `t`, in execution order."""
        mask = self.masks[self.expert(t)].tolist()
        return tuple(name for name, runs in zip(self.layer_names, mask, strict=True) if runs)

    def validate(self, backbone: "Backbone | nn.Module") -> None:
        """Raises PlanError unless the plan was made for `backbone` (a Backbone or a bare denoiser)."""
        from ..backbones import ADAPTERS, architecture_hash  # a plan is read, saved and counted without any backbone

        denoiser = getattr(backbone, "denoiser", backbone)
        class_name = type(denoiser).__name__
        if self.backbone_class != class_name:
            raise PlanError(f"backbone.class: the plan is for {self.backbone_class}, this is {class_name}")
        if class_name not in ADAPTERS:
            raise PlanError(f"backbone.class: {class_name} has no adapter; known: {', '.join(ADAPTERS)}")
        found = architecture_hash(denoiser)
        if self.architecture_hash != found:
            raise PlanError(
                f"backbone.architecture_hash: the plan is for {self.architecture_hash[:12]}, this is "
                f"{found[:12]}: another width, depth or block layout"
            )
        names = tuple(name for name, _, _ in ADAPTERS[class_name].prunable_layers(denoiser))
        if self.layer_names != names:
            wrong = next((pair for pair in zip(self.layer_names, names, strict=False) if pair[0] != pair[1]), None)
            what = f"{wrong[0]}, the backbone {wrong[1]}" if wrong else f"{len(self.layer_names)}, not {len(names)}"
            raise PlanError(f"layers: the plan has {what}")
        timesteps = getattr(backbone, "num_train_timesteps", self.num_train_timesteps)
        if timesteps != self.num_train_timesteps:
            raise PlanError(f"num_train_timesteps: the plan has {self.num_train_timesteps}, the backbone {timesteps}")

    def corrected(self, target: float | None = None, tolerance: float = 0.01) -> Self:
        """The plan with the fewest mask entries flipped so that |ratio - target| <= tolerance * target over all T.

        Returns the plan itself where nothing needs to change. target None: the plan's own target_ratio.
        Raises PlanError where no mask of these experts and this routing reaches the target.
        """
        from .correction import corrected_masks

        target = self.target_ratio if target is None else target
        if target is None:
            raise PlanError("target_ratio: the plan has none, give the ratio to correct to")
        masks = corrected_masks(self, target, tolerance)
        unchanged = torch.equal(masks, self.masks) and target == self.target_ratio
        return self if unchanged else replace(self, masks=masks, target_ratio=target)

    def rerouted(self, timesteps: Iterable[int], ratio: float) -> Self:
        """The plan whose routing keeps a sampler that visits `timesteps` (repeats count) within `ratio` of the budget's
        cost, and the experts' masks as they are.

        Of all routings within the budget the one that takes experts from the nearest timesteps that they were trained
        at; timesteps that are not visited keep theirs. Raises PlanError where even the cheapest expert is above it.
        """
        from .steps import rerouted

        return replace(self, routing=rerouted(self, list(timesteps), ratio))

    def compact(self, target: "DiffusionPipeline | nn.Module") -> tuple[str, ...]:
        """Apply this plan and drop the layers that no expert in use runs: their weights leave memory, for good.

        Returns their names. `save_pipeline` leaves them out too, and says so in plan.json and the model card.
        """
        from ..inference import apply_plan
        from ..inference.compaction import drop_layers, unused_layers
        from ..inference.patching import patch_of

        if (patch := patch_of(target)) is None or patch.plan != self:
            apply_plan(target, self)
        drop_layers(target, unused_layers(self))
        return unused_layers(self)

    def to_dict(self) -> dict[str, Any]:
        """The content of plan.json."""
        from .content import content_of

        return content_of(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExpertPlan) and self.to_dict() == other.to_dict()

    __hash__ = None

    def save(self, path: str | PathLike) -> None:
        """Write plan.json atomically. path: a .json file, or a folder that is to hold plan.json."""
        write_plan_file(plan_path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | PathLike) -> Self:
        """Read a plan.json, or the one in a folder. Raises PlanError naming file and key."""
        from .content import checked

        path = plan_path(path)
        content = read_plan_file(path)
        try:
            return checked(cls, content)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None
