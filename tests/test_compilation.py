"""compile=: one static graph for each active set and form of the inputs, none compiled again, the same pictures."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator

import diffusers
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from planned_pipeline import LATENTS, TEXT, own_attributes, random_plan, sample, smallest_pipeline

from alter_lib import ExpertPlan, PlanError, apply_plan, doctor, remove_plan, warm_up
from alter_lib.backbones import wrap
from alter_lib.inference.compilation import Compilation, StaticGraphs, form
from alter_lib.inference.patching import LayerForward, Patch, patch_of


class Counting:
    """A backend of torch.compile that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs: list[weakref.ref] = []
        self.sizes: list[int] = []
        self.dtypes: set[torch.dtype] = set()

    def __call__(self, graph: torch.fx.GraphModule, inputs: list) -> Callable:
        self.dtypes |= {each.dtype for each in inputs if torch.is_tensor(each)}
        self.graphs.append(weakref.ref(graph))
        self.sizes.append(len(graph.graph.nodes))
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield


def two_experts(pipe: StableDiffusionPipeline) -> ExpertPlan:
    """Expert 0 skips a residual layer in the lower half of the timesteps, expert 1 runs everything."""
    backbone = wrap(pipe)
    masks = torch.ones(2, len(backbone.layers), dtype=torch.bool)
    masks[0, 1] = False
    return ExpertPlan.for_backbone(backbone, masks, (torch.arange(1000) >= 500).long())


def test_ten_experts_compile_once_each_and_never_again() -> None:
    """Ten distinct sets and an eleventh expert equal to the first: more than the eight graphs at which dynamo gives up
    on shared code. Compiled in the warm-up; then other prompts, seeds, numbers of steps: not one more."""
    pipe, backend = smallest_pipeline(), Counting()
    backbone = wrap(pipe)
    masks = torch.ones(11, len(backbone.layers), dtype=torch.bool)
    masks[:8, :3] = torch.tensor([[i & 1, i & 2, i & 4] for i in range(8)]).bool()
    masks[8, 5] = masks[9, 4] = False
    masks[10] = masks[0]
    plan = ExpertPlan.for_backbone(backbone, masks, (torch.arange(1000) // 90).clip(max=10))
    apply_plan(pipe, plan)
    run = {"guidance_scale": 1.0}
    expected = every_step(pipe)
    assert {plan.expert(t) for t, _ in expected} == set(range(11))
    apply_plan(pipe, plan, compile={"backend": backend, "fullgraph": True})
    warm_up(pipe, ["a", "b"], output_type="latent", **run)
    assert len(backend.sizes) == 10
    assert sorted(backend.sizes)[0] < max(backend.sizes)  # skipped layers are not in the graph
    assert backend.dtypes == {torch.float32, torch.int64}  # weights, latents, text and t: no mask
    with torch.compiler.set_stance("fail_on_recompile"):
        for (t, found), (_, wanted) in zip(every_step(pipe), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4, msg=lambda text, t=t: f"t = {t}: {text}")
        pipe(["other", "prompts"], num_inference_steps=3, output_type="latent", **run)
    assert len(backend.sizes) == 10


def every_step(pipe: StableDiffusionPipeline) -> list[tuple[int, torch.Tensor]]:
    """(t, latents after it) of a run in 11 steps: each expert serves one of them."""
    seen = []

    def callback(pipe: StableDiffusionPipeline, step: int, t: torch.Tensor, values: dict) -> dict:
        seen.append((int(t), values["latents"]))
        return values

    sample(pipe, num_inference_steps=11, guidance_scale=1.0, callback_on_step_end=callback)
    return seen


def denoised(pipe: StableDiffusionPipeline, t: int) -> torch.Tensor:
    with torch.no_grad():
        return pipe.unet(LATENTS.to(pipe.unet.dtype), torch.tensor(t), TEXT.to(pipe.unet.dtype)).sample


def test_each_form_of_the_inputs_has_its_graph_and_all_stay() -> None:
    """Guidance doubles the batch, height and width the resolution, a scheduler the type of t; going back is free."""
    pipe, backend = smallest_pipeline(), Counting()
    plan = two_experts(pipe)
    apply_plan(pipe, plan, compile=backend)
    euler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    stock = pipe.scheduler
    forms = [{"guidance_scale": 1.0}, {"guidance_scale": 7.5}, {"guidance_scale": 1.0, "height": 64, "width": 48}]
    for number, run in enumerate(forms, 1):
        sample(pipe, **run)
        assert len(backend.sizes) == 2 * number
    pipe.scheduler = euler  # fractions: t is float32
    sample(pipe, guidance_scale=1.0)
    assert len(backend.sizes) == 8
    for scheduler, run in ((stock, forms[0]), (euler, forms[0]), (stock, forms[2]), (stock, forms[1])):
        pipe.scheduler = scheduler
        sample(pipe, **run)
    assert len(backend.sizes) == 8


def test_inductor_draws_what_eager_draws() -> None:
    """Both experts of a UNet of one stage: each kernel of a larger one takes a C++ compiler seconds."""
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), mid_block_type=None,
    ).eval()  # fmt: skip
    pipe = StableDiffusionPipeline(**{**smallest_pipeline().components, "unet": unet}, requires_safety_checker=False)
    plan = two_experts(pipe)
    apply_plan(pipe, plan)
    expected = {t: denoised(pipe, t) for t in (300, 700)}
    apply_plan(pipe, plan, compile=True)
    for t, wanted in expected.items():
        torch.testing.assert_close(denoised(pipe, t), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected[300], expected[700]) and len(patch_of(pipe).graphs.graphs) == 2


def test_another_dtype_under_a_compiled_plan() -> None:
    """pipe.to moves the weights; the graphs of the old ones wait and those of the new ones are added."""
    pipe, backend = smallest_pipeline(), Counting()
    plan = two_experts(pipe)
    apply_plan(pipe, plan, compile=backend)
    full = denoised(pipe, 300)
    pipe.unet.to(torch.bfloat16)
    half = denoised(pipe, 300)
    assert half.dtype == torch.bfloat16 and len(backend.sizes) == 2
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.05)
    apply_plan(pipe, plan)
    assert torch.equal(denoised(pipe, 300), half)


def test_an_adapter_that_is_there_is_compiled_in() -> None:
    pipe, backend = smallest_pipeline(attention=True), Counting()
    plan = two_experts(pipe)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
    for name, parameter in pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    apply_plan(pipe, plan)
    expected = denoised(pipe, 300)
    apply_plan(pipe, plan, compile=backend)
    torch.testing.assert_close(denoised(pipe, 300), expected, rtol=1e-4, atol=1e-5)
    assert len(backend.sizes) == 1


def test_offloading_the_whole_denoiser_is_compiled_and_piece_by_piece_is_not() -> None:
    pipe, backend = smallest_pipeline(), Counting()
    plan = two_experts(pipe)
    apply_plan(pipe, plan)
    expected = denoised(pipe, 300)
    apply_plan(pipe, plan, compile=backend)
    add_hook_to_module(pipe.unet, ModelHook())
    torch.testing.assert_close(denoised(pipe, 300), expected, rtol=1e-4, atol=1e-5)
    assert len(backend.sizes) == 1
    remove_hook_from_module(pipe.unet)
    for module in list(pipe.unet.modules())[1:]:
        add_hook_to_module(module, ModelHook())
    assert patch_of(pipe).graphs.dynamic_inside()
    assert torch.equal(denoised(pipe, 300), expected) and torch.equal(denoised(pipe, 300), expected)
    assert len(backend.sizes) == 1
    remove_hook_from_module(pipe.unet, recurse=True)
    assert not patch_of(pipe).graphs.dynamic_inside()


