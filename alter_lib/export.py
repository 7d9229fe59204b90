"""The artefact without PyTorch: one ONNX graph for each distinct expert, all weights once.

    python -m alter_lib.export runs/tiny_sd/alter exported/          # pip install alter-lib[deploy]

`expert_NN.onnx` hold the graphs (NN: the first expert with that mask), `weights.safetensors` the weights of them all,
which the graphs refer to as external data, `plan.json` the routing. Only onnxruntime and numpy are needed to run them:
`ExportedExperts`, and docs/deployment.md shows the same in a few lines.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from safetensors.numpy import save_file
from torch import nn
from tqdm.auto import tqdm

from .backbones import ADAPTERS
from .backbones.timing import random_inputs
from .common.command_line import Parser, exit_code
from .common.faults import BadInput
from .common.files import whole
from .inference import load_pipeline
from .inference.patching import Patch, patch_of
from .plan import ExpertPlan
from .plan.file import PlanError
from .plan.schedules import timestep_index

if TYPE_CHECKING:
    import onnx_ir
    import onnxruntime

WEIGHTS = "weights.safetensors"
INLINE = 1024  # bytes: smaller constants stay in the graph
CONDITIONS = ("encoder_hidden_states", "class_labels")
BATCH = torch.export.Dim("batch", min=1, max=1024)


class Expert(nn.Module):
    """One expert as a module of its own: positional tensors in, one tensor out."""

    def __init__(self, patch: Patch) -> None:
        super().__init__()
        self.denoiser = patch.denoiser.module
        self.original = patch.denoiser.original

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return self.original(sample, timestep, *rest, return_dict=False)[0]


def export_experts(
    pipe: DiffusionPipeline, folder: str | os.PathLike, resolution: tuple[int, int] | None = None
) -> None:
    """Write the experts of the plan that is applied to `pipe` to `folder`.

    Graphs take sample [B, C, h, w], timestep (float32: a scalar, for a DiT [B]) and the condition, at any batch size
    and the one latent `resolution` (None: the plan's). `folder` is replaced as a whole, once everything is written.
    Raises PlanError where no plan is applied, ModuleNotFoundError without the extra `deploy`.
    """
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    if (patch := patch_of(pipe)) is None:
        raise PlanError("export: no plan is applied (apply_plan, load_pipeline)")
    folder, plan = Path(folder), patch.plan
    with whole(folder) as partial:
        partial.mkdir()
        models = {}
        for expert in tqdm(distinct_experts(plan), desc="export", unit="expert"):
            inputs = random_inputs(pipe, resolution or plan.cost.resolution, 2)
            models[expert] = graph_of(patch, tuple(plan.masks[expert].tolist()), inputs)
        write_weights(models, partial)
        for expert, model in models.items():
            ClearMetadataAndDocStringPass()(model)  # stack traces: most of a graph's bytes, and paths of this machine
            onnx_ir.save(model, partial / file_name(expert))
        plan.save(partial)


def file_name(expert: int) -> str:
    return f"expert_{expert:02d}.onnx"


def distinct_experts(plan: ExpertPlan) -> list[int]:
    """The first expert of each distinct mask among those that serve any timestep."""
    first: dict[tuple[bool, ...], int] = {}
    for expert in plan.routing.unique().tolist():
        first.setdefault(tuple(plan.masks[expert].tolist()), expert)
    return list(first.values())


@torch.no_grad()
def graph_of(patch: Patch, active: tuple[bool, ...], inputs: list[torch.Tensor]) -> "onnx_ir.Model":
    """The ONNX graph of the denoiser with these layers active: skipped ones are not in it."""
    sample, timestep, *rest = inputs
    shaped = ADAPTERS[type(patch.denoiser.module).__name__].timestep_input(timestep.float(), len(sample))
    batch = [{0: BATCH} if value.ndim else None for value in (sample, shaped, *rest)]
    names = ["sample", "timestep", "condition"]
    shapes = {"sample": batch[0], "timestep": batch[1], "rest": tuple(batch[2:])}
    patch.active = active
    try:
        program = torch.onnx.export(
            Expert(patch).eval(), (sample, shaped.contiguous(), *rest), dynamo=True, verbose=False, input_names=names,
            output_names=["output"], dynamic_shapes=shapes,
        )  # fmt: skip
    finally:
        patch.active = None
    return program.model


def write_weights(models: Mapping[int, "onnx_ir.Model"], folder: Path) -> None:
    """Move the weights of all graphs to one file, equal ones once, and have the graphs refer to it."""
    import onnx_ir

    keys, tensors = {}, {}
    for model in models.values():
        for name, value in model.graph.initializers.items():
            array = value.const_value.numpy()
            if array.nbytes >= INLINE:
                content = hashlib.sha256(array.tobytes()).hexdigest() + str((array.shape, array.dtype))
                key = keys.setdefault(content, name if name not in tensors else f"{name}.{len(keys)}")
                tensors[key] = np.ascontiguousarray(array)
                value.const_value = (key, value.const_value)
    save_file(tensors, folder / WEIGHTS)
    spans = data_spans(folder / WEIGHTS)
    for model in models.values():
        for name, value in model.graph.initializers.items():
            if isinstance(value.const_value, tuple):
                key, old = value.const_value
                begin, end = spans[key]
                value.const_value = onnx_ir.ExternalTensor(
                    WEIGHTS, begin, end - begin, old.dtype, shape=old.shape, name=name, base_dir=folder
                )


def data_spans(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and end of each tensor in a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    start = 8 + length
    return {name: (start + entry["data_offsets"][0], start + entry["data_offsets"][1])
            for name, entry in header.items() if name != "__metadata__"}  # fmt: skip


class ExportedExperts:
    """The exported graphs under onnxruntime, each loaded on its first use.

    experts = ExportedExperts("exported")
    noise = experts(sample, 501, text)          # numpy in, numpy out
    pipe.unet.forward = experts.forward         # or under a stock diffusers pipeline
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder, self.plan = Path(folder), ExpertPlan.load(folder)
        first = {tuple(self.plan.masks[expert].tolist()): expert for expert in reversed(distinct_experts(self.plan))}
        self.files = [first.get(tuple(mask)) for mask in self.plan.masks.tolist()]
        self.sessions: dict[int, Any] = {}

    def session(self, t: int) -> "onnxruntime.InferenceSession":
        import onnxruntime

        expert = self.files[self.plan.expert(t)]
        if expert not in self.sessions:
            self.sessions[expert] = onnxruntime.InferenceSession(self.folder / file_name(expert))
        return self.sessions[expert]

    def __call__(self, sample: np.ndarray, timestep: float, *condition: np.ndarray) -> np.ndarray:
        """eps_theta(x_t, t) for one timestep; raises PlanError outside 0..T-1."""
        session = self.session(timestep_index(timestep, self.plan.num_train_timesteps))
        shape = [len(sample)] if session.get_inputs()[1].shape else []
        values = [sample, np.full(shape, timestep, np.float32), *condition]
        feed = {entry.name: value for entry, value in zip(session.get_inputs(), values, strict=True)}
        return session.run(None, feed)[0]

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | float, *condition: Any, **keywords: Any) -> Any:
        """In the place of a denoiser's own forward: one timestep for the whole batch."""
        condition = [*condition, *(keywords[key] for key in CONDITIONS if key in keywords)]
        t = float(timestep.flatten()[0]) if torch.is_tensor(timestep) else timestep
        output = torch.from_numpy(self(sample.numpy(), t, *(value.numpy() for value in condition)))
        return Transformer2DModelOutput(sample=output) if keywords.get("return_dict", True) else (output,)


def main(command_line: list[str] | None = None) -> int:
    parser = Parser(prog="python -m alter_lib.export", description=__doc__.splitlines()[0])
    parser.add_argument("artefact", help="folder or hub id of a pipeline with its plan")
    parser.add_argument("out", help="folder to write, replaced as a whole")
    parser.add_argument("--resolution", type=int, nargs=2, metavar=("H", "W"), help="latent size; default: the plan's")
    arguments = parser.parse_args(command_line)

    def work() -> None:
        try:
            pipe = load_pipeline(arguments.artefact)
            export_experts(pipe, arguments.out, arguments.resolution and tuple(arguments.resolution))
        except ModuleNotFoundError as error:
            raise BadInput(f"{error}; pip install alter-lib[deploy]") from error

    return exit_code(work, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
