"""What the report says first: did the run meet its budget, are its experts distinct, and what did pruning cost.

Every figure is read from alter/plan.json and metrics.json; none is computed here that an evaluation did not measure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..params import Params
from ..plan.warnings import BUDGET_TOLERANCE, LEAST_LAYERS, LEAST_SHARE, largest_distinct

COLUMNS = {
    "fid_alexnet": ("FID-AlexNet", 1),
    "proxy_text_score": ("proxy text score", 1),
    "class_accuracy": ("class accuracy", 1),
    "total_macs": ("GMACs an image", 1e9),
}
METHODS = {"real": "real pictures", "teacher": "unpruned (teacher)", "alter": "ALTER"}  # others keep their names


@dataclass(frozen=True)
class Finding:
    """verdict: "reached", "missed", or "open" when nothing was aimed at or the figures don't decide."""

    question: str
    found: str
    target: str
    verdict: str
    verdict_class: str


@dataclass(frozen=True)
class Figures:
    """A table for the page: one row a method and number of steps."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def figure(value: Any) -> str:
    """A value of metrics.json as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(map(figure, value))}]"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def interval(metric: Mapping[str, Any]) -> str:
    return figure(metric["value"]) + (f" {figure(metric['interval'])}" if "interval" in metric else "")


def _judged(question: str, found: str, target: str, reached: bool | None) -> Finding:
    verdict = {True: "reached", False: "missed", None: "open"}[reached]
    return Finding(question, found, target, verdict, verdict)


def findings(params: Params, plan: Mapping[str, Any] | None, metrics: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """All that the files at hand can decide."""
    of_plan = [_budget(plan), *_experts(plan)] if plan else []
    return [*of_plan, *_quality(params, metrics), *_equal_macs(metrics)]


def _budget(plan: Mapping[str, Any]) -> Finding:
    target, achieved, cost = plan["target_ratio"], plan["achieved_ratio"], plan.get("latency") or plan["cost"]
    (height, width), unit = plan["cost"]["resolution"], "latency" if plan.get("latency") else "MACs"
    question = f"Share of the {plan['cost']['denominator']} {unit} that the plan leaves active"
    found = f"{achieved:.4f} over all timesteps ({cost['convention']}, {height} x {width} latents)"
    if target is None:
        return _judged(question, found, "none", None)
    reached = abs(achieved - target) <= BUDGET_TOLERANCE * target
    return _judged(question, found, f"{target:g}, within {BUDGET_TOLERANCE:.0%}", reached)


def _experts(plan: Mapping[str, Any]) -> Iterator[Finding]:
    masks, share = plan["experts"], dict.fromkeys(range(len(plan["experts"])), 0.0)
    if len(masks) < 3:  # Static: nothing is routed
        return
    for first, last, expert in plan["routing"]:
        share[expert] += (last - first + 1) / plan["num_train_timesteps"]
    used = [expert for expert, part in share.items() if part >= LEAST_SHARE]
    distinct = len(largest_distinct(masks, used))
    found = f"{len(used)} of {len(masks)}; {distinct} of them differ pairwise in {LEAST_LAYERS} layers or more"
    question = f"Experts that hold {LEAST_SHARE:.0%} of the timesteps or more"
    yield _judged(question, found, f"at least 3, {LEAST_LAYERS} layers apart", distinct >= 3)


def _quality(params: Params, metrics: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """FID-AlexNet of ALTER over that of the unpruned teacher at as many steps (paper Table 1)."""
    target = params.evaluation.target_fid_ratio
    for metric in metrics:
        same_steps = metric.get("against") == f"teacher@{metric.get('steps')}"
        if metric["name"] != "fid_alexnet_ratio" or not same_steps:
            continue
        where = f"{metric['steps']} steps, N = {metric['n']}"
        if metric["method"] != "alter":
            question = f"FID-AlexNet, control {metric['method']} / unpruned, {where}"
            yield _judged(question, interval(metric), "none", None)
        else:
            question = f"FID-AlexNet, ALTER / unpruned, {where}"
            aim = f"at most {target:g}" if target else "none"
            paper = " (paper, SD2.1, 20 steps: 17.14 / 17.37 on CC3M, 13.89 / 14.46 on COCO)"
            yield _judged(question, interval(metric), aim + paper, metric["value"] <= target if target else None)


def at_equal_macs(metrics: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], int]]:
    """FID ratios of ALTER to the unpruned teacher at fewer steps, each with their number: the one whose total MACs are
    nearest, within 10 %."""
    macs = {(m["method"], m["steps"]): m["value"] for m in metrics if m["name"] == "total_macs"}
    teacher = {steps: value for (method, steps), value in macs.items() if method == "teacher"}
    for metric in metrics:
        mine = macs.get((metric["method"], metric.get("steps")))
        if (metric["name"], metric["method"]) != ("fid_alexnet_ratio", "alter") or not mine or not teacher:
            continue
        nearest = min(teacher, key=lambda steps: abs(teacher[steps] - mine))
        if metric["against"] == f"teacher@{nearest}" and abs(teacher[nearest] / mine - 1) <= 0.1:
            yield metric, nearest


def _equal_macs(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for metric, steps in at_equal_macs(metrics):
        low, high = metric["interval"]
        question = f"FID-AlexNet at equal MACs: ALTER at {metric['steps']} steps / unpruned at {steps}"
        reached = True if high <= 1 else False if low > 1 else None
        yield _judged(question, interval(metric), "at most 1, by the whole interval", reached)


def key_figures(metrics: Sequence[Mapping[str, Any]]) -> Figures | None:
    """Quality and cost by method and steps; None without an evaluation."""
    rows: dict[tuple[str, int | None], dict[str, str]] = {}
    for metric in metrics:
        if metric["name"] in COLUMNS:
            title, divisor = COLUMNS[metric["name"]]
            row = rows.setdefault((metric["method"], metric.get("steps")), {})
            row[title] = interval({**metric, "value": metric["value"] / divisor})
            if metric["name"] == "fid_alexnet":
                row["N"] = figure(metric["n"])
    if not rows:
        return None
    measured = {title for row in rows.values() for title in row}
    titles = [title for title in (*(title for title, _ in COLUMNS.values()), "N") if title in measured]
    names = [METHODS.get(method, method) + (f", {steps} steps" if steps else "") for method, steps in rows]
    cells = [tuple(row.get(title, "") for title in titles) for row in rows.values()]
    return Figures(("", *titles), tuple((name, *row) for name, row in zip(names, cells, strict=True)))
