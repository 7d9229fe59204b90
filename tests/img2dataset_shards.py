"""Writes vendored emoji as img2dataset writes what it downloads: tar shards of jpg, txt and json, and a stats file."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from alter_lib.data import emoji


def jpeg(pixels: np.ndarray, side: int = 32) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(file, "JPEG", quality=95)
    return file.getvalue()


def score(index: int) -> float:
    """A made-up aesthetic score: 5.0, 5.1, ..., 6.9, 5.0, ..."""
    return 5.0 + index % 20 / 10


def write_shards(
    folder: Path, count: int, per_shard: int, corrupt: Sequence[int] = (), small: Sequence[int] = ()
) -> list[str]:
    """`count` emoji in shards of `per_shard`; returns their captions. Files of the pictures whose numbers are in
    `corrupt` break off in the middle; those in `small` have 16 px instead of 32."""
    images, rows = emoji.load("train")
    folder.mkdir(parents=True)
    for shard, first in enumerate(range(0, count, per_shard)):
        numbers = range(first, min(first + per_shard, count))
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as tar:
            for i in numbers:
                content = jpeg(images[i], 16 if i in small else 32)
                caption, key = rows[i]["name"], f"{shard:05d}{i - first:04d}"
                facts = {
                    "caption": caption, "url": f"https://example.org/{i}.png", "key": key, "status": "success",
                    "error_message": None, "width": 32, "height": 32, "original_width": 16 if i in small else 32,
                    "original_height": 64, "AESTHETIC_SCORE": score(i),
                }  # fmt: skip
                tar.write({"__key__": key, "jpg": content[: len(content) // 2] if i in corrupt else content,
                           "txt": caption, "json": json.dumps(facts)})  # fmt: skip
        stats = {"count": len(numbers), "successes": len(numbers)}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))
    return [row["name"] for row in rows[:count]]
