"""What a source of pictures yields, and what a source is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

Encoded = bytes | str  # a picture's file: its content, or its path or URL


@dataclass(frozen=True)
class Record:
    """One sample before its picture is decoded.

    place: where its shard has the picture (`Source.image` takes it). size: shorter side of the original in px, score:
    aesthetic score, each None where the source does not tell. fault: why the sample can't be used, if it can't.
    """

    image: Encoded = b""
    place: tuple[int, int] = (0, 0)
    captions: tuple[str, ...] = ()
    label: int | None = None
    size: int | None = None
    score: float | None = None
    fault: str | None = None


class Source(Protocol):
    """Shards of records, always in the same order. len(): shards.

    digest: hash of what the source holds; count: records, where known without reading.
    """

    digest: str
    count: int | None

    def __len__(self) -> int: ...

    def read(self, shard: int) -> Iterator[Record]:
        """The records of a shard, one after the other."""

    def image(self, shard: int, place: tuple[int, int]) -> Encoded:
        """The picture of one record again."""
