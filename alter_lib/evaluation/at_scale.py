"""`evaluate` at scale: the paper's protocols (COCO, CC3M, ImageNet) or prompts of one's own, judged by its own metrics.

What is not there (captions, real images, weights) is printed as one table before anything is drawn; the rest is
computed.
Images may be drawn before by several processes (alter_lib/evaluation/generate.py).
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..backbones import Backbone, load_backbone
from ..params import Params
from ..provenance import record
from . import bootstrap
from .cost import baseline_cost_metrics, call_metrics, cost_metrics, visited
from .generation import draw_missing, weights_hash
from .image_store import ImageSet
from .latency import time_metrics
from .lpips import NAME as LPIPS
from .lpips import lpips
from .lpips import weights as lpips_weights
from .methods import ALTER, TEACHER, Method, artefacts, baseline_source, open_method
from .metrics import HIGHEST_PSNR, psnr, ssim
from .prompts import PromptList, load_prompts
from .resizing import describe
from .result import ON_IMAGES, EvaluationResult, Grid, Metric, Missing
from .scale_judge import ScaleJudge
from .weights import Unavailable

TARGET_STEPS, DEVIATION_IMAGES = 25, 5000  # Table 8 compares with the teacher at 25 steps; it prints no N
GRID = 24
SOURCES = {
    "coco2014": "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    "coco2017": "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    "cc3m": "https://ai.google.com/research/ConceptualCaptions/download",
    "prompts": "a file of yours",
}


def evaluate_at_scale(params: Params) -> EvaluationResult:
    """Measure the teacher, the artefacts and the baselines on `evaluation.protocol`; writes metrics.json and grid.npz.

    Figures of other protocols that metrics.json holds for the same artefact stay in it. Raises as `evaluate` does.
    """
    started = time.perf_counter()
    names = artefacts(params)
    backbone = load_backbone(params.backbone, cost=params.cost)
    prompts, missing = prompt_list(params)
    judge = ScaleJudge(params.evaluation, prompts, backbone.denoiser.device)
    baselines, without = baselines_at_hand(params)
    run = Run(params, backbone, prompts, judge, (*missing, *judge.missing, *without))
    if run.missing:
        print(run.result().missing_frame().to_string(index=False))
    for name in (TEACHER, *names, *baselines):
        run.measure(open_method(params, backbone, name))
    for name in params.evaluation.baselines:
        run.metrics += baseline_cost_metrics(params, backbone, name)
    result = run.result()
    result.save()
    record(params, params.run_folder, wall_seconds={"evaluation": round(time.perf_counter() - started, 1)})
    return result


def prompt_list(params: Params) -> tuple[PromptList | None, list[Missing]]:
    """The protocol's list, saved as runs/<name>/evaluation/prompts-<protocol>.json, or what is missing."""
    try:
        prompts = load_prompts(params.evaluation)
    except FileNotFoundError:
        options = params.evaluation
        what = f"captions of {options.protocol}"
        return None, [Missing((ON_IMAGES,), what, options.prompts, SOURCES[options.protocol])]
    prompts.save(params.run_folder / "evaluation" / f"prompts-{prompts.protocol}.json")
    return prompts, []


def baselines_at_hand(params: Params) -> tuple[list[str], list[Missing]]:
    """Names of the released baselines that can be loaded, and what the others miss."""
    found, missing = [], []
    for name in params.evaluation.baselines:
        try:
            baseline_source(params.evaluation, name)
            found.append(name)
        except Unavailable as fault:
            missing += [Missing((name,), *need) for need in fault.needs]
    return found, missing


