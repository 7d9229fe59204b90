"""`evaluate`: the artefact of a run beside the unpruned teacher, same prompts and seeds (paper §4, Tables 1, 2, 8)."""

import time
from pathlib import Path

import numpy as np
import torch

from ..backbones import Backbone, load_backbone
from ..data import SOURCES
from ..inference import load_pipeline
from ..params import Params
from ..plan import CostTable, ExpertPlan
from ..provenance import record
from ..schedules import visited_timesteps
from .features import channels_first
from .generation import Sampler, generate, sampler_scheduler
from .judge import HIGHEST_PSNR, Judge, fid_ratio
from .metrics import psnr
from .protocol import Protocol, load_protocol
from .result import EvaluationResult, Grid, Metric
from .teacher import Teacher, image_folder

DEVIATION_STEPS, DEVIATION_IMAGES = 25, 128  # Table 8 compares with the teacher at 25 steps


def sampler_macs(params: Params, backbone: Backbone, steps: int, plan: ExpertPlan | None = None) -> int:
    """MACs of the denoiser for one image: every network call that the scheduler makes, twice under guidance."""
    timesteps = visited(params, backbone, steps)
    share = plan.macs_ratio(timesteps, CostTable.of(backbone)) if plan else 1.0
    evaluations = len(timesteps) * (2 if params.sampling.guidance_scale > 1 else 1)
    return round(evaluations * share * backbone.total_macs)


def visited(params: Params, backbone: Backbone, steps: int) -> list[int]:
    """The timestep 0..T-1 of each network call of the sampler in use."""
    return visited_timesteps(sampler_scheduler(backbone.pipeline, params.sampling), steps)


def cost_metrics(
    params: Params, backbone: Backbone, steps: int, method: str = "teacher", plan: ExpertPlan | None = None
) -> list[Metric]:
    convention = backbone.macs_convention
    total = sampler_macs(params, backbone, steps, plan)
    metrics = [Metric("total_macs", method, total, steps, unit="MACs/image", macs_convention=convention)]
    if plan:
        ratios = {"macs_ratio": None, "macs_ratio_visited": visited(params, backbone, steps)}
        costs = CostTable.of(backbone, params.cost.denominator)
        metrics += [Metric(name, method, plan.macs_ratio(timesteps, costs), steps, unit="share",
                           macs_convention=f"{convention}, of {params.cost.denominator}")
                    for name, timesteps in ratios.items()]  # fmt: skip
    return metrics


@torch.no_grad()
def vae_psnr(backbone: Backbone, judge: Judge, source: str, split: str, limit: int = 256) -> Metric:
    """Reconstruction of held-in or held-out pictures by the autoencoder: the ceiling of all that the pipeline draws."""
    vae, images = backbone.pipeline.vae, SOURCES[source].load(split)[0][:limit]
    pixels = (channels_first(images).to(vae.device, vae.dtype) / 127.5 - 1).split(64)
    decoded = torch.cat([vae.decode(vae.encode(batch).latent_dist.mean).sample for batch in pixels])
    decoded = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    name = {"train": "psnr_vae", "test": "psnr_vae_held_out"}[split]
    return judge.mean(name, np.minimum(psnr(decoded, images), HIGHEST_PSNR), method="vae", unit="dB")


