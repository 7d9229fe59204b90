"""What the `evaluation` section of Params may name, and how its keys go together."""

from collections.abc import Mapping
from typing import Any, Literal

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
