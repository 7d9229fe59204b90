"""Three ways to run a denoiser under layer masks: masked (differentiable), sub-batch (hard, per sample), real skip.

Every prunable layer computes x_out = (1 - m_l) x_in + m_l f_l(x_in) (paper §3.1). `forward` is replaced on the module
instances, so that state-dict keys stay and other hooks go on working; leaving the context takes everything off again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.utils.checkpoint
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel, Transformer2DModelOutput
from torch import nn

Forward = Callable[..., object]


def identity_part(module: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """What a skipped layer passes on [B, C_out, h, w]: a decoder resnet reads concat(hidden, encoder skip), and the
    hidden part comes first (paper B.4)."""
    return hidden[:, : module.out_channels] if isinstance(module, ResnetBlock2D) else hidden


def repack(module: nn.Module, value: torch.Tensor, keywords: dict) -> object:
    """The layer's own return type around a tensor: a UNet's transformers return it in a tuple or an output, resnets and
    DiT's blocks bare."""
    if not isinstance(module, Transformer2DModel):
        return value
    return Transformer2DModelOutput(sample=value) if keywords.get("return_dict", True) else (value,)


def unpack(output: object) -> torch.Tensor:
    return output if torch.is_tensor(output) else output[0]


def skip_forward(module: nn.Module, arguments: tuple, keywords: dict) -> object:
    """A hard skip: f_l is not called."""
    hidden = arguments[0] if arguments else keywords["hidden_states" if "hidden_states" in keywords else "input_tensor"]
    return repack(module, identity_part(module, hidden), keywords)


def take(value: object, index: torch.Tensor, batch: int) -> object:
    """Rows `index` of every tensor argument that has the batch as its first dimension."""
    if torch.is_tensor(value) and value.ndim > 0 and value.shape[0] == batch:
        return value.index_select(0, index)
    return {key: take(item, index, batch) for key, item in value.items()} if isinstance(value, dict) else value


def run_rows(forward: Forward, arguments: tuple, keywords: dict, index: torch.Tensor, batch: int) -> torch.Tensor:
    """f_l on the samples `index` alone: exact, since all normalisation is per sample."""
    return unpack(forward(*(take(a, index, batch) for a in arguments), **take(keywords, index, batch)))


def masked_forward(module: nn.Module, forward: Forward, m: torch.Tensor, arguments: tuple, keywords: dict) -> object:
    """x_out = (1 - m) x_in + m f(x_in), m [B] in [0, 1], differentiable in m and in x."""
    x_in = identity_part(module, arguments[0])
    m = m.view(-1, *[1] * (x_in.ndim - 1)).to(x_in.dtype)
    return repack(module, (1 - m) * x_in + m * unpack(forward(*arguments, **keywords)), keywords)


def sub_batch_forward(
    module: nn.Module, forward: Forward, rows: torch.Tensor, arguments: tuple, keywords: dict
) -> object:
    """The layer on the samples `rows` whose mask is 1, the identity on the others: gather, run, scatter."""
    hidden = arguments[0]
    if len(rows) == len(hidden):
        return forward(*arguments, **keywords)
    x_in = identity_part(module, hidden)
    if len(rows) == 0:
        return repack(module, x_in, keywords)
    f_x = run_rows(forward, arguments, keywords, rows, len(hidden)).to(x_in.dtype)  # autocast mixes dtypes
    return repack(module, x_in.index_copy(0, rows, f_x), keywords)


