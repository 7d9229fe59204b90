"""The tables that the notebooks show, as data frames."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from diffusers import DiffusionPipeline
from IPython.display import Markdown
from pandas.io.formats.style import Styler
from torch import nn

from .backbones import Backbone, load_backbone, wrap
from .backbones.macs import LINEAR_CONV, WITH_ATTENTION
from .evaluation import EvaluationResult, comparable_tables
from .evaluation.generation import make_scheduler
from .hypernetwork import Hypernetwork
from .plan import CostTable, ExpertPlan
from .plan.schedules import visited_timesteps

# MACs of one call of a full-size denoiser in the paper, in G: (convention, latent size) -> value, where it comes from
PAPER_MACS = {
    ("sd21", LINEAR_CONV, 96): (760.8, "Table 2: 38.04 T / 50 steps"),
    ("sd21", WITH_ATTENTION, 96): (1384.2, "Table 1, by another counter"),
}
FULL_SIZE = {"UNet2DConditionModel": ("sd21", (96, 64)), "DiTTransformer2DModel": ("dit_xl2", (32,))}
SCHEDULERS = {  # that a pipeline works with: DiTPipeline doesn't scale its first noise as Euler's sigmas want it
    "UNet2DConditionModel": ("PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler",
                             "UniPCMultistepScheduler"),
    "DiTTransformer2DModel": ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler",
                              "UniPCMultistepScheduler"),
}  # fmt: skip


def layer_table(backbone: Backbone) -> pd.DataFrame:
    """One row a prunable layer, in execution order: kind, MACs, share of the whole network."""
    rows = [
        (layer.name, layer.kind, layer.macs / 1e6, 100 * layer.macs / backbone.total_macs) for layer in backbone.layers
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "MMACs", "% of the network"]).set_index("layer")


def full_size_macs(class_name: str = "UNet2DConditionModel") -> pd.DataFrame:
    """MACs of one call of the paper's denoiser of that class, by convention and latent size, counted on the meta
    device: no weights are needed. Beside them what the paper prints."""
    name, sizes = FULL_SIZE[class_name]
    pipeline = load_backbone(name, weights="random", device="meta").pipeline
    rows = []
    for size in sizes:
        for convention in (LINEAR_CONV, WITH_ATTENTION):
            backbone = wrap(pipeline, convention, (size, size))
            prunable = 1 - backbone.fixed_macs / backbone.total_macs
            paper, source = PAPER_MACS.get((name, convention, size), (None, ""))
            rows.append(
                (
                    f"{size} x {size}",
                    convention,
                    len(backbone.layers),
                    backbone.total_macs / 1e9,
                    100 * prunable,
                    paper,
                    source,
                )
            )
    columns = ["latents", "convention", "N_L", "GMACs, counted", "% prunable", "GMACs, paper", "where"]
    frame = pd.DataFrame(rows, columns=columns).set_index(["latents", "convention"])
    frame.attrs |= {"name": name, "parameters": parameters(backbone.denoiser)}
    return frame


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def hypernetwork_parameters(net: Hypernetwork) -> pd.DataFrame:
    """Rows of Tables 5 and 6: every tensor of generator and router, its shape and number of values."""
    rows = [("generator (Table 5)", "Z, frozen", tuple(net.generator.z.shape), 0)]
    for part, module in (("generator (Table 5)", net.generator), ("router (Table 6)", net.router)):
        for index, layer in enumerate(module.net):
            rows += [(part, f"{type(layer).__name__} {index} {name}", tuple(value.shape), value.numel())
                     for name, value in layer.named_parameters()]  # fmt: skip
        rows.append((part, "all", "", parameters(module)))
    return pd.DataFrame(rows, columns=["network", "tensor", "shape", "trainable parameters"]).set_index(
        ["network", "tensor"]
    )


def expert_table(plan: ExpertPlan) -> pd.DataFrame:
    """One row an expert: share of the timesteps, layers that run, share of the MACs."""
    served = plan.routing.bincount(minlength=plan.num_experts) / plan.num_train_timesteps
    distances = (plan.masks[:, None] != plan.masks[None]).sum(-1).fill_diagonal_(len(plan.layer_names) + 1)
    return pd.DataFrame({
        "% of the timesteps": 100 * served.numpy(),
        f"layers of {len(plan.layer_names)}": plan.masks.sum(1).numpy(),
        f"% of the MACs ({plan.cost.denominator})": [100 * macs / plan.cost.whole for macs in plan.expert_macs()],
        "layers from the nearest mask": distances.min(1).values.numpy(),
    }).rename_axis("expert")  # fmt: skip


def sampler_table(pipe: DiffusionPipeline, plan: ExpertPlan, schedulers: Sequence[str], steps: int) -> pd.DataFrame:
    """What a plan saves under each scheduler: calls, switches of the expert, active MACs over the visited timesteps."""
    costs = CostTable(plan.cost.layers, plan.cost.fixed, plan.cost.convention, plan.cost.resolution)
    rows = {}
    for name in schedulers:
        visited = visited_timesteps(make_scheduler(pipe, name), steps)
        experts = [plan.expert(t) for t in visited]
        switches = sum(a != b for a, b in zip(experts, experts[1:], strict=False))
        ratio = plan.macs_ratio(visited, costs)
        rows[name] = (steps, len(visited), len(set(experts)), switches, 100 * ratio, 1 / ratio)
    columns = ["steps", "calls", "experts", "switches", "active MACs, %", "ideal speedup"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("scheduler")


def quality_table(result: EvaluationResult) -> pd.DataFrame:
    """One row a method and number of steps: every figure of the evaluation, with its 95 % interval where it has one."""
    cells = {}
    for m in result.metrics:
        interval = "" if m.interval is None else f" [{m.interval[0]:.4g}, {m.interval[1]:.4g}]"
        name = m.name + (f" / {m.against}" if m.against else "") + (f", {m.unit}" if m.unit else "")
        name += f", batch {m.batch_size}" if m.batch_size else ""
        name += f", {m.macs_convention}" if m.name == "macs_per_call" else ""
        name += f" ({m.protocol})" if m.protocol not in (None, "embedded") else ""
        cells.setdefault((m.method, "" if m.steps is None else m.steps), {})[name] = f"{m.value:.4g}{interval}"
    frame = pd.DataFrame.from_dict(cells, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["method", "steps"])
    return frame.fillna("").T


def paper_comparison(result: EvaluationResult) -> list[Markdown | Styler]:
    """Notes and tables of the paper with ours beside them, to display one after the other; what was missing first."""
    missing = [Markdown("Not there, and so not measured:"), result.missing_frame().style] if result.missing else []
    tables = comparable_tables(result).items()
    return [*missing, *(part for note, table in tables for part in (Markdown(note), table.style))]


def artefact_sizes(folder: Path, plan: ExpertPlan, denoiser: nn.Module) -> pd.DataFrame:
    """What the artefact weighs: files by component in MB, parameters of the denoiser by how many experts run them."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix == ".safetensors" or path.name == "plan.json"]
    rows = [(path.relative_to(folder).as_posix(), path.stat().st_size / 1e6, "MB on disk") for path in files]
    counts = [parameters(denoiser.get_submodule(name)) for name in plan.layer_names]
    used = plan.masks[plan.routing.unique()].sum(0).tolist()
    in_use = len(plan.routing.unique())
    labels = {in_use: f"layers that all {in_use} experts in use run", 0: "layers that no expert in use runs"}
    for wanted, label in labels.items():
        share = sum(count for count, times in zip(counts, used, strict=True) if times == wanted) / parameters(denoiser)
        rows.append((label, 100 * share, "% of the denoiser's parameters"))
    return pd.DataFrame(rows, columns=["what", "size", "unit"]).set_index("what")