def evaluate(params: Params) -> EvaluationResult:
    """Measure runs/<name>/alter, the runs of `evaluation.controls` and the teacher; writes metrics.json and grid.npz
    into the run folder.

    Interrupted, it goes on with the images that are there. Raises FileNotFoundError when a run has no artefact yet,
    ParamsError, AssetError or PlanError when something does not fit.
    """
    started, artefacts = time.perf_counter(), artefact_folders(params)
    protocol = load_protocol(params)
    judge = Judge(protocol, params.evaluation, params.sampling.seed)
    backbone = load_backbone(params.backbone, cost=params.cost)
    teacher = Teacher(params, backbone, protocol, judge)
    steps = sorted({*params.evaluation.teacher_steps, *params.evaluation.steps}, reverse=True)
    of_teacher, notes = teacher.measure([None, *steps])
    metrics = [
        *of_teacher.pop(None).metrics,
        *(vae_psnr(backbone, judge, params.data.source, split) for split in ("train", "test")),
    ]
    for s, measured in of_teacher.items():
        metrics += [*measured.metrics, *cost_metrics(params, backbone, s)]
    drawn = {}
    for method, folder in artefacts.items():
        plan = ExpertPlan.load(folder)
        plan.validate(backbone)
        drawn[method] = draw_artefact(params, protocol, backbone, method, folder, plan)
        for s, images in drawn[method].items():
            measured = judge.measure(images, method, s)
            metrics += [*measured.metrics, *cost_metrics(params, backbone, s, method, plan)]
            metrics += [fid_ratio(measured, other) for other in of_teacher.values()]
    metrics += deviations(teacher, drawn)
    result = EvaluationResult(tuple(metrics), grid(teacher, drawn["alter"]), params.run_folder, tuple(notes))
    result.save()
    record(params, params.run_folder, wall_seconds={"evaluation": round(time.perf_counter() - started, 1)})
    return result


def artefact_folders(params: Params) -> dict[str, Path]:
    """{"alter": this run's artefact, name: that of each control}. Raises FileNotFoundError where one is missing."""
    out = params.run_folder.parent
    folders = {"alter": params.run_folder, **{name: out / name for name in params.evaluation.controls}}
    for folder in folders.values():
        if not (folder / "alter" / "model_index.json").is_file():
            raise FileNotFoundError(f"{params.run.out}/{folder.name}/alter: no pipeline there; train this run first")
    return {method: folder / "alter" for method, folder in folders.items()}


def draw_artefact(
    params: Params, protocol: Protocol, backbone: Backbone, method: str, folder: Path, plan: ExpertPlan
) -> dict[int, np.ndarray]:
    """Images of an artefact, by number of steps."""
    denoiser = backbone.denoiser
    pipeline = load_pipeline(folder, dtype=denoiser.dtype).to(denoiser.device)
    pipeline.set_progress_bar_config(disable=True)
    identity = {key: plan.to_dict()[key] for key in ("experts", "routing")}
    return {
        s: generate(
            Sampler(pipeline, params.sampling, s, identity), protocol.prompts, image_folder(params), f"{method}-{s}"
        )
        for s in params.evaluation.steps
    }


def deviations(teacher: Teacher, drawn: dict[str, dict[int, np.ndarray]]) -> list[Metric]:
    """Table 8: how far each artefact, and the teacher at as many steps, are from the teacher's pictures at 25 steps."""
    first = range(min(DEVIATION_IMAGES, len(teacher.protocol.prompts)))
    target, against = teacher.images(DEVIATION_STEPS, first), f"teacher@{DEVIATION_STEPS}"
    metrics = []
    for method, pictures in drawn.items():
        for s, images in pictures.items():
            metrics += teacher.judge.deviation(images[: len(first)], target, against, method, s)
    for s in teacher.params.evaluation.steps:
        if s != DEVIATION_STEPS:
            metrics += teacher.judge.deviation(teacher.images(s, first), target, against, "teacher", s)
    return metrics


def grid(teacher: Teacher, pictures: dict[int, np.ndarray]) -> Grid:
    """The protocol's grid prompts at the first of `evaluation.steps`, and the timesteps that either method visited."""
    chosen, steps = list(teacher.protocol.grid), next(iter(pictures))
    names = [teacher.protocol.names[i] for i in chosen]
    calls = [float(t) for t in visited(teacher.params, teacher.backbone, steps)]
    images = {"real": teacher.protocol.real[chosen], f"teacher@{steps}": teacher.images(steps, chosen),
              f"alter@{steps}": pictures[steps][chosen]}  # fmt: skip
    return Grid(tuple(names), images, {name: calls for name in images if name != "real"})
