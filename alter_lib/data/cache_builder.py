"""Encodes the shards of a source into the files of a cache folder."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from ..common.files import whole, write_json
from ..params import Data
from . import cache_files as files
from .encode import encode_images, encode_text, resolution_of, vae_factor
from .records import Record, Source
from .settings import num_classes
from .transforms import Selection

CHUNK = 64  # records that are decoded while those before them are encoded


class Builder:
    """Encodes the shards of one source, one at a time."""

    def __init__(self, pipeline: DiffusionPipeline, data: Data, source: Source, folder: Path) -> None:
        self.pipeline, self.data, self.source, self.folder = pipeline, data, source, folder
        resolution = resolution_of(pipeline, data.resolution)
        self.selection = Selection(data, resolution, num_classes(pipeline))
        self.dtype = getattr(torch, data.cache_dtype)
        self.pool = ThreadPoolExecutor(data.workers)  # PIL decodes and resizes outside of Python's lock

    def shard(self, shard: int, done: Callable[[int], object]) -> None:
        """Read, decode, encode and write one shard; done(n) is told of each n records that are through."""
        rows, skipped, latents = [], Counter(), []
        for chunk in ahead(self.pool, self.selection.prepare, self.source.read(shard)):
            kept = [(record, square) for record, square in chunk if not isinstance(square, str)]
            skipped.update(reason for _, reason in chunk if isinstance(reason, str))
            rows += [record for record, _ in kept]
            if kept and self.data.cache_latents:
                latents.append(self.latents(np.stack([square for _, square in kept])))
            done(len(chunk))
        facts = {"read": len(rows) + skipped.total(), "kept": len(rows), "captions": sum(len(r.captions) for r in rows)}
        sizes = self.write(shard, rows, latents) if rows else {}
        facts |= {"skipped": dict(sorted(skipped.items())), "bytes": sizes}
        write_json(files.file_of(self.folder, "shard", shard), facts)

    def latents(self, squares: np.ndarray) -> dict[str, torch.Tensor]:
        images = torch.from_numpy(squares)
        views = {"": images, "_flip": images.flip(2)} if self.data.flip else {"": images}
        return {
            name + suffix: value.to(self.dtype)
            for suffix, view in views.items()
            for name, value in zip(("mean", "std"), encode_images(self.pipeline, view), strict=True)
        }

    def write(self, shard: int, rows: list[Record], latents: list[dict[str, torch.Tensor]]) -> dict[str, int]:
        """The files of a shard; returns their sizes in bytes."""
        paths = {kind: files.file_of(self.folder, kind, shard) for kind in ("index", "latents", "text")}
        files.write_index(paths["index"], index_rows(rows))
        tensors = {}
        if latents:
            names = latents[0]
            tensors["latents"] = {name: torch.cat([part[name] for part in latents]).contiguous() for name in names}
        if self.data.cache_text and self.selection.classes is None:
            captions = [caption for row in rows for caption in row.captions]
            tensors["text"] = {"states": encode_text(self.pipeline, captions).to(self.dtype)}
        for kind, values in tensors.items():
            with whole(paths[kind]) as partial:
                save_file(values, partial)
        return {kind: path.stat().st_size for kind, path in paths.items() if path.exists()}

    def bytes_per_sample(self) -> dict[str, int]:
        """Disk that a sample takes, with one caption."""
        size = {}
        if self.data.cache_latents:
            vae, side = self.pipeline.vae, self.selection.resolution // vae_factor(self.pipeline)
            size["latents"] = vae.config.latent_channels * side**2 * 2 * (1 + self.data.flip) * self.dtype.itemsize
        if self.data.cache_text and self.selection.classes is None:
            width = self.pipeline.text_encoder.config.hidden_size
            size["text"] = self.pipeline.tokenizer.model_max_length * width * self.dtype.itemsize
        return size


def ahead(pool: ThreadPoolExecutor, prepare: Callable, records: Iterable[Record]) -> Iterator[list[tuple]]:
    """Chunks of (record, prepare(record)), each made while the one before it is in use."""
    waiting, records = [], iter(records)
    while chunk := list(islice(records, CHUNK)):
        submitted = [(record, pool.submit(prepare, record)) for record in chunk]
        if waiting:
            yield [(record, future.result()) for record, future in waiting]
        waiting = submitted
    if waiting:
        yield [(record, future.result()) for record, future in waiting]


def index_rows(rows: list[Record]) -> list[dict]:
    """The index of a shard; first_caption: where a sample's captions start among all of the shard."""
    found, first = [], 0
    for row in rows:
        number = len(row.captions)
        found.append({"start": row.place[0], "length": row.place[1], "captions": list(row.captions),
                      "num_captions": number, "first_caption": first, "label": row.label})  # fmt: skip
        first += number
    return found


def readable(size: float) -> str:
    """1.5e9 -> "1.5 GB"."""
    power = min(4, int(math.log10(max(size, 1)) / 3))
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
