"""`Params`, all sections of a run together, and `load_params`, which reads, overrides and checks them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from .data import Data
from .errors import ParamsError, faults
from .evaluation import Evaluation
from .paths import DEFAULT, ROOT, resolve
from .reading import read
from .sections import BackboneParams, Cost, HypernetworkParams, Loss, Run, Sampling
from .training import Training
from .values import Section


class Params(Section):
    """All parameters of a run, one attribute a section; frozen. Build it by `load_params` or `Params.notebook`."""

    run: Run = Run()
    backbone: BackboneParams = BackboneParams()
    cost: Cost = Cost()
    data: Data = Data()
    hypernetwork: HypernetworkParams = HypernetworkParams()
    loss: Loss = Loss()
    training: Training
    sampling: Sampling = Sampling()
    evaluation: Evaluation = Evaluation()

    @classmethod
    def notebook(cls, overrides: Mapping[str, Any] | None = None, **sections: Mapping[str, Any] | None) -> Self:
        """Params of a notebook's parameters cell: nothing given means params/tiny_sd.yaml.

        Raises ParamsError as `load_params` does, and when sections are given without run.name: a notebook does not
        know the file that they came from, so it can't name its run folder.
        """
        given = {name: section for name, section in sections.items() if section is not None}
        params = load_params(given or DEFAULT, overrides)
        if params.run.name is None:
            raise ParamsError(["parameters: run.name: missing; it names the folder of the run"])
        return params

    @property
    def run_folder(self) -> Path:
        """Absolute path of runs/<name>."""
        if self.run.name is None:
            raise ParamsError(["parameters: run.name: missing; it names the folder of the run"])
        return resolve(self.run.out) / self.run.name

    def dump(self) -> dict[str, dict[str, Any]]:
        """Plain dict of dicts, lists and scalars: `load_params(params.dump()) == params`."""
        return self.model_dump(mode="json")


def load_params(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Params:
    """Read, override and check params.

    Args:
        source: path of a YAML file (relative: below the repository root), or a mapping of sections.
        overrides: dotted keys and values, `{"training.steps": 100}`.

    Raises:
        ParamsError: every fault, one line each.
    """
    is_file = isinstance(source, str | Path)
    label = _label(resolve(source)) if is_file else "parameters"
    data = _sections(resolve(source), label) if is_file else dict(source)
    data = {_text(section): _named(keys) for section, keys in data.items()}
    bad = _apply(data, overrides or {})
    try:
        params = Params.model_validate(data)
    except ValidationError as error:
        found = faults(error.errors(), data, Params.model_json_schema())
        bad += [f"{'override' if key in (overrides or {}) else label}: {key}: {text}" for key, text in found.items()]
    if bad:
        raise ParamsError([" ".join(line.splitlines()) for line in bad])
    if is_file and params.run.name is None:
        return load_params(data, {"run.name": Path(source).stem})
    return params


def _named(keys: Any) -> Any:
    """The keys of a section, which YAML may read as numbers; a section left empty has none."""
    return {_text(key): value for key, value in (keys or {}).items()} if isinstance(keys, dict | None) else keys


def _text(key: Any) -> str:
    """A key that pydantic takes: half a surrogate pair, which YAML and JSON can spell, is no Unicode."""
    return str(key).encode(errors="backslashreplace").decode()


def _label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def _sections(path: Path, label: str) -> dict[str, Any]:
    if not isinstance(data := read(path, label), dict):
        raise ParamsError([f"{label}: holds no sections; known: {', '.join(Params.model_fields)}"])
    return data


def _apply(data: dict[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """Put dotted `overrides` into copies of the sections of `data`; returns the faults of their form."""
    bad = []
    for dotted, value in overrides.items():
        section, _, key = _text(dotted).partition(".")
        if not key:
            bad.append(f"override: {dotted}: is not of the form section.key")
        elif isinstance(data.get(section, {}), dict):
            data[section] = {**data.get(section, {}), key: value}
    return bad
