"""Shared by the tests of deployed plans: a tiny pipeline, random plans, and references that know nothing of patches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan
from alter_lib.backbones import Backbone, wrap

BACKBONE = wrap(tiny_pipeline())
LAYERS = {layer.name: layer.module for layer in BACKBONE.layers}
PIPE, UNET = BACKBONE.pipeline, BACKBONE.denoiser
LATENTS, TEXT = torch.randn(3, 4, 8, 8), torch.randn(3, 16, 16)
STOCK_SCHEDULER = PIPE.scheduler


def random_plan(seed: int = 0, num_experts: int = 4, interval: int = 50, backbone: Backbone = BACKBONE) -> ExpertPlan:
    """Random masks; each interval of timesteps goes to a random expert, the last timesteps to the last one."""
    random = torch.Generator().manual_seed(seed)
    masks = torch.rand(num_experts, len(backbone.layers), generator=random) < 0.6
    routing = torch.randint(num_experts, (1000 // interval,), generator=random).repeat_interleave(interval)
    routing[-2:] = num_experts - 1
    return ExpertPlan.for_backbone(backbone, masks, routing)


PLAN = random_plan()


def denoise(t: object, unet: UNet2DConditionModel = UNET, **arguments: object) -> torch.Tensor:
    with torch.no_grad():
        return unet(LATENTS, t, encoder_hidden_states=TEXT, **arguments).sample


def sample(pipe: StableDiffusionPipeline = PIPE, **arguments: object) -> torch.Tensor:
    """Latents of two images after a few steps."""
    random = torch.Generator().manual_seed(0)
    defaults = {"num_inference_steps": 4, "guidance_scale": 7.5, "output_type": "latent"}
    return pipe(["red apple", "ghost"], generator=random, **{**defaults, **arguments}).images


def own_index(t: float) -> int:
    return min(round(float(t) + 1e-9), 999)


@contextmanager
def masked_by_hooks(plan: ExpertPlan, index: Callable[[float], int] = own_index) -> Iterator[list[int]]:
    """The reference: every layer runs, and PyTorch hooks replace the outputs of those that the plan masks out."""
    active, visited = set(), []

    def choose(module: torch.nn.Module, arguments: tuple, keywords: dict) -> None:
        visited.append(index(keywords.get("timestep", arguments[1])))
        active.clear()
        active.update(plan.active_layers(visited[-1]))

    def replace(name: str) -> Callable:
        def hook(module: torch.nn.Module, arguments: tuple, output: object) -> object:
            if name in active:
                return None
            return (arguments[0],) if isinstance(output, tuple) else arguments[0][:, : output.shape[1]]

        return hook

    hooks = [UNET.register_forward_pre_hook(choose, with_kwargs=True)]
    hooks += [module.register_forward_hook(replace(name)) for name, module in LAYERS.items()]
    try:
        yield visited
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def counted(unet: UNet2DConditionModel = UNET) -> Iterator[dict[str, int]]:
    """How often the first convolution or projection inside each prunable layer is called."""
    calls = dict.fromkeys(LAYERS, 0)

    def count(name: str) -> Callable:
        return lambda *_: calls.update({name: calls[name] + 1})

    modules = {name: unet.get_submodule(name) for name in LAYERS}
    inner = {name: getattr(module, "conv1", None) or module.proj_in for name, module in modules.items()}
    hooks = [module.register_forward_hook(count(name)) for name, module in inner.items()]
    yield calls
    for hook in hooks:
        hook.remove()


def own_attributes(unet: UNet2DConditionModel = UNET) -> list[set[str]]:
    return [set(vars(module)) for module in unet.modules()]


def smallest_pipeline(attention: bool = False) -> StableDiffusionPipeline:
    """Six residual layers, and with `attention` three transformers: dynamo takes seconds for each larger graph."""
    kinds = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        attention_head_dim=1, down_block_types=kinds[0] if attention else ("DownBlock2D",) * 2,
        up_block_types=kinds[1] if attention else ("UpBlock2D",) * 2, mid_block_type=None,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(**{**PIPE.components, "unet": unet.eval()}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe
