"""metadata.jsonl of a folder of pictures, read through once and then row by row from the disk.

What is held of a row is where its line ends, 8 bytes: a list of millions takes no more memory than that.
"""

import hashlib
import json
from array import array
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..params import ParamsError


class Row(BaseModel):
    """What a line says, under the names that `TableSource` looks for."""

    image: str | None
    captions: list[str | None]
    label: int | None
    score: float | None


class Lines:
    """The rows of a metadata.jsonl by number. caption, label, score: the keys of a line that hold them.

    digest: hash of all rows; captioned, labelled: whether any row has a caption, a label. Raises ParamsError with the
    number of the first line that is no such row.
    """

    def __init__(self, path: Path, caption: str, label: str, score: str) -> None:
        self.path, self.keys, self.ends = path, {"captions": caption, "label": label, "score": score}, array("q")
        self.captioned = self.labelled = False
        digest = hashlib.sha256(b"[[")  # of the JSON of one list of all rows, without making it
        with path.open("rb") as lines:
            for number, line in enumerate(lines):
                said = self.said(number, line)
                row = self.checked(number, said)
                self.captioned |= bool(row.captions)
                self.labelled |= row.label is not None
                digest.update((", " * (number > 0) + json.dumps(said)).encode())
                self.ends.append(len(line) + (self.ends[-1] if number else 0))
        digest.update(b"]]")
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> dict[str, Any]:
        first = self.ends[number - 1] if number else 0
        with self.path.open("rb") as file:  # anew each time: threads ask
            file.seek(first)
            line = file.read(self.ends[number] - first)
        return self.checked(number, self.said(number, line)).model_dump()

    def said(self, number: int, line: bytes) -> dict[str, Any]:
        """What stands in a line, unchecked."""
        try:
            content = json.loads(line)
            found = {name: content.get(key) for name, key in self.keys.items()}
            captions = found["captions"] or []
            return {"image": content["file_name"], **found,
                    "captions": [captions] if isinstance(captions, str) else captions}  # fmt: skip
        except (ValueError, KeyError, AttributeError) as error:
            reason = str(error) if isinstance(error, UnicodeDecodeError) else repr(error)
            said = f"{reason}; a line is a JSON object with file_name"
            raise ParamsError([f"{self.path}: line {number + 1}: {said}"]) from None

    def checked(self, number: int, said: dict[str, Any]) -> Row:
        """Row `number`, counted from 0."""
        try:
            return Row(**said)
        except ValidationError as error:
            fault = error.errors()[0]
            key = {"image": "file_name", **self.keys}[fault["loc"][0]]
            reason = f"{key}: {fault['input']!r}: {fault['msg']}"
            raise ParamsError([f"{self.path}: line {number + 1}: {reason}"]) from None
