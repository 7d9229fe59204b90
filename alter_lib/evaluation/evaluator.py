"""`evaluate`: the artefact of a run beside the unpruned teacher, same prompts and seeds (paper §4, Tables 1, 2, 8)."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from ..backbones import Backbone, load_backbone
from ..data import SOURCES
from ..params import Params
from ..provenance import record
from ..run_folder.lock import locked
from .at_scale import evaluate_at_scale
from .context import with_context
from .cost import call_metrics, cost_metrics, visited
from .features import channels_first
from .generation import generate, sampler_name
from .judge import Judge, fid_ratio
from .kept_features import feature_folder
from .latency import time_metrics
from .methods import ALTER, Method, artefact_method, artefacts, teacher_method
from .metrics import HIGHEST_PSNR, psnr
from .protocol import load_protocol
from .result import EvaluationResult, Grid, Metric
from .teacher import Teacher, image_folder

DEVIATION_STEPS, DEVIATION_IMAGES = 25, 128  # Table 8 compares with the teacher at 25 steps


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
    ParamsError, AssetError or PlanError when something does not fit; ParamsError, too, where another process evaluates
    this run: each would remove the other's images.
    """
    with locked(params.run_folder, "evaluation"):
        return evaluate_embedded(params) if params.evaluation.protocol == "embedded" else evaluate_at_scale(params)


def evaluate_embedded(params: Params) -> EvaluationResult:
    """On the embedded pictures, by the extractors that come with the repository."""
    started, names = time.perf_counter(), artefacts(params)
    protocol = load_protocol(params)
    judge = Judge(protocol, params.evaluation, params.sampling.seed, feature_folder(params))
    backbone = load_backbone(params.backbone, cost=params.cost)
    teacher = Teacher(params, backbone, protocol, judge)
    unpruned = teacher_method(params, backbone)
    of_teacher, notes = teacher.measure([None, *unpruned.steps])
    metrics = [
        *of_teacher.pop(None).metrics,
        *(vae_psnr(backbone, judge, params.data.source, split) for split in ("train", "test")),
    ]
    for s, measured in of_teacher.items():
        metrics += [*measured.metrics, *cost_of(params, backbone, unpruned, s)]
    drawn = {}
    for name in names:
        method = artefact_method(params, backbone, name)
        drawn[name] = draw(params, method, protocol.prompts)
        for s, images in drawn[name].items():
            measured = judge.measure(images, name, s)
            metrics += [*measured.metrics, *cost_of(params, backbone, method, s)]
            metrics += [fid_ratio(measured, other) for other in of_teacher.values()]
    metrics += deviations(teacher, drawn) if params.evaluation.teacher_pictures else []
    metrics = with_context(metrics, params, backbone, protocol)
    sampler = f"{sampler_name(backbone.pipeline, params.sampling)}, guidance {params.sampling.guidance_scale:g}"
    notes = (*notes, f"all pictures: {sampler}")
    result = EvaluationResult(tuple(metrics), grid(teacher, drawn[ALTER]), params.run_folder, notes)
    result.save()
    record(params, params.run_folder, wall_seconds={"evaluation": round(time.perf_counter() - started, 1)})
    return result


def draw(params: Params, method: Method, prompts: Sequence[str] | Sequence[int]) -> dict[int, np.ndarray]:
    """The method's pictures of all prompts, by the number of steps; those that are there are read."""
    return {
        s: generate(method.sampler(params, s), prompts, image_folder(params), f"{method.name}-{s}")
        for s in method.steps
    }


def cost_of(params: Params, backbone: Backbone, method: Method, steps: int) -> list[Metric]:
    """MACs, and time where `evaluation.latency_batch_sizes` asks for it."""
    return [
        *cost_metrics(params, backbone, steps, method.name, method.plan),
        *call_metrics(params, backbone, steps, method.name, method.plan),
        *time_metrics(params, method, steps),
    ]


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
    images = {"real": teacher.protocol.real[chosen]}
    if teacher.params.evaluation.teacher_pictures:
        images[f"teacher@{steps}"] = teacher.images(steps, chosen)
    images[f"alter@{steps}"] = pictures[steps][chosen]
    return Grid(tuple(names), images, {name: calls for name in images if name != "real"})
