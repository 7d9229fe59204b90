"""The command: see the package's docstring."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..backbones.latency import profile
from ..common.command_line import Parser, exit_code
from ..common.files import write_json
from ..params import Params, add_params_arguments, params_from_arguments
from ..plan import ExpertPlan, PlanError
from ..plan.schedules import visited_timesteps
from ..provenance import command, git_state, hardware, now, versions
from . import __doc__ as text
from .forward import forwards, random_plan, random_plans, time_forward
from .methods import measure
from .training import training_steps
from .workloads import WORKLOADS, Workload, cases

FORMAT = "alter-benchmark/2"


def benchmark(params: Params, plan: ExpertPlan | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything as the JSON holds it. Seconds are wall-clock, ratios of medians are never formed."""
    plans, repeats = arguments.plans, arguments.repeats
    result = {
        "format": FORMAT,
        "command": command(),
        "date": now(),
        **git_state(),
        "versions": versions(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "target_ratio": params.loss.target_ratio,
        "workloads": [],
    }
    if not arguments.no_forward:
        result["forward"] = forwards(params, plan, plans, repeats)
    for workload, size in cases(arguments.workloads, arguments.batch_sizes, arguments.device, arguments.dtype):
        names = arguments.methods and ["unpruned", *arguments.methods]
        result["workloads"].append(run_case(workload, size, plan, plans, repeats, names))
    return result | ({} if arguments.no_training else {"training_step": training_steps(params, plan, repeats)})


def run_case(
    workload: Workload,
    batch_size: int,
    plan: ExpertPlan | None,
    plans: int,
    repeats: int,
    names: list[str] | None = None,
) -> dict[str, Any]:
    """The rows of one workload at one batch size; empty, with the reason, where it can't run here."""
    facts = {"name": workload.name, "batch_size": batch_size, "resolution": list(workload.resolution),
             "dtype": workload.dtype, "device": workload.device, "guided": workload.guided}  # fmt: skip
    if reason := workload.missing():
        return facts | {"status": reason, "rows": []}
    backbone = workload.load()
    kind = "learned" if plan and fits(plan, backbone) else "random masks, 10 experts"
    plan = plan if kind == "learned" else random_plan(backbone, workload.ratio, 0, num_experts=10)
    calls, compiled = batch_size * (2 if workload.guided else 1), batch_size in workload.compiled
    found = facts | {"status": "measured", "plan": kind, "convention": backbone.macs_convention,
                     "rows": measure(backbone, plan, calls, workload.steps, repeats, compiled, names)}  # fmt: skip
    if plans:
        visited = visited_timesteps(backbone.pipeline.scheduler, workload.steps[-1])
        found["random_plans"] = random_plans(backbone, workload.ratio, visited, calls, plans, repeats)
        found["latency_budget"] = latency_budget(workload, backbone, visited, calls, repeats)
    return found


def fits(plan: ExpertPlan, backbone: Any) -> bool:
    try:
        plan.validate(backbone)
    except PlanError:
        return False
    return True


def latency_budget(workload: Workload, backbone: Any, visited: list[int], calls: int, repeats: int) -> dict[str, Any]:
    """A random plan whose budget is counted in this device's latency, beside what it runs in MACs."""
    backbone = replace(backbone, latency=profile(backbone, calls))
    plan = random_plan(backbone, workload.ratio, 0)
    return {"target": workload.ratio, "latency_ratio": plan.achieved_ratio, "table": list(backbone.latency.layers),
            "fixed": backbone.latency.fixed, **time_forward(backbone, plan, visited, calls, repeats)}  # fmt: skip


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result in a few lines."""
    forward = result.get("forward", {})
    if "learned" in forward:
        relative, ratio = forward["learned"]["pruned_over_unpruned"], forward["learned"]["macs_ratio"]
        yield f"forward, learned plan: {relative['median']:.3f} of the unpruned time at {ratio:.3f} of the MACs"
    if "random" in forward:
        random = forward["random"]
        what = f"forward, {len(random['plans'])} random plans at {result['target_ratio']} of the MACs"
        yield f"{what}: median {random['median']:.3f}, worst {random['worst']:.3f} of the unpruned time"
    for case in result["workloads"]:
        yield f"{case['name']}, batch {case['batch_size']}: {case['status']}"
        for row in case["rows"]:
            ideal = "" if row["macs_ratio"] is None else f" at {row['macs_ratio']:.3f} of the MACs"
            yield f"  {row['method']}, {row['steps']} steps: {row['over_unpruned']['median']:.3f} of the time{ideal}"
    for phase in ("joint", "backbone") if "training_step" in result else ():
        modes = result["training_step"][phase]
        shares = ", ".join(f"{mode} {modes[mode]['over_reference']['median']:.3f}" for mode in ("sub_batch", "masked"))
        seconds = modes["reference"]["seconds"]["median"]
        yield f"training step, {phase} phase, of the reference's {seconds:.3f} s: {shares}"


def parsed(command_line: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m alter_lib.benchmark", description=text.splitlines()[0])
    add_params_arguments(parser)
    parser.add_argument("--plan", help="plan.json or its folder; default: the run's own, if it has one")
    parser.add_argument("--plans", type=int, default=20, help="random plans (default 20)")
    parser.add_argument("--repeats", type=int, default=15, help="timed rounds (default 15)")
    parser.add_argument("--workloads", nargs="*", choices=tuple(WORKLOADS), help="default all; none: no methods")
    parser.add_argument("--batch-sizes", nargs="+", type=int, metavar="N", help="default: the workload's own")
    parser.add_argument("--device", help="cpu or cuda; default: the workload's own")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the workload's own")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="these beside unpruned, as the rows name them")
    parser.add_argument("--no-forward", action="store_true", help="leave the params' own backbone out")
    parser.add_argument("--no-training", action="store_true", help="leave training steps out")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there")
    return parser.parse_args(command_line)


def main(command_line: list[str] | None = None) -> int:
    arguments = parsed(command_line)
    return exit_code(lambda: _main(arguments), arguments.debug, "starts again")


def _main(arguments: argparse.Namespace) -> None:
    params = params_from_arguments(arguments)
    path = arguments.plan or params.run_folder / "alter"
    plan = ExpertPlan.load(path) if arguments.plan or (path / "plan.json").is_file() else None
    result = benchmark(params, plan, arguments)
    if arguments.out:
        write_json(arguments.out, result)
    print(*lines(result), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
