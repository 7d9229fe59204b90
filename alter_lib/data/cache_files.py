"""The files of a cache folder: for each shard of the source an index, latents and text states, and one manifest.

manifest.json               settings that the cache was made with, counts of samples kept and skipped, disk sizes
shard-00000.json            counts of one shard; written last, so a shard that has it is whole
index-00000.arrow           kept samples: place of the picture, captions, label
latents-00000.safetensors   mean, std [n, C, h, w] of the posteriors, scaled; mean_flip, std_flip of the mirrored
text-00000.safetensors      states [captions, tokens, D], in the order of the index
"""

import json
from bisect import bisect_right
from collections import Counter
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from safetensors import safe_open

from ..common.files import whole, write_json

FORMAT = "alter-cache/1"
SUFFIXES = {"index": "arrow", "latents": "safetensors", "text": "safetensors", "shard": "json"}
INTEGER = Value("int64")
INDEX = Features({"start": INTEGER, "length": INTEGER, "captions": List(Value("string")), "num_captions": INTEGER,
                  "first_caption": INTEGER, "label": INTEGER})  # fmt: skip


def write_index(path: Path, rows: list[dict]) -> None:
    with whole(path) as partial, ArrowWriter(path=str(partial), features=INDEX) as writer:
        writer.write_batch({name: [row[name] for row in rows] for name in INDEX})
        writer.finalize()


def file_of(folder: Path, kind: str, shard: int) -> Path:
    return folder / f"{kind}-{shard:05d}.{SUFFIXES[kind]}"


def shard_facts(folder: Path, shard: int) -> dict | None:
    """Counts of a shard whose files all have the size that they were written with, else None: it is to be made."""
    try:
        facts = json.loads(file_of(folder, "shard", shard).read_text())
        sizes = {kind: file_of(folder, kind, shard).stat().st_size for kind in facts["bytes"]}
    except (FileNotFoundError, ValueError):  # not made yet, or lost or damaged since
        return None
    return facts if sizes == facts["bytes"] else None


def finished(folder: Path, shards: int, limit: int | None) -> list[dict]:
    """Counts of the whole shards in a row from the first one, as many as it takes to keep `limit` samples."""
    found, kept = [], 0
    for shard in range(shards):
        facts = shard_facts(folder, shard) if not limit or kept < limit else None
        if facts is None:
            break
        found.append(facts)
        kept += facts["kept"]
    return found


def read_manifest(folder: Path) -> dict | None:
    path = folder / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_manifest(folder: Path, settings: dict[str, Any], shards: list[dict], complete: bool) -> dict:
    """Settings and the totals of `shards`; incomplete until the last one is there."""
    totals = {name: sum(facts[name] for facts in shards) for name in ("read", "kept", "captions")}
    skipped, sizes = (dict(sum((Counter(facts[name]) for facts in shards), Counter())) for name in ("skipped", "bytes"))
    manifest = {"format": FORMAT, "complete": complete, "settings": settings, **totals, "skipped": skipped,
                "bytes": sizes, "shards": [facts["kept"] for facts in shards]}  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    return manifest


class Cache:
    """A complete cache folder, memory-mapped: sample i is the i-th that was kept. limit: first samples only."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder = folder
        kept = read_manifest(folder)["shards"]
        ends = list(accumulate(kept))
        self.firsts = [0, *ends]
        self.sizes = [max(0, min(end, limit or end) - (end - n)) for end, n in zip(ends, kept, strict=True)]
        files = [file_of(folder, "index", shard) for shard, n in enumerate(kept) if n]
        self.index = concatenate_datasets([Dataset.from_file(str(file)) for file in files])
        self.first_captions = self.column("first_caption")
        self.file = lru_cache(maxsize=256)(self._file)

    def __len__(self) -> int:
        return sum(self.sizes)

    def column(self, name: str) -> np.ndarray:
        """A column of integers of the index, int64 [n]."""
        return self.index.data.column(name).to_numpy()

    def _file(self, kind: str, shard: int) -> safe_open:
        return safe_open(file_of(self.folder, kind, shard), "pt")

    def locate(self, index: int) -> tuple[int, int]:
        """(shard, row in it) of a sample."""
        shard = bisect_right(self.firsts, index) - 1
        return shard, index - self.firsts[shard]

    def latents(self, index: int, name: str) -> torch.Tensor:
        """[C, h, w] of one sample; name: mean, std, mean_flip, std_flip."""
        shard, row = self.locate(index)
        return self.file("latents", shard).get_slice(name)[row]

    def text(self, index: int, number: int) -> torch.Tensor:
        """[tokens, D] of one caption of a sample."""
        row = int(self.first_captions[index]) + number
        return self.file("text", self.locate(index)[0]).get_slice("states")[row]
