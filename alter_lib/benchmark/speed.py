"""Speed as tables: benchmark results beside their MAC-ideal and the paper's figures, costs beside each other."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline, SchedulerMixin

from ..backbones import wrap
from ..evaluation.paper_tables import PAPER
from ..params import ROOT, Params
from ..plan import ExpertPlan
from ..plan.costs import CostTable
from ..plan.steps import step_costs
from ..provenance import hardware
from .methods import measure
from .workloads import WORKLOADS, Workload

FOLDER = ROOT / "results" / "benchmark"
FORMAT = "alter-benchmark/2"
NOT_MEASURED = {"cuda": "not measured: no result from a GPU", "cpu": "not measured: no result from a CPU"}
SHORT = ("unpruned", "all-ones plan", "ALTER", "ToMe 0.5", "ALTER + ToMe 0.5", "DeepCache, interval 3",
         "ALTER + DeepCache, interval 3")  # fmt: skip
# What the paper calls a speedup: (paper's table, method, steps) -> workloads and batch sizes of ours: its own network,
# and the embedded one that stands for it on a CPU
PAPER_ROWS = {
    ("2", "ALTER 0.65", 20): (("sd21_768", 1), ("tiny_sd", 64)),
    ("2", "ALTER 0.65", 15): (("sd21_768", 1), ("tiny_sd", 64)),
    ("4", "ALTER (14 of 28 on average)", 250): (("dit_xl2_256", 16), ("tiny_dit", 64)),
}


def results(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The committed results of `python -m alter_lib.benchmark`, in the order of their names."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [each for each in found if each["format"] == FORMAT]


def here(params: Params, pipe: DiffusionPipeline, plan: ExpertPlan, repeats: int = 3) -> dict[str, Any]:
    """A short benchmark of `plan` on a loaded pipeline, in the form of a result: eager methods, batch and steps of
    params.sampling, beside the paper's 50 and 15 steps."""
    backbone = wrap(pipe, params.cost.convention, params.cost.resolution)
    steps = tuple(dict.fromkeys((50, params.sampling.steps, 15)))
    rows = measure(backbone, plan, params.sampling.batch_size, steps, repeats, names=SHORT)
    on = "cuda" if backbone.denoiser.device.type == "cuda" else "cpu"
    case = {"name": params.run.name, "batch_size": params.sampling.batch_size, "status": "measured", "device": on,
            "plan": "learned", "convention": backbone.macs_convention, "rows": rows}  # fmt: skip
    return {"format": FORMAT, "hardware": hardware(), "threads": torch.get_num_threads(), "repeats": repeats,
            "workloads": [case]}  # fmt: skip


def device(result: Mapping[str, Any], case: Mapping[str, Any]) -> str:
    """What a case ran on."""
    hardware = result["hardware"]
    return (
        ", ".join(hardware["gpus"]) if case["device"] == "cuda" else f"{hardware['cpu']}, {result['threads']} threads"
    )


