"""Prompt lists: which images of which captions or class labels a figure is made of (paper §4.1).

A list is chosen once from its source, written to a JSON file, and named by its hash in every result: two FIDs over 30 k
COCO captions compare only where the 30 k are the same. `evaluation.prompts` may be such a file of somebody else's.

COCO: the first caption of each image in the order of the captions file, then numpy's RandomState(42).choice without
replacement, which is what APTP's script does; CC3M: the same choice among the rows. ImageNet: class i mod 1000.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from ..assets import sha256
from ..files import write_json
from ..params import Evaluation, ParamsError, resolve

FORMAT = "alter-prompts/1"
SELECTION_SEED = 42
NUM_CLASSES = 1000  # of ImageNet
TABLES = {".csv": pd.read_csv, ".jsonl": lambda path: pd.read_json(path, lines=True), ".parquet": pd.read_parquet}


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
        whole, is_list = read_prompts(path, evaluation.protocol, evaluation.prompt_column)
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
    if count > len(whole.ids):
        fault = f"{count} prompts are wanted, {evaluation.prompts} has {len(whole.ids)}"
        raise ParamsError([f"evaluation.num_images: {fault}"])
    if is_list or evaluation.protocol == "prompts":
        return whole.take(range(count))
    return whole.take(np.random.RandomState(SELECTION_SEED).choice(len(whole.ids), count, replace=False))


def read_prompts(path: Path, protocol: str, column: str | None) -> tuple[PromptList, bool]:
    """All prompts of a file in its order, and whether they were chosen before (a saved list)."""
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") == FORMAT:
            return PromptList.of(content), True
        ids, prompts = first_captions(content["annotations"])
    elif protocol == "cc3m":
        prompts = [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
        ids = list(range(len(prompts)))
    else:
        prompts = column_of(path, column) if path.suffix in TABLES else path.read_text(encoding="utf-8").splitlines()
        prompts = [prompt for prompt in prompts if prompt.strip()]
        ids = list(range(len(prompts)))
    return PromptList(protocol, path.name, sha256(path), tuple(ids), tuple(prompts)), False


def first_captions(annotations: Sequence[dict[str, Any]]) -> tuple[list[int], list[str]]:
    """Image ids and the first caption of each, in the order of a COCO captions file."""
    first: dict[int, str] = {}
    for annotation in annotations:
        first.setdefault(annotation["image_id"], annotation["caption"])
    return list(first), list(first.values())


def column_of(path: Path, column: str | None) -> list[str]:
    """A column of text of a csv, jsonl or parquet file. Raises ParamsError when there is none of that name."""
    frame = TABLES[path.suffix](path)
    if column not in frame.columns:
        known = ", ".join(map(str, frame.columns))
        raise ParamsError([f"evaluation.prompt_column: {column} is not a column of {path.name}; it has {known}"])
    return frame[column].dropna().astype(str).tolist()