def straight_through_forward(
    module: nn.Module,
    forward: Forward,
    m: torch.Tensor,
    on: torch.Tensor,
    off: torch.Tensor,
    arguments: tuple,
    keywords: dict,
) -> object:
    """masked_forward for hard m, with no graph through f on the samples that it masks out.

    d x_out / d m = f(x) - x needs the value of f on every sample; d x_out / d x passes through f only where m = 1. So
    f runs with a graph on `on` and without one on `off`: the same values and gradients, fewer stored activations.
    """
    hidden, batch = arguments[0], len(arguments[0])
    x_in = identity_part(module, hidden)
    f_x = torch.zeros_like(x_in)
    if len(on):
        f_x = f_x.index_copy(0, on, run_rows(forward, arguments, keywords, on, batch).to(x_in.dtype))
    if len(off):
        with torch.no_grad():
            rest = run_rows(forward, arguments, keywords, off, batch).to(x_in.dtype)
        f_x = f_x.index_copy(0, off, rest)
    m = m.view(-1, *[1] * (x_in.ndim - 1)).to(x_in.dtype)
    return repack(module, (1 - m) * x_in + m * f_x, keywords)


def checkpoint_forwards(modules: Sequence[nn.Module]) -> None:
    """Each layer's f_l is run again in the backward pass instead of keeping its activations (gradient checkpointing).

    For good, and inside of any mask: what is repeated is f_l on the samples that it ran on, with no mask, no hook and
    no context that might be gone by then. diffusers' own checkpointing repeats the whole masked layer.
    """
    for module in modules:
        module.forward = checkpointed(module.forward)


def checkpointed(forward: Forward) -> Forward:
    def run(*arguments: object, **keywords: object) -> object:
        if not torch.is_grad_enabled():
            return forward(*arguments, **keywords)
        return torch.utils.checkpoint.checkpoint(
            forward,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,  # no layer draws random numbers; reading the device's state would synchronise
            **keywords,
        )

    return run


def compile_forwards(modules: Sequence[nn.Module]) -> None:
    """torch.compile of each layer's f_l, for good. The student as a whole has another graph for every pattern of masks
    in a batch; a layer by itself has one, in which the number of samples that it runs on is a variable."""
    for module in modules:
        module.forward = torch.compile(module.forward, dynamic=True)


@contextmanager
def replaced_forwards(
    modules: Sequence[nn.Module], wrappers: Sequence[Callable[[nn.Module, Forward], Forward]]
) -> Iterator[None]:
    """`module.forward` replaced on each instance inside the context, and whatever stood there before put back."""
    before = [vars(module).get("forward") for module in modules]
    for module, wrapper in zip(modules, wrappers, strict=True):
        module.forward = wrapper(module, module.forward)
    try:
        yield
    finally:
        for module, previous in zip(modules, before, strict=True):
            del module.forward
            if previous is not None:
                module.forward = previous


def masked(modules: Sequence[nn.Module], masks: torch.Tensor) -> object:
    """Context: layer l runs under masks[:, l] in [0, 1], [B, N_L], differentiable (simulated skip, paper §3.1)."""
    columns = masks.unbind(1)
    return replaced_forwards(
        modules,
        [lambda module, forward, m=m: lambda *a, **k: masked_forward(module, forward, m, a, k) for m in columns],
    )


def sub_batch(modules: Sequence[nn.Module], masks: torch.Tensor) -> object:
    """Context: layer l runs on the samples with masks[:, l] = 1 alone; [B, N_L] bool on the CPU (no device sync)."""
    device = next(modules[0].parameters()).device
    rows = [column.nonzero()[:, 0].to(device, non_blocking=True) for column in masks.unbind(1)]
    return replaced_forwards(
        modules,
        [lambda module, forward, r=r: lambda *a, **k: sub_batch_forward(module, forward, r, a, k) for r in rows],
    )


def straight_through(modules: Sequence[nn.Module], masks: torch.Tensor, hard: torch.Tensor) -> object:
    """Context: as `masked` for 0/1 masks [B, N_L] with a straight-through gradient; hard: their values, on the CPU."""
    device = masks.device
    rows = [(column.nonzero()[:, 0].to(device), (~column).nonzero()[:, 0].to(device)) for column in hard.unbind(1)]
    return replaced_forwards(
        modules,
        [
            lambda module, forward, m=m, on=on, off=off: (
                lambda *a, **k: straight_through_forward(module, forward, m, on, off, a, k)
            )
            for m, (on, off) in zip(masks.unbind(1), rows, strict=True)
        ],
    )