def measured(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every measured row, with its workload, batch size, device, plan, rounds, and its speedup over the unpruned
    reference."""
    for result in found:
        for case in result["workloads"]:
            reference = next((row for row in case["rows"] if row["method"] == "unpruned"), None)
            for row in case["rows"]:
                saved, calls = row["macs_ratio"], reference["calls"] / row["calls"]
                yield {**row, "workload": case["name"], "batch_size": case["batch_size"], "rounds": result["repeats"],
                       "device": device(result, case), "convention": case["convention"], "plan": case["plan"],
                       "speedup": calls / row["over_unpruned"]["median"], "ideal": saved and calls / saved}  # fmt: skip


def method_table(found: Sequence[Mapping[str, Any]], wanted: Iterable[tuple[Workload, int]] = ()) -> pd.DataFrame:
    """One row a workload, batch size, method and number of steps. Those of `wanted` that no result measured on their
    own kind of device have one empty row that says so."""
    rows = [
        (row["workload"], row["batch_size"], row["method"], row["steps"], row["calls"], row["macs_ratio"],
         1e3 * row["seconds"]["median"], row["over_unpruned"]["median"], row["over_unpruned"]["q75"]
         - row["over_unpruned"]["q25"], row["ideal"], row["speedup"], row["rounds"], row["device"])
        for row in measured(found)
    ]  # fmt: skip
    cases = [case for result in found for case in result["workloads"]]
    done = {(case["name"], case["batch_size"], case["device"]) for case in cases if case["rows"]}
    missing = {(each.name, size, each.device): NOT_MEASURED[each.device] for each, size in wanted}
    missing |= {(case["name"], case["batch_size"], case["device"]): case["status"] for case in cases}
    rows += [(*key[:2], why, *[None] * 10) for key, why in missing.items() if key not in done]
    columns = ["workload", "batch", "method", "steps", "calls", "MACs, share", "ms a call", "time, share",
               "its quartile range", "ideal speedup", "measured speedup", "rounds", "device"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).set_index(["workload", "batch", "method"])


def paper_speedups(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The paper's speedups over its unpruned 50 (DiT: 250) steps, with what calls times MACs allow and what was
    measured here, eager and compiled, both over the eager unpruned network; empty where nothing was."""
    at = {}
    for row in measured(found):
        at.setdefault((row["workload"], row["batch_size"], row["method"], row["steps"]), row)
    rows = []
    for (table, method, steps), workloads in PAPER_ROWS.items():
        printed = next(row for row in PAPER[table].rows if row[:2] == (method, steps))
        paper = printed[2 + PAPER[table].columns.index("speedup")]
        for name, size in workloads:
            mine, compiled = (at.get((name, size, ours, steps)) for ours in ("ALTER", "ALTER, compiled"))
            numbers = (mine["plan"], mine["ideal"], mine["speedup"]) if mine else (None,) * 3
            where = mine["device"] if mine else NOT_MEASURED[WORKLOADS[name].device]
            rows.append((f"Table {table}, {method}", steps, paper, name, size, *numbers,
                         compiled and compiled["speedup"], where))  # fmt: skip
    columns = ["paper", "steps", "paper's speedup", "workload", "batch", "plan", "ours, ideal", "ours, measured",
               "ours, compiled", "device"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).set_index(["paper", "steps", "workload"])


def plan_table(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Random plans whose budget is in MACs, and one whose budget is in latency: their shares of both."""
    rows = []
    for result in found:
        for case in (each for each in result["workloads"] if "random_plans" in each):
            where, plans = (case["name"], case["batch_size"], device(result, case)), case["random_plans"]["plans"]
            budget = case["latency_budget"]
            times = {"median": np.median, "worst": max}
            shares = [each["pruned_over_unpruned"]["median"] for each in plans]
            ratio = float(np.median([each["macs_ratio"] for each in plans]))
            rows += [(*where, f"{len(plans)} in MACs, {name}", ratio, None, of(shares)) for name, of in times.items()]
            rows.append((*where, "1 in latency", budget["macs_ratio"], budget["latency_ratio"],
                         budget["pruned_over_unpruned"]["median"]))  # fmt: skip
    columns = ["workload", "batch", "device", "random plans, budget", "MACs, share", "latency by table, share",
               "time, share"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).set_index(columns[:4])


def step_table(plan: ExpertPlan, schedulers: Mapping[str, SchedulerMixin], steps: Sequence[int]) -> pd.DataFrame:
    """What exactly the visited timesteps cost: a row a scheduler and number of steps."""
    rows = [{"scheduler": name, **asdict(each), "speedup": each.speedup}
            for name, scheduler in schedulers.items() for each in step_costs(plan, scheduler, steps)]  # fmt: skip
    frame = pd.DataFrame(rows).drop(columns="reference_calls")
    frame["macs"] /= 1e9
    names = {"macs": "GMACs/image", "ratio": "active MACs, share", "speedup": "ideal speedup over 50 steps"}
    return frame.rename(columns=names).set_index(["scheduler", "steps"])


def cost_table(plan: ExpertPlan, latency: CostTable) -> pd.DataFrame:
    """MACs and latency beside each other: each layer's share of the network, and the plan's ratio in both."""
    frame = pd.DataFrame({
        "MACs, %": [100 * cost / plan.cost.total for cost in plan.cost.layers],
        "latency, %": [100 * cost / latency.total for cost in latency.layers],
        "used by, % of timesteps": (100 * plan.masks[plan.routing].float().mean(0)).tolist(),
    }, index=pd.Index(plan.layer_names, name="layer"))  # fmt: skip
    frame["latency / MACs"] = frame["latency, %"] / frame["MACs, %"]
    whole = [100 * plan.macs_ratio(costs=table) for table in (plan.cost, latency)]
    frame.loc["the plan, all T timesteps"] = [*whole, 100.0, whole[1] / whole[0]]
    return frame
