"""A full-size architecture at a fraction of its width: its costs where the full size does not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..backbones.loading import CONFIGS
from ..params import ParamsError

Config = dict[str, Any]


def narrowed(name: str, width: float, folder: Path) -> Path:
    """Write the configurations of a vendored backbone with about `width` times its channels into `folder`, a pipeline
    folder without weights; returns it.

    Depth, resolution and the channels of a head stay. Raises ParamsError for another backbone or width.
    """
    if not (CONFIGS / name).is_dir():
        known = ", ".join(sorted(path.name for path in CONFIGS.iterdir()))
        raise ParamsError([f"backbone.id: {name!r} has no reduced width, only {known} have"])
    if not 0 < width <= 1:
        raise ParamsError([f"--width: {width} is not a number > 0 and <= 1"])
    configs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (CONFIGS / name).glob("*.json")}
    index = {"_class_name": "DiTPipeline" if "transformer" in configs else "StableDiffusionPipeline"}
    for part, config in configs.items():
        config = NARROW.get(config["_class_name"], unchanged)(config, width)
        file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(config))
        index[part] = ["transformers" if part == "text_encoder" else "diffusers", config["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def unchanged(config: Config, _width: float) -> Config:
    return config


def times(count: int, width: float, unit: int = 1) -> int:
    """`width` times `count`, in whole units, one at least."""
    return unit * max(1, round(count * width / unit))


def unet(config: Config, width: float) -> Config:
    heads = [times(count, width) for count in config["attention_head_dim"]]  # which diffusers reads as their number
    each = config["block_out_channels"][0] // config["attention_head_dim"][0]
    states = times(config["cross_attention_dim"], width, TEXT_HEAD)
    return config | {"attention_head_dim": heads, "block_out_channels": [each * count for count in heads],
                     "cross_attention_dim": states}  # fmt: skip


def text_encoder(config: Config, width: float) -> Config:
    size = times(config["hidden_size"], width, TEXT_HEAD)
    return config | {"hidden_size": size, "intermediate_size": 4 * size, "num_attention_heads": size // TEXT_HEAD}


def vae(config: Config, width: float) -> Config:
    return config | {"block_out_channels": [times(count, width, 32) for count in config["block_out_channels"]]}


def dit(config: Config, width: float) -> Config:
    return config | {"num_attention_heads": times(config["num_attention_heads"], width)}


TEXT_HEAD = 64  # channels of a head of CLIP's text encoder
NARROW: dict[str, Callable[[Config, float], Config]] = {
    "UNet2DConditionModel": unet, "CLIPTextModel": text_encoder, "AutoencoderKL": vae, "DiTTransformer2DModel": dit,
}  # fmt: skip
