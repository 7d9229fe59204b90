"""The `evaluation` section, and how its keys go together."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from .values import Count, CountOrZero, Flag, Name, NotBool, Positive, Section, Seed, Text

# embedded: the pictures of data.source; imagenet: class labels; prompts: a list of one's own
Protocol = Literal["embedded", "coco2014", "coco2017", "cc3m", "imagenet", "prompts"]
MetricName = Literal[
    "fid", "fid_legacy_pytorch", "kid", "inception_score", "precision", "recall", "sfid", "clip_score", "cmmd",
    "fid_alexnet", "kid_alexnet", "image_reward", "hpsv2",
]  # fmt: skip
Baseline = Literal["bk_sdm_v2_base", "bk_sdm_v2_small"]
OF_TEXT = ("clip_score", "image_reward", "hpsv2")
AT_SCALE = (  # without a part in the embedded protocol
    "prompts", "prompt_column", "images_per_prompt", "reference", "image_format", "resolution", "resize", "metrics",
    "baselines",
)  # fmt: skip


def evaluation_faults(values: Any, defaults: Mapping[str, Any]) -> list[str]:
    """One line `key: what is wrong` for each key of an evaluation section that its protocol has no use for."""
    found = []
    if values.protocol == "embedded":
        for key in AT_SCALE:
            if (value := getattr(values, key)) != (default := defaults[key]):
                found.append(f"{key}: {shown(value)} has no part in the embedded protocol; use {shown(default)}")
    else:
        if values.teacher_results:
            fault = "holds figures of the embedded protocol; use null"
            found.append(f"teacher_results: {shown(values.teacher_results)} {fault}")
        if not values.teacher_pictures:
            found.append(f"teacher_pictures: false has no part in protocol {values.protocol}; use true")
        if values.curve_images:
            found.append(f"curve_images: {values.curve_images} has no part in protocol {values.protocol}; use 0")
        if values.protocol != "imagenet" and values.prompts is None:
            found.append(f"prompts: null is not the file that protocol {values.protocol} takes its prompts from")
        if values.protocol == "imagenet":
            found += [f"metrics: {name} needs prompts, imagenet has class labels" for name in values.metrics
                      if name in OF_TEXT]  # fmt: skip
    if values.curve_images == 1:
        found.append("curve_images: 1 is not 0, or 2 or more")
    if values.num_images % values.images_per_prompt:
        rule = f"a multiple of images_per_prompt ({values.images_per_prompt})"
        found.append(f"num_images: {values.num_images} is not {rule}")
    return found


def shown(value: Any) -> str:
    """A value as YAML spells it, in one line."""
    text = "null" if value is None else f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)
    return " ".join(text.splitlines())


class Evaluation(Section):
    protocol: Protocol = "embedded"
    prompts: Text | None = None  # COCO captions json, CC3M tsv, text, csv, jsonl, parquet, or a saved prompt list
    prompt_column: Text | None = None  # of a csv, jsonl or parquet file
    images_per_prompt: Count = 1
    reference: Text | None = None  # real images: a folder, or an npz of the ADM evaluator
    image_format: Literal["npz", "png"] = "npz"  # how drawn images are kept
    # px that images are squashed to before every metric, no fewer than AlexNet can see; null: as they are
    resolution: Annotated[int, Field(ge=32), NotBool] | None = None
    resize: Literal["bicubic", "bilinear", "lanczos", "box"] = "bicubic"  # Pillow's, which are antialiased
    metrics: tuple[MetricName, ...] = ()  # beside MACs and the deviation from the teacher; embedded: a fixed set
    weights: Annotated[str, Field(min_length=1)] = "weights"  # folder of the extractors' weights
    download: Flag = False  # fetch weights that are not there
    clip_model: Text = "openai/clip-vit-base-patch32"  # of the CLIP score; APTP's scripts take it, the paper is silent
    preference_python: Text | None = None  # interpreter of an environment with image-reward
    baselines: tuple[Baseline, ...] = ()  # released pipelines below the folder of weights
    latency_batch_sizes: tuple[Count, ...] = ()  # time whole images at these batch sizes
    num_images: Annotated[int, Field(ge=2), NotBool] = 1000  # N of every FID figure: never compare across N
    steps: tuple[Count, ...] = Field((20,), min_length=1)
    teacher_steps: tuple[Count, ...] = (50, 25, 20, 13, 10)
    teacher_results: str | None = None  # a committed JSON of the teacher's figures, which never change
    teacher_pictures: Flag = True  # the teacher's part of the grid, and the deviation from its pictures; false: neither
    curve_images: CountOrZero = 0  # N of a learning curve over training.snapshots; 0: none is drawn
    controls: tuple[Name, ...] = ()  # other runs in run.out to measure beside this one, e.g. an unpruned control
    target_fid_ratio: Positive | None = None  # FID-AlexNet, ALTER / teacher at equal steps: what the report judges by
    bootstrap: Count = 1000  # resamples of a 95 % interval
    seed: Seed = 0

    @model_validator(mode="after")
    def _keys_go_with_the_protocol(self) -> Self:
        if bad := evaluation_faults(self, {name: field.default for name, field in type(self).model_fields.items()}):
            raise ValueError("\n".join(bad))
        return self