def test_it_comes_off_without_a_trace_and_leaks_nothing() -> None:
    """Graphs of earlier rounds are freed; without compilation not even a patch is left."""
    pipe, backend = smallest_pipeline(), Counting()
    before, attributes, plan = denoised(pipe, 300), own_attributes(pipe.unet), two_experts(pipe)
    for _ in range(6):
        apply_plan(pipe, plan, compile=backend)
        denoised(pipe, 300)
        remove_plan(pipe)
    assert torch.equal(denoised(pipe, 300), before) and own_attributes(pipe.unet) == attributes
    gc.collect(), gc.collect()  # the first runs the finalizers that let go of dynamo's entries
    assert len(backend.graphs) == 6 and not any(graph() for graph in backend.graphs)


def test_apply_and_remove_leave_no_object_behind() -> None:
    pipe = smallest_pipeline()
    plan = two_experts(pipe)

    def alive() -> int:
        gc.collect()
        return sum(type(each) in (Patch, LayerForward, StaticGraphs, torch.Tensor) for each in gc.get_objects())

    def cycle() -> None:
        apply_plan(pipe, plan, compile=Counting())
        apply_plan(pipe, plan)
        denoised(pipe, 300)
        remove_plan(pipe)

    cycle()
    first = alive()
    for _ in range(5):
        cycle()
    assert alive() == first


def test_doctor_holds_compiled_experts_against_a_compiled_network() -> None:
    """One graph more than experts: an eager call beside compiled ones would count what compiling saves as pruning."""
    pipe, backend = smallest_pipeline(), Counting()
    backbone = wrap(pipe)
    masks = torch.ones(2, len(backbone.layers), dtype=torch.bool)
    masks[0, 1] = masks[1, 2] = False
    plan = ExpertPlan.for_backbone(backbone, masks, (torch.arange(1000) >= 500).long())
    apply_plan(pipe, plan, compile=backend)
    found = doctor(pipe, steps=4, repeats=1)
    assert len(backend.sizes) == 3 and found.compiled and "cpu, both compiled)" in str(found)
    assert patch_of(pipe).active is None
    apply_plan(pipe, plan)
    assert not doctor(pipe, steps=4, repeats=1).compiled


def test_a_copy_compiles_anew() -> None:
    pipe, backend = smallest_pipeline(), Counting()
    apply_plan(pipe, two_experts(pipe), compile=backend)
    expected = denoised(pipe, 300)
    twin = copy.deepcopy(pipe.unet)
    graphs = vars(twin)["_alter_patch"].graphs
    assert graphs.graphs == {} and graphs.compilation.backend is not None
    inside = {id(module) for module in twin.modules()}
    assert {id(module) for module in graphs.modules} <= inside
    torch.testing.assert_close(twin(LATENTS, torch.tensor(300), TEXT).sample, expected, rtol=1e-4, atol=1e-5)


def test_choices_of_compile() -> None:
    assert Compilation.of(False) is None
    assert Compilation.of(True) == Compilation("inductor")
    assert Compilation.of("aot_eager").backend == "aot_eager"
    assert Compilation.of({"mode": "reduce-overhead"}).cuda_graphs and not Compilation.of(True).cuda_graphs
    assert Compilation.of({"options": {"triton.cudagraphs": True}}).cuda_graphs
    with pytest.raises(TypeError, match="modes"):
        Compilation.of({"modes": "default"})


def test_form_tells_tensors_apart_by_what_a_graph_is_specialised_to() -> None:
    x = torch.zeros(2, 3)
    same, others = torch.ones(2, 3), [torch.zeros(3, 2), torch.zeros(3, 2).T, x.double(), x[None]]
    assert form((x, {"a": [x], "b": 3})) == form((same, {"a": [same], "b": 4}))
    assert all(form(x) != form(other) for other in others)
    assert form({"a": x}) != form({"b": x})


def test_a_warm_up_needs_a_plan_and_works_uncompiled() -> None:
    pipe = smallest_pipeline()
    with pytest.raises(PlanError, match="warm_up: no plan is applied"):
        warm_up(pipe, "a")
    apply_plan(pipe, random_plan(0, 3, backbone=wrap(pipe)))
    expected = sample(pipe)
    warm_up(pipe, "a", output_type="latent")
    assert torch.equal(sample(pipe), expected)
