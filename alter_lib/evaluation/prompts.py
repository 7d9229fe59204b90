"""Prompt lists: which images of which captions or class labels a figure is made of (paper §4.1).

A list is chosen once from its source, written to a JSON file, and named by its hash in every result: two FIDs over 30 k
COCO captions compare only where the 30 k are the same. `evaluation.prompts` may be such a file of somebody else's.

COCO: the first caption of each image in the order of the captions file, then numpy's RandomState(42).choice without
replacement, which is what APTP's script does; CC3M: the same choice among the rows. ImageNet: class i mod 1000.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from pyarrow.parquet import ParquetFile

from ..assets import sha256
from ..common.files import write_json
from ..params import Evaluation, ParamsError, resolve

FORMAT = "alter-prompts/1"
SELECTION_SEED = 42
NUM_CLASSES = 1000  # of ImageNet
ROWS = 4096  # of a table that are in memory at a time: a list of millions is read through, not in
BUFFER = 2**20  # bytes of a parquet column that are read at a time
TABLES: dict[str, Callable[[Path, str | None], Iterable[pd.DataFrame]]] = {
    ".csv": lambda path, column: pd.read_csv(path, dtype=str, chunksize=ROWS),
    ".jsonl": lambda path, column: pd.read_json(path, lines=True, chunksize=ROWS),
    ".parquet": lambda path, column: parquet(path, column),
}


@dataclass(frozen=True)
class PromptList:
    """ids [n]: the source's own (COCO: image ids; else row numbers); prompts [n]: captions or class labels."""

    protocol: str
    source: str  # file name
    source_sha256: str
    ids: tuple[int, ...]
    prompts: tuple[str, ...] | tuple[int, ...]

    @property
    def digest(self) -> str:
        """Hash of ids and prompts, in order: 16 hex digits."""
        return hashlib.sha256(json.dumps([self.ids, self.prompts]).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        write_json(path, {"format": FORMAT, "digest": self.digest, **asdict(self)})

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        """From what `save` wrote."""
        facts = {name: content[name] for name in ("protocol", "source", "source_sha256")}
        return cls(**facts, ids=tuple(content["ids"]), prompts=tuple(content["prompts"]))

    def repeated(self, times: int) -> list[str] | list[int]:
        """What each image is drawn from: every prompt `times` times in a row."""
        return [prompt for prompt in self.prompts for _ in range(times)]

    def take(self, indices: Sequence[int]) -> Self:
        ids, prompts = (tuple(values[i] for i in indices) for values in (self.ids, self.prompts))
        return replace(self, ids=ids, prompts=prompts)


def load_prompts(evaluation: Evaluation) -> PromptList:
    """The list of `evaluation.protocol`: num_images / images_per_prompt prompts.

    Raises ParamsError for a file that holds no such prompts or too few, FileNotFoundError when there is none.
    """
    count = evaluation.num_images // evaluation.images_per_prompt
    if evaluation.protocol == "imagenet":
        return PromptList("imagenet", "labels", "", tuple(range(count)), tuple(i % NUM_CLASSES for i in range(count)))
    path = resolve(evaluation.prompts)
    if not path.is_file():
        raise FileNotFoundError(f"evaluation.prompts: no file {evaluation.prompts}")
    try:
        found, total = read_prompts(path, evaluation, count)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # what a file of another kind makes of json and pandas
        if isinstance(error, ParamsError):
            raise
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        message = f"evaluation.prompts: {evaluation.prompts}: not a file of {evaluation.protocol}: {reason}"
        raise ParamsError([message]) from None
    if count > total:
        raise ParamsError([f"evaluation.num_images: {count} prompts are wanted, {evaluation.prompts} has {total}"])
    return found


def read_prompts(path: Path, evaluation: Evaluation, count: int) -> tuple[PromptList, int]:
    """`count` prompts of a file, fewer where it has no more, and how many it has (of which no more may be counted)."""
    protocol, column = evaluation.protocol, evaluation.prompt_column
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") == FORMAT:
            saved = PromptList.of(content)
            return saved.take(range(min(count, len(saved.ids)))), len(saved.ids)
        ids, texts = first_captions(content["annotations"])
        total, order = len(ids), chosen(len(ids), count, protocol)
        ids, prompts = [ids[i] for i in order], [texts[i] for i in order]
    elif protocol == "prompts":
        prompts = list(islice(captions(path, protocol, column), count))
        ids, total = list(range(len(prompts))), len(prompts)
    else:
        total = sum(1 for _ in captions(path, protocol, column))
        ids = chosen(total, count, protocol)
        wanted = set(ids)
        found = {i: text for i, text in enumerate(captions(path, protocol, column)) if i in wanted}
        prompts = [found[i] for i in ids]
    return PromptList(protocol, path.name, sha256(path), tuple(ids), tuple(prompts)), total


def chosen(total: int, count: int, protocol: str) -> list[int]:
    """Which rows of a file: the first ones of a list of one's own, else as APTP's script."""
    count = min(count, total)
    if protocol == "prompts":
        return list(range(count))
    return np.random.RandomState(SELECTION_SEED).choice(total, count, replace=False).tolist()


def captions(path: Path, protocol: str, column: str | None) -> Iterator[str]:
    """All captions of a file in its order, read through."""
    if protocol != "cc3m" and path.suffix in TABLES:
        yield from filter(str.strip, column_of(path, column))
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if protocol == "cc3m":
                yield line.rstrip("\n").split("\t")[0]
            elif line.strip():
                yield line.rstrip("\n")


def first_captions(annotations: Sequence[dict[str, Any]]) -> tuple[list[int], list[str]]:
    """Image ids and the first caption of each, in the order of a COCO captions file."""
    first: dict[int, str] = {}
    for annotation in annotations:
        first.setdefault(annotation["image_id"], annotation["caption"])
    return list(first), list(first.values())


def column_of(path: Path, column: str | None) -> Iterator[str]:
    """A column of text of a csv, jsonl or parquet file. Raises ParamsError when there is none of that name."""
    for frame in TABLES[path.suffix](path, column):
        if column not in frame.columns:
            known = ", ".join(map(str, frame.columns))
            raise ParamsError([f"evaluation.prompt_column: {column} is not a column of {path.name}; it has {known}"])
        yield from frame[column].dropna().astype(str)


def parquet(path: Path, column: str | None) -> Iterator[pd.DataFrame]:
    """Batches of that one column, of all where there is none of the name. A row group may be the whole file: it is
    read in parts."""
    file = ParquetFile(path, pre_buffer=False, buffer_size=BUFFER)
    wanted = [column] if column in file.schema_arrow.names else None
    yield from (batch.to_pandas() for batch in file.iter_batches(ROWS, columns=wanted))
