"""What is measured side by side: the unpruned teacher, a run's artefact, those of its controls, released baselines.

BK-SDM (Kim et al. 2024, arXiv 2305.15798) is an ordinary diffusers pipeline. DiP-GO and APTP have no SD2.1 release that
runs: their rows in the tables are the paper's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from ..backbones import Backbone
from ..inference import load_pipeline
from ..params import Evaluation, Params
from ..plan import ExpertPlan
from .generation import Sampler, sampler_name
from .image_store import ImageStore
from .weights import hub_source, missing_from_hub

TEACHER, ALTER = "teacher", "alter"
BASELINES = {"bk_sdm_v2_base": "nota-ai/bk-sdm-v2-base", "bk_sdm_v2_small": "nota-ai/bk-sdm-v2-small"}
# what their released UNet configurations change in SD2.1's: one residual and one transformer layer less a stage
BASELINE_CONFIGS = {
    "bk_sdm_v2_base": {"layers_per_block": 1},
    "bk_sdm_v2_small": {"layers_per_block": 1, "mid_block_type": None},
}


@dataclass(frozen=True)
class Method:
    """A pipeline that is measured at each of `steps`; plan: the one that is applied to it."""

    name: str
    pipeline: DiffusionPipeline
    steps: tuple[int, ...]
    plan: ExpertPlan | None = None

    def sampler(self, params: Params, steps: int) -> Sampler:
        return Sampler(self.pipeline, params.sampling, steps, self.identity)

    @property
    def identity(self) -> Any:
        """What images depend on beside weights and sampler."""
        return self.plan and {key: self.plan.to_dict()[key] for key in ("experts", "routing")}

    def conditions(self, params: Params, steps: int) -> dict[str, Any]:
        """The fields of a figure that say how its images were drawn."""
        sampling = params.sampling
        return {
            "method": self.name,
            "steps": steps,
            "seed": sampling.seed,
            "sampler": sampler_name(self.pipeline, sampling),
            "guidance_scale": sampling.guidance_scale,
        }

    def store(self, params: Params, prompts: list, folder: Path, steps: int) -> ImageStore:
        """Where images of exactly these conditions are."""
        home = folder / f"{self.name}-{steps}-{self.sampler(params, steps).key(prompts)}"
        return ImageStore(home, params.evaluation.image_format)


def teacher_method(params: Params, backbone: Backbone) -> Method:
    steps = sorted({*params.evaluation.teacher_steps, *params.evaluation.steps}, reverse=True)
    return Method(TEACHER, backbone.pipeline, tuple(steps))


def artefact_folder(params: Params, name: str) -> Path:
    """Of this run ("alter") or of a control. Raises FileNotFoundError when there is no pipeline in it."""
    run = params.run_folder if name == ALTER else params.run_folder.parent / name
    if not (run / "alter" / "model_index.json").is_file():
        raise FileNotFoundError(f"{params.run.out}/{run.name}/alter: no pipeline there; train this run first")
    return run / "alter"


def artefact_method(params: Params, backbone: Backbone, name: str) -> Method:
    """An artefact with its plan applied. Raises PlanError where it was made for another backbone."""
    folder, denoiser = artefact_folder(params, name), backbone.denoiser
    plan = ExpertPlan.load(folder)
    plan.validate(backbone)
    pipeline = load_pipeline(folder, dtype=denoiser.dtype).to(denoiser.device)
    pipeline.set_progress_bar_config(disable=True)
    return Method(name, pipeline, params.evaluation.steps, plan)


def baseline_source(evaluation: Evaluation, name: str) -> Path | str:
    """Where a released baseline is. Raises Unavailable: not below `evaluation.weights`, and not to be fetched."""
    hub_id, where = BASELINES[name], hub_source(evaluation, BASELINES[name])
    try:
        DiffusionPipeline.load_config(where, local_files_only=not evaluation.download)
    except (OSError, ValueError) as error:
        raise missing_from_hub(evaluation, hub_id, error) from None
    return where


def baseline_method(params: Params, backbone: Backbone, name: str) -> Method:
    """A released pipeline, measured at each of `evaluation.steps`. Raises Unavailable or OSError."""
    source, denoiser = baseline_source(params.evaluation, name), backbone.denoiser
    local = {"local_files_only": not params.evaluation.download, "safety_checker": None}
    pipeline = DiffusionPipeline.from_pretrained(source, dtype=denoiser.dtype, **local).to(denoiser.device)
    pipeline.set_progress_bar_config(disable=True)
    return Method(name, pipeline, params.evaluation.steps)


def artefacts(params: Params) -> tuple[str, ...]:
    """This run's and its controls', all of them there. Raises FileNotFoundError otherwise."""
    names = (ALTER, *params.evaluation.controls)
    for name in names:
        artefact_folder(params, name)
    return names


def open_method(params: Params, backbone: Backbone, name: str) -> Method:
    """The method of that name: teacher, alter, a control or a baseline."""
    if name == TEACHER:
        return teacher_method(params, backbone)
    return (baseline_method if name in params.evaluation.baselines else artefact_method)(params, backbone, name)
