"""When is an executed notebook still valid: its source, the params sections that it uses, the library, the assets and
the results of earlier notebooks are what they were, and what it produced is still there.

The state of a run is runs/<name>/notebooks/.state.json: for each notebook the hashes of its inputs, the files that it
produced in the run folder, and the seconds that it took.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import write_text
from ..params import ROOT, Params, ParamsError, resolve

NO_RESULT = {"notebooks", "checkpoints", "cache", "logs"}  # folders of a run whose files no other notebook depends on
NO_INPUT = {".png", ".svg", ".pdf"}  # figures: results, but nothing reads them
RESULT = {".csv", ".json", ".npz"}  # kinds of files that count where they lie in the run folder itself
# files that no notebook computes with
NO_SOURCE = ("runner.", "run_folder/", "report/", "provenance.", "common/command_line.")


@dataclass(frozen=True)
class Notebook:
    """A source notebook, `path` = NN_topic.ipynb."""

    path: Path

    @property
    def stem(self) -> str:
        return self.path.stem

    def read(self) -> dict[str, Any]:
        """Raises ParamsError where it is not JSON."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ParamsError([f"{self.path.name}: not a notebook: {error}"]) from None

    def title(self) -> str:
        """The first heading, or the file's stem."""
        lines = (line for cell in self.read()["cells"] for line in "".join(cell["source"]).splitlines())
        return next((line.lstrip("# ") for line in lines if line.startswith("# ")), self.stem)

    def source_hash(self) -> str:
        """Of the cells' types and sources: outputs and metadata don't count."""
        return _hash([(cell["cell_type"], "".join(cell["source"])) for cell in self.read()["cells"]])

    def uses(self) -> list[str]:
        """The params sections that it uses: its metadata `alter.uses`, else all; `run` always."""
        return ["run", *self.read()["metadata"].get("alter", {}).get("uses", Params.model_fields)]

    def reads(self) -> list[str]:
        """Folders of the project that it reads beside the run's (metadata `alter.reads`)."""
        return self.read()["metadata"].get("alter", {}).get("reads", [])

    def on_request(self) -> bool:
        """Whether it runs only where it is named (metadata `alter.on_request`), since it is not about one run."""
        return self.read()["metadata"].get("alter", {}).get("on_request", False)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def library_hash() -> str:
    """Of every source and config of alter_lib that a notebook may compute with."""
    folder = ROOT / "alter_lib"
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.suffix in {".py", ".json"}}
    used = {name: path for name, path in paths.items() if not name.startswith(NO_SOURCE)}
    return _hash([(name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in used.items()])


def assets_hash(params: Params) -> str:
    """Of size and date of the data files that the params name: assets/, a backbone folder, the teacher's figures."""
    return data_hash(
        ROOT / "assets", resolve(params.backbone.id), resolve(params.evaluation.teacher_results or "assets")
    )


def data_hash(*places: Path) -> str:
    """Of size and date of the data files in these folders (or files)."""
    files = {p for place in places for p in ([place] if place.is_file() else place.rglob("*"))}
    data = sorted(p for p in files if p.suffix in {".json", ".npz", ".safetensors", ".bin", ".txt", ".csv"})
    return _hash([(str(p), *_stamp(p)) for p in data])


class RunState:
    """State of the run folder of `params`; `notebooks` in order of execution."""

    def __init__(self, params: Params, notebooks: Iterable[Notebook]):
        self.params, self.notebooks = params, list(notebooks)
        self.folder = params.run_folder
        self.path = self.folder / "notebooks" / ".state.json"
        self.entries: dict[str, dict[str, Any]] = self._read()
        self._shared = {"library": library_hash(), "assets": assets_hash(params)}

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError:  # damaged from outside: it is written whole
            print(f"{self.path}: not JSON; the notebooks are executed again", file=sys.stderr)
            return {}

    def executed(self, notebook: Notebook) -> Path:
        return self.folder / "notebooks" / notebook.path.name

    def inputs(self, notebook: Notebook) -> dict[str, str]:
        """{what: hash} of all that the notebook's results depend on."""
        sections = self.params.dump()
        used = {f"params {name}": _hash(sections[name]) for name in notebook.uses()}
        read = {folder: data_hash(ROOT / folder) for folder in notebook.reads()}
        own = {"notebook": notebook.source_hash(), **used, **read}
        return {**own, **self._shared, "earlier results": self._upstream(notebook)}

    def _upstream(self, notebook: Notebook) -> str:
        earlier = [other.stem for other in self.notebooks if other.stem < notebook.stem]
        files = {path: entry["sha256"] for stem in earlier for path, entry in self._produced(stem).items()}
        return _hash({path: digest for path, digest in files.items() if Path(path).suffix not in NO_INPUT})

    def _produced(self, stem: str) -> Mapping[str, Any]:
        return self.entries.get(stem, {}).get("produced", {})

    def stale(self, notebook: Notebook) -> str | None:
        """Why the notebook has to run, in words; None: it is up to date."""
        entry = self.entries.get(notebook.stem)
        if entry is None or "inputs" not in entry or not self.executed(notebook).exists():
            return "not run yet"
        now = self.inputs(notebook)
        changed = [what for what in {**now, **entry["inputs"]} if now.get(what) != entry["inputs"].get(what)]
        if changed:
            return ", ".join(changed) + " changed"
        lost = [path for path, old in entry["produced"].items() if not self._same(path, old)]
        return f"{lost[0]} is missing or changed" if lost else None

    def _same(self, path: str, old: Mapping[str, Any]) -> bool:
        file = self.folder / path
        if not file.is_file():
            return False
        return _stamp(file) == old["stamp"] or _file_hash(file) == old["sha256"]

    def results(self) -> dict[str, list[int]]:
        """{path in the run folder: [bytes, nanoseconds]} of all results."""
        files = (p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file())
        inner = (p for p in files if len(p.parts) > 1 or p.suffix in RESULT and p.name != "provenance.json")
        kept = (p for p in inner if p.parts[0] not in NO_RESULT and not any(part[0] in "._" for part in p.parts))
        return {p.as_posix(): _stamp(self.folder / p) for p in kept}

    def forget(self, notebook: Notebook) -> None:
        """Called before it runs: from now on, and if it fails, it counts as not run; its time is kept for estimates."""
        self.entries.setdefault(notebook.stem, {}).pop("inputs", None)
        self.executed(notebook).unlink(missing_ok=True)
        self._save()

    def finish(self, notebook: Notebook, before: Mapping[str, list[int]], seconds: float) -> None:
        """Record a success. A file that it wrote, or that no other notebook lays claim to, is its product.

        An earlier notebook that was up to date stays so when this one adds to a file of its.
        """
        fresh = [n for n in self.notebooks if n.stem < notebook.stem and self._fresh_but_for(n, before)]
        after = self.results()
        others = {path for stem in self.entries if stem != notebook.stem for path in self._produced(stem)}
        mine = [path for path, stamp in after.items() if path not in others or stamp != before.get(path)]
        for stem in self.entries:
            self.entries[stem]["produced"] = {p: e for p, e in self._produced(stem).items() if p not in mine}
        inputs = self.inputs(notebook)
        self.entries[notebook.stem] = {"inputs": inputs, "produced": self._hashed(mine, after), "seconds": seconds}
        for other in fresh:
            self.entries[other.stem]["inputs"]["earlier results"] = self._upstream(other)
        self._save()

    def _fresh_but_for(self, notebook: Notebook, before: Mapping[str, list[int]]) -> bool:
        entry = self.entries.get(notebook.stem, {})
        if "inputs" not in entry or self.inputs(notebook) != entry["inputs"]:
            return False
        return all(before.get(path) == old["stamp"] for path, old in entry["produced"].items())

    def _hashed(self, paths: Iterable[str], stamps: Mapping[str, list[int]]) -> dict[str, Any]:
        return {path: {"stamp": stamps[path], "sha256": _file_hash(self.folder / path)} for path in paths}

    def _save(self) -> None:
        write_text(self.path, json.dumps(self.entries, indent=1))


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
