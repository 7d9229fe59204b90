"""Speed as tables: benchmark results beside their MAC-ideal and the paper's figures, costs beside each other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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

FOLDER = ROOT / "results" / "benchmark"
FORMAT = "alter-benchmark/2"
SHORT = ("unpruned", "all-ones plan", "ALTER", "ToMe 0.5", "ALTER + ToMe 0.5", "DeepCache, interval 3",
         "ALTER + DeepCache, interval 3")  # fmt: skip
# What the paper calls a speedup: (paper's table, method, steps) -> workload, batch size, method of ours, unpruned steps
PAPER_ROWS = {
    ("2", "ALTER 0.65", 20): ("sd21_768", 1, "ALTER", 50),
    ("2", "ALTER 0.65", 15): ("sd21_768", 1, "ALTER", 50),
    ("4", "ALTER (14 of 28 on average)", 250): ("dit_xl2_256", 16, "ALTER", 250),
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
            "convention": backbone.macs_convention, "rows": rows}  # fmt: skip
    return {"format": FORMAT, "hardware": hardware(), "threads": torch.get_num_threads(), "workloads": [case]}


def device(result: Mapping[str, Any], case: Mapping[str, Any]) -> str:
    """What a case ran on."""
    hardware = result["hardware"]
    return (
        ", ".join(hardware["gpus"]) if case["device"] == "cuda" else f"{hardware['cpu']}, {result['threads']} threads"
    )


def measured(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every measured row, with its workload, batch size, device, and its speedup over the unpruned reference."""
    for result in found:
        for case in result["workloads"]:
            reference = next((row for row in case["rows"] if row["method"] == "unpruned"), None)
            for row in case["rows"]:
                saved, calls = row["macs_ratio"], reference["calls"] / row["calls"]
                yield {**row, "workload": case["name"], "batch_size": case["batch_size"],
                       "device": device(result, case), "convention": case["convention"],
                       "speedup": calls / row["over_unpruned"]["median"], "ideal": saved and calls / saved}  # fmt: skip


def method_table(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a workload, batch size, method and number of steps; unmeasured workloads have one row that says why."""
    rows = [
        (row["workload"], row["batch_size"], row["method"], row["steps"], row["calls"], row["macs_ratio"],
         1e3 * row["seconds"]["median"], row["over_unpruned"]["median"], row["over_unpruned"]["q75"]
         - row["over_unpruned"]["q25"], row["ideal"], row["speedup"], row["device"])
        for row in measured(found)
    ]  # fmt: skip
    done = {row[:2] for row in rows}
    for result in found:
        rows += [(case["name"], case["batch_size"], case["status"], *[None] * 9) for case in result["workloads"]
                 if not case["rows"] and (case["name"], case["batch_size"]) not in done]  # fmt: skip
    columns = ["workload", "batch", "method", "steps", "calls", "MACs, share", "ms a call", "time, share",
               "its quartile range", "ideal speedup", "measured speedup", "device"]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns).drop_duplicates()
    return frame.set_index(["workload", "batch", "method"])


def paper_speedups(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The paper's speedups, with what calls times MACs allow and what was measured here, where it was."""
    rows = []
    for (table, method, steps), (workload, size, ours, _) in PAPER_ROWS.items():
        printed = next(row for row in PAPER[table].rows if row[:2] == (method, steps))
        paper = printed[2 + PAPER[table].columns.index("speedup")]
        mine = next((row for row in measured(found) if (row["workload"], row["batch_size"], row["method"], row["steps"])
                     == (workload, size, ours, steps)), None)  # fmt: skip
        numbers = (
            (mine["ideal"], mine["speedup"], mine["device"]) if mine else (None, None, "not measured: no GPU result")
        )
        rows.append((f"Table {table}, {method}", steps, paper, workload, size, *numbers))
    columns = ["paper", "steps", "paper's speedup", "workload", "batch", "ours, ideal", "ours, measured", "device"]
    return pd.DataFrame(rows, columns=columns).set_index(["paper", "steps"])


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
