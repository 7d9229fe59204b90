"""Exported experts run under onnxruntime as they do under PyTorch, with the weights on disk once."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from planned_pipeline import LATENTS, TEXT, sample, smallest_pipeline
from tiny_dit_pipeline import tiny_dit_pipeline

from alter_lib import ExpertPlan, PlanError, apply_plan, remove_plan
from alter_lib.backbones import wrap
from alter_lib.export import ExportedExperts, data_spans, distinct_experts, export_experts
from alter_lib.params import ROOT

PIPE = smallest_pipeline(attention=True)
BACKBONE = wrap(PIPE)


def three_experts() -> ExpertPlan:
    """Experts 0 and 2 have equal masks, expert 3 serves no timestep."""
    masks = torch.ones(4, len(BACKBONE.layers), dtype=torch.bool)
    masks[[0, 2], 1] = masks[[0, 2], 3] = masks[1, 2] = masks[3, 0] = False
    return ExpertPlan.for_backbone(BACKBONE, masks, torch.arange(1000) * 3 // 1000)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "onnx"
    apply_plan(PIPE, three_experts())
    export_experts(PIPE, folder)
    remove_plan(PIPE)
    return folder


def test_one_graph_a_distinct_expert_and_the_weights_once(exported: Path) -> None:
    assert distinct_experts(three_experts()) == [0, 1]
    names = {path.name for path in exported.iterdir()}
    assert names == {"expert_00.onnx", "expert_01.onnx", "weights.safetensors", "plan.json"}
    assert not list(exported.parent.glob(".*partial"))
    large = {tuple(p.shape): p for p in PIPE.unet.parameters() if p.numel() * 4 >= 1024}
    spans = data_spans(exported / "weights.safetensors")
    stored = np.fromfile(exported / "weights.safetensors", np.uint8)
    weight = PIPE.unet.conv_in.weight.detach().numpy()
    begin, end = spans[next(name for name in spans if name.endswith("conv_in.weight"))]
    assert np.array_equal(stored[begin:end].view(np.float32).reshape(weight.shape), weight)
    total = sum(p.numel() * 4 for p in PIPE.unet.parameters())
    assert len(large) > 5 and (exported / "weights.safetensors").stat().st_size < 1.2 * total


def test_graphs_hold_no_stack_traces_with_folders_of_this_machine(exported: Path) -> None:
    folders = [str(ROOT).encode(), str(Path(torch.__file__).parents[1]).encode()]
    for file in exported.iterdir():
        assert not [folder for folder in folders if folder in file.read_bytes()], file.name


def test_every_expert_is_the_one_under_pytorch_at_any_batch_size(exported: Path) -> None:
    experts = ExportedExperts(exported)
    apply_plan(PIPE, three_experts())
    for t in (5, 500, 900):
        for size in (1, 3):
            with torch.no_grad():
                expected = PIPE.unet(LATENTS[:size], torch.tensor(t), TEXT[:size]).sample
            found = experts(LATENTS[:size].numpy(), t, TEXT[:size].numpy())
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)
    remove_plan(PIPE)
    assert len(experts.sessions) == 2  # t = 900 is served by the graph of expert 0
    with pytest.raises(PlanError, match="timestep: 1001 is outside"):
        experts(LATENTS.numpy(), 1001, TEXT.numpy())


def test_a_stock_pipeline_draws_with_the_exported_experts(exported: Path) -> None:
    apply_plan(PIPE, three_experts())
    expected = sample(PIPE)
    remove_plan(PIPE)
    PIPE.unet.forward = ExportedExperts(exported).forward
    torch.testing.assert_close(sample(PIPE), expected, rtol=1e-2, atol=1e-3)
    del PIPE.unet.forward


def test_an_export_needs_a_plan_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="export: no plan is applied"):
        export_experts(PIPE, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_lines_of_the_docs_run_without_this_library(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "deployment.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "onnxruntime" in block)
    assert "alter_lib" not in code and "torch" not in code
    monkeypatch.chdir(exported.parent)
    names: dict = {}
    exec(code.replace("exported/", f"{exported.name}/"), names)
    for t in (5, 500, 900):
        found = names["denoise"](LATENTS.numpy(), t, TEXT.numpy())
        assert np.array_equal(found, ExportedExperts(exported)(LATENTS.numpy(), t, TEXT.numpy()))


def test_experts_of_a_dit(tmp_path: Path) -> None:
    """Block 0 skipped, the embedder inside it alive; labels are integers, the timestep one a sample."""
    pipe = tiny_dit_pipeline()
    masks = torch.arange(8)[None] % 2 == 1
    apply_plan(pipe, ExpertPlan.for_backbone(wrap(pipe), masks, torch.zeros(1000, dtype=torch.long)))
    export_experts(pipe, tmp_path / "onnx")
    x, labels = torch.randn(3, 4, 8, 8), torch.tensor([1, 7, 1000])
    with torch.no_grad():
        expected = pipe.transformer(x, torch.tensor([42]).expand(3), labels).sample
    found = ExportedExperts(tmp_path / "onnx")(x.numpy(), 42, labels.numpy())
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)
