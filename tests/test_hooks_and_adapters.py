"""What else stands on a denoiser under a plan: LoRA, offloading hooks, copies."""

import copy
from collections.abc import Iterator

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from planned_pipeline import PIPE, PLAN, UNET, counted, denoise, own_attributes

from alter_lib import apply_plan, remove_plan


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    remove_plan(PIPE)


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
