"""apply_plan on a stock pipeline: the laws of skipping, and everything that users do to pipelines besides."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from PIL import Image
from tiny_sd_pipeline import tiny_pipeline

from alter_lib import ExpertPlan, PlanError, apply_plan, load_pipeline, remove_plan, save_pipeline
from alter_lib.backbones import wrap
from alter_lib.patching import patch_of

BACKBONE = wrap(tiny_pipeline())
LAYERS = {layer.name: layer.module for layer in BACKBONE.layers}
PIPE, UNET = BACKBONE.pipeline, BACKBONE.denoiser
LATENTS, TEXT = torch.randn(3, 4, 8, 8), torch.randn(3, 16, 16)
STOCK_SCHEDULER = PIPE.scheduler


def random_plan(seed: int = 0, num_experts: int = 4, interval: int = 50) -> ExpertPlan:
    """Random masks; each interval of timesteps goes to a random expert, the last timesteps to the last one."""
    random = torch.Generator().manual_seed(seed)
    masks = torch.rand(num_experts, len(LAYERS), generator=random) < 0.6
    routing = torch.randint(num_experts, (1000 // interval,), generator=random).repeat_interleave(interval)
    routing[-2:] = num_experts - 1
    return ExpertPlan.for_backbone(BACKBONE, masks, routing)


PLAN = random_plan()


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    remove_plan(PIPE)
    PIPE.scheduler = STOCK_SCHEDULER


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


# laws


def test_all_ones_is_unpruned_bit_for_bit() -> None:
    before, images = denoise(500), sample()
    ones = torch.ones_like(PLAN.masks)
    apply_plan(PIPE, ExpertPlan.for_backbone(BACKBONE, ones, PLAN.routing))
    assert torch.equal(denoise(500), before) and torch.equal(sample(), images)


@given(st.integers(0, 2**31), st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_hard_skip_is_the_masked_forward(seed: int, t: int) -> None:
    plan = random_plan(seed)
    with masked_by_hooks(plan):
        expected = denoise(t)
    apply_plan(UNET, plan)
    assert torch.equal(denoise(t), expected)
    remove_plan(UNET)


def test_skipped_layers_are_not_called() -> None:
    apply_plan(PIPE, PLAN)
    for t in (0, 300, 999):
        with counted() as calls:
            denoise(t)
        assert {name for name, count in calls.items() if count == 1} == set(PLAN.active_layers(t))
        assert sum(calls.values()) == len(PLAN.active_layers(t))


def test_apply_and_remove_leave_no_trace() -> None:
    before, images, attributes, keys = denoise(300), sample(), own_attributes(), list(UNET.state_dict())
    apply_plan(PIPE, PLAN)
    assert not torch.equal(denoise(300), before)
    assert list(UNET.state_dict()) == keys
    apply_plan(PIPE, random_plan(1))  # replaces the first
    remove_plan(PIPE)
    remove_plan(PIPE)  # nothing left to take off
    assert own_attributes() == attributes and list(UNET.state_dict()) == keys
    assert torch.equal(denoise(300), before) and torch.equal(sample(), images)


def test_a_failing_call_leaves_the_next_one_whole() -> None:
    apply_plan(PIPE, PLAN)
    expected = denoise(300)
    with pytest.raises(RuntimeError):
        UNET(LATENTS, 300, encoder_hidden_states=TEXT[..., :3])
    assert torch.equal(denoise(300), expected)


# samplers

SAMPLERS = {
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}, 6),
    "pndm with prk steps": ("PNDMScheduler", {"skip_prk_steps": False}, 6),
    "pndm 1000": ("PNDMScheduler", {"steps_offset": 0}, 1000),
    "ddim 1000": ("DDIMScheduler", {"steps_offset": 0}, 1000),
    "ddim, offset": ("DDIMScheduler", {"steps_offset": 1}, 3),
    "euler, fractions": ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}, 5),
    "euler, karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, 5),
    "euler 1000, offset": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, 1000),
    "dpm-solver++": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 5),
    "dpm-solver++ 1000": ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}, 1000),
    "unipc": ("UniPCMultistepScheduler", {}, 5),
    "unipc 1000": ("UniPCMultistepScheduler", {"timestep_spacing": "linspace"}, 1000),
    "heun": ("HeunDiscreteScheduler", {}, 3),
}


def stop_after(calls: int) -> Callable:
    """A pipeline callback; a 1000-step schedule need not be run to its end."""

    def callback(pipe: StableDiffusionPipeline, step: int, t: torch.Tensor, values: dict) -> dict:
        pipe._interrupt = step + 1 >= calls
        return values

    return callback


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler: str) -> None:
    name, config, steps = SAMPLERS[sampler]
    scheduler = getattr(diffusers, name)
    guidance = [1.0, 7.5][list(SAMPLERS).index(sampler) % 2]  # off and on in turn
    run = {"num_inference_steps": steps, "guidance_scale": guidance, "callback_on_step_end": stop_after(4)}
    PIPE.scheduler = scheduler.from_config({**STOCK_SCHEDULER.config, **config})
    with masked_by_hooks(PLAN) as visited:
        expected = sample(**run)
    apply_plan(PIPE, PLAN)
    with counted() as calls:
        assert torch.equal(sample(**run), expected)
    assert sum(calls.values()) == sum(len(PLAN.active_layers(t)) for t in visited)


def test_the_scheduler_may_change_under_a_plan() -> None:
    apply_plan(PIPE, PLAN)
    config = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    PIPE.scheduler = diffusers.EulerDiscreteScheduler.from_config({**STOCK_SCHEDULER.config, **config})
    with counted() as calls:
        sample(num_inference_steps=2)  # t = 999 and 0, given as 0.25 log sigma
    assert sum(calls.values()) == len(PLAN.active_layers(999)) + len(PLAN.active_layers(0))
    PIPE.scheduler = diffusers.EDMEulerScheduler()
    with pytest.raises(PlanError, match="EDMEulerScheduler does not count timesteps"):
        sample(num_inference_steps=2)


def test_the_overflow_of_an_offset_schedule() -> None:
    """PNDM and DDIM with steps_offset = 1 ask for t = 1000 at 1000 steps; the last expert serves it."""
    with masked_by_hooks(PLAN) as visited:
        expected = denoise(torch.tensor(1000))
    assert visited == [999]
    apply_plan(PIPE, PLAN)
    PIPE.scheduler.set_timesteps(1000)
    assert PIPE.scheduler.timesteps[0] == 1000
    assert torch.equal(denoise(PIPE.scheduler.timesteps[0]), expected)


def test_callbacks_see_every_step() -> None:
    apply_plan(PIPE, PLAN)
    seen = []
    sample(callback_on_step_end=lambda pipe, step, t, values: seen.append(int(t)) or values)
    assert seen == [751, 501, 501, 251, 1]


@pytest.mark.parametrize("apply_to_img2img", [True, False])
def test_image_to_image(apply_to_img2img: bool) -> None:
    img2img = StableDiffusionImg2ImgPipeline(**PIPE.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    image = Image.new("RGB", (32, 32), "red")
    with masked_by_hooks(PLAN) as visited:
        expected = sample(img2img, image=[image] * 2, strength=0.5)
    assert len(visited) == 3  # PNDM: 5 calls of which the first two are left out
    apply_plan(img2img if apply_to_img2img else PIPE, PLAN)
    assert torch.equal(sample(img2img, image=[image] * 2, strength=0.5), expected)


# what else stands on a denoiser


def add_lora(unet: UNet2DConditionModel) -> None:
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v", "conv1"], init_lora_weights="gaussian"))
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("lora_first", [True, False])
def test_lora(lora_first: bool) -> None:
    unet = copy.deepcopy(UNET)
    plain = denoise(300, unet)
    if not lora_first:
        apply_plan(unet, PLAN)
    add_lora(unet)
    keys = list(unet.state_dict())
    if lora_first:
        tuned = denoise(300, unet)
        apply_plan(unet, PLAN)
    pruned = denoise(300, unet)
    unet.disable_adapters()
    assert not torch.equal(denoise(300, unet), pruned)  # the adapter has an effect under the plan
    unet.enable_adapters()
    assert list(unet.state_dict()) == keys
    with counted(unet) as calls:
        denoise(300, unet)
    assert {name for name, count in calls.items() if count} == set(PLAN.active_layers(300))
    remove_plan(unet)
    if lora_first:
        assert torch.equal(denoise(300, unet), tuned)
    unet.disable_adapters()
    torch.testing.assert_close(denoise(300, unet), plain)  # peft itself does not give the last bit back


@pytest.mark.parametrize("hook_first", [True, False])
def test_offloading_hooks_come_and_go(hook_first: bool) -> None:
    """enable_model_cpu_offload takes its hooks off and on again after every call of the pipeline."""
    unet = copy.deepcopy(UNET)
    plain = denoise(300, unet)
    if hook_first:
        add_hook_to_module(unet, ModelHook())
    apply_plan(unet, PLAN)
    if not hook_first:
        add_hook_to_module(unet, ModelHook())
    pruned = denoise(300, unet)
    assert not torch.equal(pruned, plain)
    for _ in range(2):
        remove_hook_from_module(unet, recurse=True)
        assert torch.equal(denoise(300, unet), pruned)
        add_hook_to_module(unet, ModelHook())
        assert torch.equal(denoise(300, unet), pruned)
    remove_plan(unet)
    assert torch.equal(denoise(300, unet), plain)
    remove_hook_from_module(unet, recurse=True)
    assert torch.equal(denoise(300, unet), plain)


def test_a_copy_stands_on_its_own() -> None:
    apply_plan(PIPE, PLAN)
    twin = copy.deepcopy(UNET)
    expected = denoise(300)
    remove_plan(PIPE)
    assert torch.equal(denoise(300, twin), expected)
    with torch.no_grad():
        twin.conv_out.weight.zero_()
        twin.conv_out.bias.zero_()
    assert not denoise(300, twin).any()  # its own weights are the ones that run
    remove_plan(twin)
    assert own_attributes(twin) == own_attributes()


# mixed timesteps in one batch


@given(st.integers(0, 2**31), st.lists(st.integers(0, 999), min_size=3, max_size=3))
@settings(max_examples=15, deadline=None)
def test_mixed_timesteps_are_sub_batches(seed: int, timesteps: list[int]) -> None:
    apply_plan(UNET, random_plan(seed))
    one_by_one = torch.cat([denoise(t)[i : i + 1] for i, t in enumerate(timesteps)])
    torch.testing.assert_close(denoise(torch.tensor(timesteps)), one_by_one, rtol=1e-4, atol=1e-5)


def test_sub_batches_call_each_layer_at_most_once() -> None:
    apply_plan(UNET, PLAN)
    timesteps = [10, 400, 999]
    with counted() as calls:
        denoise(torch.tensor(timesteps))
    wanted = set().union(*(PLAN.active_layers(t) for t in timesteps))
    assert {name for name, count in calls.items() if count == 1} == wanted and sum(calls.values()) == len(wanted)


# compilation


def small_pipeline() -> StableDiffusionPipeline:
    """Six residual layers and nothing else: dynamo takes seconds for each graph of the larger one."""
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type=None,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(**{**PIPE.components, "unet": unet.eval()}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_each_active_set_has_its_own_static_graph() -> None:
    """Nine distinct sets: more than the eight graphs at which dynamo gives up on shared code."""
    torch._dynamo.reset()
    pipe = small_pipeline()
    backbone = wrap(pipe)
    masks = torch.ones(11, len(backbone.layers), dtype=torch.bool)
    masks[:8, :3] = torch.tensor([[i & 1, i & 2, i & 4] for i in range(8)]).bool()
    masks[8, 5] = False
    masks[9], masks[10] = masks[0], masks[7]
    plan = ExpertPlan.for_backbone(backbone, masks, torch.arange(11).repeat_interleave(91)[:1000])
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    run = {"num_inference_steps": 11, "guidance_scale": 1.0}
    apply_plan(pipe, plan)
    expected = sample(pipe, **run)
    apply_plan(pipe, plan, compile=backend)
    for _ in range(2):
        torch.testing.assert_close(sample(pipe, **run), expected, rtol=1e-3, atol=1e-4)
        assert len(graphs) == 9  # equal masks share a graph; nothing is compiled again
    assert sorted(graphs)[-2] < max(graphs)  # skipped layers are not in the graph
    remove_plan(pipe)
    assert own_attributes(pipe.unet) == own_attributes(small_pipeline().unet)


# bad plans


@pytest.mark.parametrize("fault", ["backbone", "masks", "file"])
def test_a_plan_that_does_not_fit_changes_nothing(fault: str, tmp_path: Path) -> None:
    content = PLAN.to_dict()
    if fault == "backbone":
        content["backbone"]["architecture_hash"] = "f" * 64
    elif fault == "masks":
        content["experts"][0] = "1" * len(LAYERS)
    (tmp_path / "plan.json").write_text(json.dumps(content)[: -10 if fault == "file" else None])
    key = {"backbone": "backbone.architecture_hash", "masks": "achieved_ratio", "file": "plan.json"}[fault]
    attributes = own_attributes()
    with pytest.raises(PlanError, match=key) as error:
        apply_plan(PIPE, tmp_path)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
    assert own_attributes() == attributes
    apply_plan(PIPE, PLAN)
    with pytest.raises(PlanError):
        apply_plan(PIPE, tmp_path)
    assert patch_of(PIPE).plan == PLAN  # the one that was applied stays


def test_no_plan_beside_the_weights(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="plan: none given"):
        apply_plan(UNET)
    with pytest.raises(PlanError, match="plan: none given and none applied"):
        save_pipeline(PIPE, None, tmp_path / "alter")
    assert not (tmp_path / "alter").exists()


# weights and plan together


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "alter"
    save_pipeline(PIPE, PLAN, folder)
    return folder


def test_the_artefact_is_a_stock_pipeline_with_plan_and_card(artefact: Path) -> None:
    stock = {"model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    assert {path.name for path in artefact.iterdir()} == stock | {"plan.json", "README.md"}
    card = (artefact / "README.md").read_text()
    assert "Without its plan this pipeline runs unpruned" in card and f"{PLAN.achieved_ratio:.2%}" in card
    pipe = StableDiffusionPipeline.from_pretrained(artefact)
    assert patch_of(pipe) is None
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(sample(pipe), sample())


def test_load_pipeline(artefact: Path) -> None:
    pipe = load_pipeline(artefact)
    pipe.set_progress_bar_config(disable=True)
    assert patch_of(pipe).plan == PLAN
    apply_plan(PIPE, PLAN)
    assert torch.equal(sample(pipe), sample())


def test_an_artefact_stored_in_half_precision_draws_in_float32(artefact: Path, tmp_path: Path) -> None:
    """transformers keeps the stored dtype, diffusers does not: the two lines of the README must not mix them."""
    pipe = StableDiffusionPipeline.from_pretrained(artefact)
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        network.half()
    save_pipeline(pipe, PLAN, tmp_path / "half")
    loaded = load_pipeline(tmp_path / "half")
    loaded.set_progress_bar_config(disable=True)
    assert {part.dtype for part in (loaded.unet, loaded.vae, loaded.text_encoder)} == {torch.float32}
    assert sample(loaded).isfinite().all()
    assert load_pipeline(tmp_path / "half", dtype=torch.float16).text_encoder.dtype == torch.float16


def test_the_plan_beside_the_weights_is_found(artefact: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(artefact)
    for target in (pipe, pipe.unet, UNet2DConditionModel.from_pretrained(artefact, subfolder="unet")):
        apply_plan(target)
        assert patch_of(target).plan == PLAN
        remove_plan(target)


def test_an_applied_plan_is_saved_with_the_pipeline(artefact: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(artefact)
    save_pipeline(pipe, None, tmp_path / "again")
    assert ExpertPlan.load(tmp_path / "again") == PLAN
    assert load_pipeline(tmp_path / "again").unet.state_dict().keys() == UNET.state_dict().keys()


def test_missing_plans_and_folders(artefact: Path, tmp_path: Path) -> None:
    shutil.copytree(artefact, tmp_path / "alter")
    (tmp_path / "alter" / "plan.json").unlink()
    with pytest.raises(PlanError, match=r"alter/plan\.json: no such file; without its plan a pipeline runs unpruned"):
        load_pipeline(tmp_path / "alter")
    with pytest.raises(PlanError, match="no such folder, nor a hub id"):
        load_pipeline(tmp_path / "nothing")


def in_hub_cache(artefact: Path, cache: Path, with_plan: bool) -> None:
    """A repository as the hub's client caches it."""
    repository = cache / "models--someone--alter"
    shutil.copytree(artefact, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    if not with_plan:
        (repository / "snapshots" / ("0" * 40) / "plan.json").unlink()


def test_hub_repositories(artefact: Path, tmp_path: Path) -> None:
    in_hub_cache(artefact, tmp_path / "whole", with_plan=True)
    pipe = load_pipeline("someone/alter", cache_dir=tmp_path / "whole", local_files_only=True)
    assert patch_of(pipe).plan == PLAN
    in_hub_cache(artefact, tmp_path / "bare", with_plan=False)
    with pytest.raises(PlanError, match="someone/alter: no plan.json from the hub, .* unpruned"):
        load_pipeline("someone/alter", cache_dir=tmp_path / "bare", local_files_only=True)
