"""The file format of an expert plan, `alter-plan/1`: reading, checking and writing `plan.json`.

Every fault of a file is a PlanError of one line: file, key, the value found, what is allowed.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, ValidationError

from ..common.faults import BadInput
from ..common.files import write_text

FORMAT = "alter-plan/1"
FILE_NAME = "plan.json"

Count = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Positive = Annotated[StrictInt, Field(ge=1, lt=2**63)]
Timesteps = Annotated[StrictInt, Field(ge=1, le=1_000_000)]  # a table of them is made


class PlanError(BadInput):
    """A plan that is missing, damaged, inconsistent, or made for another backbone. One line."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneSection(_Section):
    class_name: str = Field(alias="class")
    architecture_hash: str


class CostSection(_Section):
    unit: Literal["macs"]
    convention: str
    resolution: tuple[Positive, Positive]
    denominator: Literal["total", "prunable"]
    fixed: Count
    total: Positive


LayerName = Annotated[str, StringConstraints(min_length=1)]


class LayerSection(_Section):
    name: LayerName
    cost: Count


class LatencySection(_Section):
    """The budget's costs in nanoseconds, in the order of `layers`."""

    unit: Literal["ns"]
    convention: str
    device: str
    resolution: tuple[Positive, Positive]
    denominator: Literal["total", "prunable"]
    fixed: Count
    layers: list[Count]


class PlanFile(_Section):
    """The keys of `plan.json` and their types; ExpertPlan checks what they mean together."""

    format: Literal["alter-plan/1"]
    backbone: BackboneSection
    num_train_timesteps: Timesteps
    cost: CostSection
    layers: Annotated[list[LayerSection], Field(min_length=1)]
    experts: Annotated[list[Annotated[str, StringConstraints(pattern="^[01]+$")]], Field(min_length=1)]
    routing: Annotated[list[tuple[Count, Count, Count]], Field(min_length=1)]
    target_ratio: Annotated[float, Field(gt=0, le=1)] | None
    achieved_ratio: Annotated[float, Field(allow_inf_nan=False)]
    provenance: dict[str, Any]
    latency: LatencySection | None = None  # there where the budget is in latency
    dropped_layers: list[LayerName] = []  # there where the weights beside the plan lack these layers


def plan_path(path: str | os.PathLike) -> Path:
    """`path` itself where it names a .json file, else the plan.json in that folder."""
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE_NAME


def read_plan_file(path: Path) -> PlanFile:
    """Parse `path`. Raises PlanError naming the file and the first bad key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(f"{path}: no such file; without its plan a pipeline runs unpruned") from None
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not JSON or UTF-8, thousands of digits or of brackets
        raise PlanError(f"{path}: not JSON, is the file truncated? {error}") from None
    try:
        return PlanFile.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        key = shown(".".join(map(str, fault["loc"]))) or "file"
        raise PlanError(f"{path}: {key}: {fault['msg']}, found {str(fault['input'])[:60]!r}") from None


def shown(text: str) -> str:
    """`text` from a file as one line."""
    return repr(text)[1:-1]


def _lines(value: Any) -> str:
    """JSON, a list with one item to a line."""
    if isinstance(value, list):
        return "[\n" + ",\n".join("    " + json.dumps(item) for item in value) + "\n  ]"
    return json.dumps(value)


def write_plan_file(path: Path, content: dict[str, Any]) -> None:
    """Write `content` atomically as JSON that people read and compare too."""
    items = ",\n".join(f"  {json.dumps(key)}: {_lines(value)}" for key, value in content.items())
    write_text(path, "{\n" + items + "\n}\n")


def encode_routing(routing: list[int]) -> list[list[int]]:
    """Run-length form of `routing` [T]: rows [first, last, expert], both ends included."""
    starts = [t for t in range(len(routing)) if t == 0 or routing[t] != routing[t - 1]]
    ends = [start - 1 for start in starts[1:]] + [len(routing) - 1]
    return [[first, last, routing[first]] for first, last in zip(starts, ends, strict=True)]


def decode_routing(rows: list[tuple[int, int, int]], num_train_timesteps: int) -> list[int]:
    """Expert of each timestep [T] from run-length rows. Raises PlanError unless they cover 0..T-1 exactly once."""
    routing: list[int] = []
    for first, last, expert in sorted(rows):
        if first < len(routing):
            raise PlanError(f"routing: row {[first, last, expert]} overlaps another row")
        if first > len(routing):
            raise PlanError(f"routing: timesteps {len(routing)}..{first - 1} are missing")
        if last < first or last >= num_train_timesteps:
            raise PlanError(f"routing: row {[first, last, expert]} must lie within 0..{num_train_timesteps - 1}")
        routing += [expert] * (last - first + 1)
    if len(routing) < num_train_timesteps:
        raise PlanError(f"routing: timesteps {len(routing)}..{num_train_timesteps - 1} are missing")
    return routing
