"""The `data` section, and which of its keys go with which source."""

from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import urlparse

from pydantic import model_validator

from .values import Count, Flag, Number, Section, Share, Text

Source = Literal["emoji", "fashion", "image_folder", "webdataset", "hub", "coco", "cc3m", "imagenet"]
EMBEDDED = ("emoji", "fashion")
COCO_SPLITS = ("train2014", "val2014", "train2017", "val2017")

_PICTURES = {"path", "resolution", "crop", "flip", "min_size", "shuffle_buffer", "workers", "cache_folder",
             "cache_dtype"}  # fmt: skip
_SCORES = {"caption_column", "aesthetic_column", "min_aesthetic"}
TAKES = {
    "emoji": set(),
    "fashion": set(),
    "image_folder": _PICTURES | _SCORES | {"label_column"},
    "webdataset": _PICTURES | _SCORES,
    "cc3m": _PICTURES | _SCORES,
    "coco": _PICTURES | {"split"},
    "imagenet": _PICTURES | {"split", "image_column", "label_column"},
    "hub": _PICTURES | _SCORES | {"config", "split", "streaming", "image_column", "label_column"},
}


def data_faults(data: Any, defaults: Mapping[str, Any]) -> list[str]:
    """One line `key: what is wrong` for each key of a `data` section that its source does not take, or lacks."""
    takes, values = TAKES[data.source], vars(data)
    bad = [
        f"{key}: {values[key]!r} does not go with source {data.source}"
        for key in sorted(TAKES["hub"] - takes)
        if values[key] != defaults[key]
    ]
    if data.source not in EMBEDDED:
        bad += [f"{key}: missing; source {data.source} needs it" for key in ("path", "cache_folder") if not values[key]]
    if data.source == "coco" and data.split not in COCO_SPLITS:
        bad.append(f"split: {data.split!r} is not one of {' | '.join(COCO_SPLITS)}")
    if data.crop == "random" and data.cache_latents:
        bad.append("crop: random needs cache_latents: false; a cache holds one crop of each picture")
    if data.streaming and not data.cache_latents:
        bad.append("streaming: true needs cache_latents: true; a stream has no way back to a picture")
    if data.source in ("webdataset", "cc3m") and data.path and urlparse(data.path).scheme and not data.cache_latents:
        bad.append("cache_latents: false needs shards on this disk; those of data.path are elsewhere")
    return bad


class Data(Section):
    source: Source = "emoji"  # emoji, coco, cc3m: captions; fashion, imagenet: class labels; the others hold either
    path: Text | None = None  # a source of one's own: its folder, tar shards or name on the hub
    config: Text | None = None  # hub: configuration of the data set
    split: Text | None = None  # hub: e.g. train; coco: train2014 | val2014 | train2017 | val2017; imagenet: subfolder
    streaming: Flag = False  # hub: the cache reads it once through instead of storing it on this disk
    image_column: Text | None = None  # null: image
    caption_column: Text | None = None  # null: text, or what img2dataset writes
    label_column: Text | None = None  # null: label
    aesthetic_column: Text | None = None  # null: AESTHETIC_SCORE, as LAION-Aesthetics calls it
    keywords: Flag = True  # captions: the name and a random subset of the keywords
    caption_dropout: Share = 0.1  # share of empty captions, or of null class labels, for classifier-free guidance
    resolution: Count | None = None  # px, height and width; null: what the backbone samples at
    crop: Literal["center", "random"] = "center"  # of the picture whose shorter side was resized to the resolution
    flip: Flag = False  # mirror half of the pictures
    min_size: Count | None = None  # px: pictures whose shorter side is less are left out
    min_aesthetic: Number | None = None  # pictures with a lower aesthetic score are left out
    shuffle_buffer: Count | None = None  # null: an epoch is one permutation; N: shards permuted, then each N samples
    workers: Count = 4  # threads a process that read and decode pictures
    cache_folder: Text | None = None  # where python -m alter_lib.data.cache writes
    cache_dtype: Literal["float32", "float16", "bfloat16"] = "float16"  # of the cached latents and text states
    cache_latents: Flag = True  # encode all images before training; false: batch by batch, for sets that don't fit
    cache_text: Flag = True  # likewise for the captions
    limit: Count | None = None  # first images only

    @model_validator(mode="after")
    def _keys_go_with_the_source(self) -> Self:
        if bad := data_faults(self, {name: field.default for name, field in type(self).model_fields.items()}):
            raise ValueError("\n".join(bad))
        return self
