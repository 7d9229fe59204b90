"""The inference patch: one timestep, one expert, and the layers that the expert leaves out are not called (paper §3.1).

`forward` is replaced on the denoiser instance and on each prunable module instance. Nothing is wrapped: modules, their
state-dict keys and other hooks stay, and taking the patch off leaves no trace.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..backbones import ADAPTERS, denoiser_of
from ..plan import ExpertPlan
from ..plan.schedules import HostTimesteps, timestep_index
from ..skipping import skip_forward, sub_batch_forward
from .compilation import Compilation, StaticGraphs
from .layout import Layout

ATTRIBUTE = "_alter_patch"
HOOKED = "_old_forward"  # where an accelerate hook (offloading) keeps the forward that it wraps


class Replacement:
    """A callable that stands in for `forward` on one module instance, and can put things back.

    An object and not a closure: a deep copy of the module then refers to the copy, not to the original.
    """

    def __init__(self, module: nn.Module) -> None:
        # under an accelerate hook the innermost forward is replaced: pipelines take hooks off and on after every call
        slot = HOOKED if HOOKED in vars(module) else "forward"
        self.module = module
        self.was_set = slot in vars(module)
        self.original: Callable[..., Any] = getattr(module, slot)
        self.__wrapped__ = self.original  # for inspect.signature
        setattr(module, slot, self)

    def in_place(self) -> bool:
        """False where something else has replaced `forward` since and no longer leads here."""
        forward = vars(self.module).get(HOOKED, vars(self.module).get("forward"))
        return forward is self or getattr(forward, "__wrapped__", None) is self

    def restore(self) -> None:
        """Take this off again. Under a hook that was put on later it stays, as a mere pass-through."""
        for slot in ("forward", HOOKED):
            if vars(self.module).get(slot) is self:
                if slot == "forward" and not self.was_set:
                    del self.module.forward
                else:
                    setattr(self.module, slot, self.original)


class LayerForward(Replacement):
    """f_l under a plan: the layer, the identity in its place, or the layer on those samples whose expert runs it."""

    def __init__(self, module: nn.Module, patch: "Patch", index: int) -> None:
        super().__init__(module)
        self.patch, self.index = patch, index

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self.patch.rows is not None:
            return sub_batch_forward(self.module, self.original, self.patch.rows[self.index], arguments, keywords)
        if self.patch.active is None or self.patch.active[self.index]:
            return self.original(*arguments, **keywords)
        return skip_forward(self.module, arguments, keywords)


class DenoiserForward(Replacement):
    """eps_theta(x_t, t) that chooses the expert of t before it runs."""

    def __init__(self, module: nn.Module, patch: "Patch") -> None:
        super().__init__(module)
        self.patch = patch

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self.patch.plan is None:
            return self.original(*arguments, **keywords)
        timestep = keywords["timestep"] if "timestep" in keywords else arguments[1]
        sets = self.patch.active_sets(timestep)
        self.patch.last_sets = sets
        try:
            if len(set(sets)) > 1:
                self.patch.rows = sample_rows(sets, self.module.device)
                return self.original(*arguments, **keywords)
            if self.patch.graphs and not torch.is_tensor(timestep):  # a Python number would be compiled into the graph
                arguments, keywords = with_timestep_tensor(arguments, keywords)
            if self.patch.rehearsals:
                self.rehearse(arguments, keywords)
            return self.run(sets[0], arguments, keywords)
        finally:
            self.patch.active = self.patch.rows = None

    def run(self, active: tuple[bool, ...], arguments: tuple, keywords: dict[str, Any]) -> Any:
        self.patch.active = active
        if self.patch.graphs is None:
            return self.original(*arguments, **keywords)
        return self.patch.graphs.run(active, self.original, arguments, keywords)

    def unpruned(self, *arguments: Any, **keywords: Any) -> Any:
        """A call that runs every layer, compiled where the experts are: what their speed is held against."""
        try:
            return self.run((True,) * len(self.patch.layers), arguments, keywords)
        finally:
            self.patch.active = None

    def rehearse(self, arguments: tuple, keywords: dict[str, Any]) -> None:
        """Run each distinct active set in use on these inputs, so that every graph of their form is there."""
        for active in tqdm(self.patch.sets_in_use(), desc="warm-up", unit="expert"):
            for _ in range(self.patch.rehearsals):
                self.run(active, arguments, keywords)


class Patch:
    """What apply_plan puts on a denoiser: the plan, the layers' replacements, and which of them run just now.

    active: whether each layer runs [N_L], None = all; rows: for mixed timesteps, the samples of each layer [N_L].
    last_sets: the active set of each timestep of the latest call. graphs: the compiled ones, None = not compiled.
    rehearsals: how often the next call runs every other active set before its own (warm-up).
    """

    def __init__(
        self,
        denoiser: nn.Module,
        plan: ExpertPlan,
        pipeline: DiffusionPipeline | None,
        compilation: Compilation | None,
        layout: Layout,
    ) -> None:
        self.plan: ExpertPlan | None = plan
        self.layout = layout
        self.active: tuple[bool, ...] | None = None
        self.rows: list[Tensor] | None = None
        self.last_sets: list[tuple[bool, ...]] = []
        self.rehearsals = 0
        self.timesteps = HostTimesteps()
        self._pipeline = weakref.ref(pipeline) if pipeline is not None else None
        self._masks = [tuple(mask) for mask in plan.masks.tolist()]
        self._routing = plan.routing.tolist()
        layers = ADAPTERS[type(denoiser).__name__].prunable_layers(denoiser)
        self.layers = [LayerForward(module, self, index) for index, (_, _, module) in enumerate(layers)]
        self.graphs = StaticGraphs(compilation, inside(denoiser), LayerForward) if compilation else None
        self.denoiser = DenoiserForward(denoiser, self)
        setattr(denoiser, ATTRIBUTE, self)

    def __getstate__(self) -> dict[str, Any]:
        """A copied or pickled denoiser belongs to no pipeline and compiles anew."""
        graphs = self.graphs and StaticGraphs(self.graphs.compilation, self.graphs.modules, LayerForward)
        return {**vars(self), "_pipeline": None, "graphs": graphs, "timesteps": HostTimesteps()}

    @property
    def scheduler(self) -> SchedulerMixin | None:
        """The scheduler that the pipeline has now (users exchange it), or None for a bare denoiser."""
        pipeline = self._pipeline and self._pipeline()
        return getattr(pipeline, "scheduler", None)

    def active_sets(self, timestep: Tensor | float) -> list[tuple[bool, ...]]:
        """The mask in force, m_t = s_t M (paper §3.2), for each timestep of a call: one for a scalar."""
        total, scheduler = len(self._routing), self.scheduler
        return [self._masks[self._routing[timestep_index(t, total, scheduler)]] for t in self.timesteps.read(timestep)]

    def sets_in_use(self) -> list[tuple[bool, ...]]:
        """The distinct masks of the experts that serve any timestep."""
        return list(dict.fromkeys(self._masks[expert] for expert in sorted(set(self._routing))))

    def let_go(self) -> None:
        """Forget the modules that the denoiser has no more, so that their weights leave memory."""
        modules = inside(self.denoiser.module)
        if self.graphs:
            self.graphs.modules = modules
        kept = set(modules)
        self.layout.processors = [each for each in self.layout.processors if each[0] in kept]

    def remove(self) -> None:
        self.plan = None
        for replacement in (self.denoiser, *self.layers):
            replacement.restore()
        self.layout.remove()
        delattr(self.denoiser.module, ATTRIBUTE)


def inside(denoiser: nn.Module) -> list[nn.Module]:
    """All modules within `denoiser`."""
    return [module for module in denoiser.modules() if module is not denoiser]


def sample_rows(sets: Sequence[tuple[bool, ...]], device: torch.device) -> list[Tensor]:
    """For each layer the indices of the samples that run it: found on the CPU, so that no device synchronises."""
    return [column.nonzero()[:, 0].to(device, non_blocking=True) for column in torch.tensor(sets).unbind(1)]


def with_timestep_tensor(arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    if "timestep" in keywords:
        return arguments, {**keywords, "timestep": torch.tensor(keywords["timestep"])}
    return (arguments[0], torch.tensor(arguments[1]), *arguments[2:]), keywords


def patch_of(target: DiffusionPipeline | nn.Module) -> Patch | None:
    """The patch that apply_plan left on a pipeline's denoiser, if any."""
    return vars(denoiser_of(target)).get(ATTRIBUTE)
