"""Sources that are tables: a `datasets.Dataset` or lines of JSON on this disk, or a stream of rows from the hub."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from datasets import Dataset, IterableDataset

from .lines import Lines
from .records import Encoded, Record

ROWS_PER_SHARD = 4096


@dataclass(frozen=True)
class Columns:
    """Names of the columns that hold picture, caption or captions, class label and aesthetic score; None: no such."""

    image: str = "image"
    caption: str | None = None
    label: str | None = None
    score: str | None = None


class TableSource:
    """Rows on this disk, read when asked for; a shard is ROWS_PER_SHARD of them. folder: where relative paths start."""

    def __init__(self, rows: Dataset | Lines, columns: Columns, digest: str, folder: str = "") -> None:
        self.rows, self.columns, self.digest, self.folder = rows, columns, digest, folder
        self.count = len(rows)

    def __len__(self) -> int:
        return -(-self.count // ROWS_PER_SHARD)

    def read(self, shard: int) -> Iterator[Record]:
        first = shard * ROWS_PER_SHARD
        for i in range(first, min(first + ROWS_PER_SHARD, self.count)):
            yield record(self.rows[i], self.columns, (i, 0), self.folder)

    def image(self, shard: int, place: tuple[int, int]) -> Encoded:
        return record(self.rows[place[0]], self.columns, place, self.folder).image


class StreamSource:
    """Rows that are read once through without being stored; its shards are the files of the data set."""

    count = None

    def __init__(self, rows: IterableDataset, columns: Columns, digest: str) -> None:
        self.rows, self.columns, self.digest = rows, columns, digest

    def __len__(self) -> int:
        return self.rows.num_shards

    def read(self, shard: int) -> Iterator[Record]:
        for i, row in zip(count(), self.rows.shard(self.rows.num_shards, shard), strict=False):
            yield record(row, self.columns, (i, 0))


def record(row: Mapping, columns: Columns, place: tuple[int, int], folder: str = "") -> Record:
    """The Record of one row; its picture may be bytes, a path, or datasets' {bytes, path}."""
    image = row[columns.image]
    if isinstance(image, Mapping):
        image = image["bytes"] or image["path"]
    if image is None:
        return Record(place=place, fault="no picture")
    captions = row[columns.caption] if columns.caption else []
    captions = [captions] if isinstance(captions, str) else captions or []
    return Record(
        image if isinstance(image, bytes) else os.path.join(folder, image),
        place,
        tuple(caption.strip() for caption in captions if caption and caption.strip()),
        row[columns.label] if columns.label else None,
        score=row[columns.score] if columns.score else None,
    )


def digest_of(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
