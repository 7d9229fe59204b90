"""Days of a full training, from the steps that `alter_lib.benchmark_training` measured, as a Markdown table.

    python -m alter_lib.projection results/benchmark/training_*.json

Every device is taken to make as many images a second as the measured one did: what they exchange, reading of data and
checkpoints are not in it.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .common.command_line import Parser, exit_code
from .common.faults import BadInput

FORMAT = "alter-training-benchmark/1"
DEVICES = (1, 2, 8)
COLUMNS = ("backbone", "device", "batch of a device", "step with the hypernetwork", "step after T_end", "steps, batch",
           *(f"days on {count}" for count in DEVICES))  # fmt: skip


def days(result: Mapping[str, Any]) -> dict[int, float] | None:
    """{devices: days} of the run that the result was measured for; None where it was measured at reduced width or a
    step did not fit the memory."""
    run, ours = result["run"], [result["phases"][name]["ours"] for name in ("joint", "backbone")]
    if result["backbone"]["width"] != 1 or any(found["status"] != "measured" for found in ours):
        return None
    joint, after = (found["seconds"]["median"] for found in ours)
    seconds = run["hypernetwork_steps"] * joint + (run["steps"] - run["hypernetwork_steps"]) * after
    one = seconds * run["batch_size"] / result["batch_size"] / 86400
    return {count: one / count for count in DEVICES}


def table(results: list[Mapping[str, Any]]) -> str:
    """A row a result; where nothing can be projected, the columns of days stay empty."""
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for result in results:
        run, found = result["run"], days(result) or {}
        steps = [result["phases"][name]["ours"] for name in ("joint", "backbone")]
        rows.append([
            result["backbone"]["id"], result["device"], result["batch_size"],
            *(f"{x['seconds']['median']:.3f} s" if x["status"] == "measured" else x["status"] for x in steps),
            f"{run['steps']}, {run['batch_size']}",
            *(f"{found[count]:.3g}" if found else "" for count in DEVICES),
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def read(path: Path) -> dict[str, Any]:
    """A result of the benchmark. Raises BadInput, one line, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadInput(f"{path}: not a result of alter_lib.benchmark_training ({FORMAT})")
    return content


def main(command_line: list[str] | None = None) -> int:
    parser = Parser(prog="python -m alter_lib.projection", description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE", help="JSON of alter_lib.benchmark_training")
    arguments = parser.parse_args(command_line)
    return exit_code(lambda: _main(arguments), arguments.debug, "starts again")


def _main(arguments: argparse.Namespace) -> None:
    print(table([read(path) for path in arguments.results]))


if __name__ == "__main__":
    sys.exit(main())