class Run:
    """Draws and measures one method after the other; the teacher first, which the others are compared with."""

    def __init__(
        self, params: Params, backbone: Backbone, prompts: PromptList | None, judge: ScaleJudge,
        missing: tuple[Missing, ...],
    ) -> None:  # fmt: skip
        self.params, self.backbone, self.prompts, self.judge, self.missing = params, backbone, prompts, judge, missing
        self.metrics: list[Metric] = []
        self.sets: dict[tuple[str, int], ImageSet] = {}
        self.artefact: str | None = None

    def measure(self, method: Method) -> None:
        """Costs, times and, where there are prompts, images of a method at each of its numbers of steps."""
        if method.name == ALTER:
            facts = [weights_hash(method.pipeline), method.identity]
            self.artefact = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        for steps in method.steps:
            if method.name == TEACHER or method.plan:  # a baseline's are counted from its configuration
                self.metrics += cost_metrics(self.params, self.backbone, steps, method.name, method.plan)
                self.metrics += call_metrics(self.params, self.backbone, steps, method.name, method.plan)
            self.metrics += time_metrics(self.params, method, steps)
            if self.prompts:
                self.metrics += self.measure_images(method, steps)
        for steps in method.steps if self.prompts else ():
            self.metrics += self.deviation(method, steps)

    def measure_images(self, method: Method, steps: int) -> list[Metric]:
        captions, folder = self.judge.captions, self.params.run_folder / "evaluation" / self.prompts.protocol
        store = method.store(self.params, captions, folder, steps)
        draw_missing(method.sampler(self.params, steps), captions, store, f"{method.name}-{steps}")
        options = self.params.evaluation
        images = ImageSet(store, len(captions), options.resolution, options.resize)
        self.sets[method.name, steps] = images
        return self.judge.measure(images, self.context(method, steps))

    def context(self, method: Method, steps: int) -> dict[str, Any]:
        """The fields that all figures of a set share."""
        return method.conditions(self.params, steps) | {
            "protocol": self.prompts.protocol,
            "prompts": self.prompts.digest,
            "resolution": self.sets[method.name, steps].drawn_at,
        }

    def target(self) -> int:
        """The teacher's number of steps that deviations are measured from."""
        steps = [s for name, s in self.sets if name == TEACHER]
        return TARGET_STEPS if TARGET_STEPS in steps else max(steps)

    def deviation(self, method: Method, steps: int) -> Iterator[Metric]:
        """PSNR, SSIM and LPIPS to the teacher's images at the same prompts and seeds (Table 8)."""
        target, each = self.target(), self.params.evaluation.images_per_prompt
        if (method.name, steps) == (TEACHER, target):
            return
        of_prompts = min(len(self.prompts.ids), DEVIATION_IMAGES // each)
        draws = self.judge.draws(of_prompts)
        first = [replace(self.sets[key], count=of_prompts * each) for key in ((method.name, steps), (TEACHER, target))]
        pairs = zip(*(images.batches() for images in first), strict=True)
        values = [(np.minimum(psnr(a, b), HIGHEST_PSNR), ssim(a, b), lpips(a, b)) for a, b in pairs]
        columns = [np.concatenate(parts) for parts in zip(*values, strict=True)]
        common = self.context(method, steps) | {"against": f"{TEACHER}@{target}"}
        common["resize"] = describe(self.params.evaluation.resolution, self.params.evaluation.resize)
        of = {"psnr_to_teacher": {"unit": "dB"}, "ssim_to_teacher": {},
              "lpips_to_teacher": {"extractor": LPIPS, "weights": lpips_weights()}}  # fmt: skip
        for (name, fields), column in zip(of.items(), columns, strict=True):
            spread = bootstrap.interval(bootstrap.mean_replicates(column, draws))
            yield Metric(name, value=float(column.mean()), n=len(column), interval=spread, **fields, **common)

    def grid(self) -> Grid:
        """The first prompts at the first of `evaluation.steps`, one image each."""
        if not self.prompts or not self.artefact:
            return Grid((), {}, {})
        steps, each = self.params.evaluation.steps[0], self.params.evaluation.images_per_prompt
        chosen = range(0, min(GRID * each, len(self.judge.captions)), each)
        calls = [float(t) for t in visited(self.params, self.backbone, steps)]
        images = {f"{name}@{steps}": self.sets[name, steps].at(chosen) for name in (TEACHER, ALTER)}
        return Grid(tuple(str(self.judge.captions[i]) for i in chosen), images, dict.fromkeys(images, calls))

    def result(self) -> EvaluationResult:
        """All that is measured, after figures of other protocols of the same artefact."""
        folder, kept = self.params.run_folder, []
        if self.artefact and (folder / "metrics.json").is_file():
            before = EvaluationResult.load(folder)
            others = (None, self.params.evaluation.protocol)
            kept = [m for m in before.metrics if m.protocol not in others and before.artefact == self.artefact]
        protocol = self.params.evaluation.protocol
        return EvaluationResult((*self.metrics, *kept), self.grid(), folder, (), self.missing, self.artefact, protocol)
