"""Static graphs: torch.compile once for each distinct set of active layers and form of the inputs.

A plan is known before sampling starts: no mask tensor is left in a graph, and nothing is compiled again while it runs.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import nn

Forward = Callable[..., Any]
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Compilation:
    """The keywords of torch.compile that a user may choose; dynamic=False and isolation are ours.

    mode: `reduce-overhead` and `max-autotune` replay CUDA graphs, which pays where calls are launch-bound (batch 1).
    """

    backend: str | Callable = "inductor"
    mode: str | None = None
    options: Mapping[str, Any] | None = None
    fullgraph: bool = False

    @classmethod
    def of(cls, choice: bool | str | Callable | Mapping[str, Any]) -> Self | None:
        """From `compile=`: False, True, a backend, or a mapping of this class's fields. None: not compiled."""
        if isinstance(choice, Mapping):
            return cls(**choice)
        return cls() if choice is True else cls(backend=choice) if choice else None

    @property
    def cuda_graphs(self) -> bool:
        return self.mode in CUDA_GRAPH_MODES or bool((self.options or {}).get("triton.cudagraphs"))

    def compiled(self, forward: Forward, num_graphs: int) -> Forward:
        """`forward` as one static graph. Dynamo gives up after 8 graphs of one code object unless each is kept apart,
        and after 256 in any case, so its limits follow `num_graphs`."""
        keywords = {"backend": self.backend, "mode": self.mode, "fullgraph": self.fullgraph, "dynamic": False}
        keywords |= {"options": dict(self.options)} if self.options else {}
        config, isolated = torch._dynamo.config, "isolate_recompiles" in inspect.signature(torch.compile).parameters
        for new, old in (("recompile_limit", "cache_size_limit"), ("accumulated_recompile_limit",
                                                                   "accumulated_cache_size_limit")):  # fmt: skip
            name = new if hasattr(config, new) else old
            if not isolated or new.startswith("accumulated"):
                setattr(config, name, max(getattr(config, name), 8 * num_graphs))
        return torch.compile(forward, **keywords, **({"isolate_recompiles": True} if isolated else {}))


@dataclass
class StaticGraphs:
    """The graphs of one denoiser. modules: all that lie inside it; ours: the class of the replaced `forward`s that are
    static within a graph."""

    compilation: Compilation
    modules: Sequence[nn.Module]
    ours: type
    graphs: dict[tuple, Forward] = field(default_factory=dict)

    def run(self, active: tuple[bool, ...], forward: Forward, arguments: tuple, keywords: dict[str, Any]) -> Any:
        """`forward` as the graph of `active` and of these inputs' shapes, dtypes and devices; experts with equal masks
        share it. Uncompiled while something inside the denoiser changes from call to call."""
        if self.dynamic_inside():
            return forward(*arguments, **keywords)
        key = (active, form((arguments, keywords)))
        if key not in self.graphs:
            self.graphs[key] = self.compilation.compiled(forward, len(self.graphs) + 1)
        if not self.compilation.cuda_graphs:
            return self.graphs[key](*arguments, **keywords)
        torch.compiler.cudagraph_mark_step_begin()
        return copied(self.graphs[key](*arguments, **keywords))

    def dynamic_inside(self) -> bool:
        """True where an inner `forward` is somebody else's: DeepCache, diffusers' caches, sequential and group
        offloading choose anew in every call what runs, and each choice would be compiled again."""
        return any("forward" in vars(module) and self.foreign(module) for module in self.modules)

    def foreign(self, module: nn.Module) -> bool:
        """False for our own, and for the class's forward, which accelerate's hooks leave on the instance."""
        forward = vars(module)["forward"]
        return type(forward) is not self.ours and getattr(forward, "__func__", None) is not type(module).forward


def form(value: Any) -> Any:
    """What a static graph is specialised to: shape, strides, dtype and device of every tensor in `value`."""
    if torch.is_tensor(value):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((key, form(item)) for key, item in value.items())
    return tuple(map(form, value)) if isinstance(value, (tuple, list)) else None


def copied(output: Any) -> Any:
    """Outputs out of the memory of a CUDA graph, whose next replay overwrites it: samplers keep earlier ones."""
    if torch.is_tensor(output):
        return output.clone()
    if isinstance(output, tuple):
        return tuple(map(copied, output))
    return type(output)(**{key: copied(item) for key, item in output.items()})
