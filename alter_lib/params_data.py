"""Which keys of the `data` section go with which source."""

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlparse

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
