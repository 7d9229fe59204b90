"""Our figures in the places of the paper's tables: what is measured, what is cited, and why a cell is empty.

Every table has two sides. "paper" is what it prints; of methods that have no release to run here (DiP-GO and APTP on
SD2.1, DyDiT, TinyFusion) there is nothing else. "ours" is measured, under names that say by what.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..backbones.macs import LINEAR_CONV
from .cost import PAPER as TABLE_1_COUNTER
from .paper_tables import paper_table
from .result import ON_IMAGES, EvaluationResult, Metric

CITED = ("APTP", "DiP-GO", "DyDiT", "TinyFusion")
PRINTED_RATIOS = (0.65, 0.60, 0.55, 0.50)
OF_CAPTIONS, OF_CLASSES = ("1", "2", "7", "8"), ("4",)
NOTES = {
    "1": "Table 1: SD2.1 at 25 and 20 steps.",
    "2": "Table 2: total MACs and quality.",
    "4": "Table 4: DiT-XL/2 at 250 steps.",
    "7": "Table 7: preference models.",
    "8": "Table 8: how far pictures move from those of the teacher at 25 steps, same seeds.",
}
EMBEDDED_NOTES = {
    "4": " Scores by the embedded classifier and AlexNet stand in Inception's place.",
    "7": " They score pictures of 768 px by people's prompts and say nothing about emoji of 32 px: no column is ours.",
}


@dataclass(frozen=True)
class Column:
    """One column of ours: a metric, divided; of: fields that it must have, e.g. the protocol."""

    title: str
    metric: str
    divisor: float = 1
    of: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, metric: Metric) -> bool:
        return metric.name == self.metric and all(getattr(metric, key) == value for key, value in self.of.items())


CALL = Column("MACs G/call, as Table 1 counts", "macs_per_call", 1e9, {"macs_convention": TABLE_1_COUNTER})
LINEAR = Column("MACs G/call, linear+conv", "macs_per_call", 1e9, {"macs_convention": LINEAR_CONV})
IMAGE = Column("MACs G/image", "total_macs", 1e9)
LATENCY = Column("latency s", "latency", of={"batch_size": 1})
COSTS = (CALL, LINEAR, IMAGE, LATENCY)  # what is known without an image
QUALITY = (Column("FID-AlexNet", "fid_alexnet"), Column("proxy text score", "proxy_text_score"))
DEVIATION = (("SSIM", "ssim_to_teacher"), ("PSNR", "psnr_to_teacher"), ("LPIPS", "lpips_to_teacher"))
EMBEDDED = {
    "1": (CALL, IMAGE, LATENCY, *QUALITY),
    "2": (LINEAR, IMAGE, *QUALITY),
    "4": (Column("classifier score", "classifier_score"), Column("FID-AlexNet", "fid_alexnet"),
          Column("sFID-AlexNet", "sfid_alexnet"), Column("classifier precision", "classifier_precision"),
          Column("classifier recall", "classifier_recall"), Column("class accuracy", "class_accuracy"), IMAGE),
    "8": tuple(Column(title, name) for title, name in DEVIATION),
}  # fmt: skip
PLACES = (("CC3M", "cc3m"), ("COCO", "coco2014"))
AT_SCALE = {
    "1": (CALL, IMAGE, LATENCY, *(Column(f"{title} ({place})", name, of={"protocol": protocol})
          for place, protocol in PLACES
          for title, name in (("FID", "fid_legacy_pytorch"), ("CLIP", "clip_score"), ("CMMD", "cmmd")))),
    "2": (LINEAR, IMAGE, LATENCY, Column("CLIP", "clip_score", of={"protocol": "coco2017"}),
          Column("FID", "fid_legacy_pytorch", of={"protocol": "coco2017"})),
    "4": (LATENCY, *(Column(title, name, of={"protocol": "imagenet"}) for title, name in (
          ("IS", "inception_score"), ("FID", "fid"), ("sFID", "sfid"), ("precision", "precision"),
          ("recall", "recall"))), IMAGE),
    "7": (Column("ImageReward", "image_reward"), Column("HPSv2", "hpsv2")),
    "8": tuple(Column(f"{title} ({place})", name, of={"protocol": protocol}) for place, protocol in PLACES
               for title, name in DEVIATION),
}  # fmt: skip


def at_scale(result: EvaluationResult) -> bool:
    """Whether a protocol of the paper (or prompts of one's own) was measured, and not the embedded pictures."""
    return result.protocol != "embedded"


def of_classes(result: EvaluationResult) -> bool:
    return result.protocol == "imagenet" or any(metric.name == "class_accuracy" for metric in result.metrics)


def columns(number: str, result: EvaluationResult) -> tuple[Column, ...]:
    """The columns of ours; of embedded pictures times only where any were taken."""
    if at_scale(result):
        return AT_SCALE[number]
    timed = any(metric.name == "latency" for metric in result.metrics)
    return tuple(column for column in EMBEDDED.get(number, ()) if column is not LATENCY or timed)


def counterparts(number: str, result: EvaluationResult) -> dict[str, str]:
    """Our method -> the paper's row, at an equal number of steps; ALTER's by the ratio that its plan achieves."""
    if number == "4":
        return {"teacher": "DiT-XL/2", "alter": "ALTER (14 of 28 on average)"}
    ratio = next((m.value for m in result.metrics if (m.name, m.method) == ("macs_ratio", "alter")), PRINTED_RATIOS[0])
    nearest = min(PRINTED_RATIOS, key=lambda printed: abs(printed - ratio))
    alter = f"ALTER {nearest:.2f}" if abs(nearest - ratio) <= 0.025 else f"ALTER {ratio:.2f} (not printed)"
    baselines = {"bk_sdm_v2_base": "BK-SDM-v2 Base", "bk_sdm_v2_small": "BK-SDM-v2 Small"}
    controls = dict.fromkeys(m.method for m in result.metrics if m.name == "macs_ratio" and m.method != "alter")
    return {"teacher": "SDv2.1", "alter": alter, **baselines, **{name: f"control {name}" for name in controls}}


def our_metrics(number: str, result: EvaluationResult) -> dict[tuple[str, int], dict[str, tuple[Metric, float]]]:
    """{(the paper's method, steps): {column: (figure, divisor)}}."""
    names, rows = counterparts(number, result), {}
    for column in columns(number, result):
        for metric in result.metrics:
            if metric.method in names and metric.steps and column.fits(metric):
                place = rows.setdefault((names[metric.method], metric.steps), {})
                place.setdefault(column.title, (metric, column.divisor))
    return rows


def our_table(number: str, result: EvaluationResult) -> pd.DataFrame:
    """Our figures in the columns that stand beside table `number`, indexed by the paper's names of the methods.

    Raises KeyError for a table without figures of ours.
    """
    titles = [column.title for column in columns(number, result)]
    if not titles:
        raise KeyError(f"Table {number}: no figures of ours stand beside it")
    rows = {place: {title: metric.value / divisor for title, (metric, divisor) in cells.items()}
            for place, cells in our_metrics(number, result).items()}  # fmt: skip
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=titles)
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["method", "steps"])
    if number in ("2", "4"):  # of MACs and of time: the paper's speedup is the one of time on an A100
        return frame.join(speedups(frame, counterparts(number, result)["teacher"], at_equal_steps=number == "4"))
    return frame


def speedups(frame: pd.DataFrame, teacher: str, at_equal_steps: bool) -> pd.DataFrame:
    """How many times less each row of `our_table` costs than the teacher at as many steps (Table 4) or at the most that
    it was drawn with (Table 2)."""
    rows = frame.loc[[teacher]].droplevel("method")
    steps = frame.index.get_level_values("steps")
    reference = rows.reindex(steps if at_equal_steps else [max(rows.index)] * len(steps)).set_axis(frame.index)
    name = "teacher, equal steps," if at_equal_steps else f"teacher@{max(rows.index)}"
    kinds = {"MACs": IMAGE.title, "time": LATENCY.title}
    return pd.DataFrame({f"{kind} {name} / this": reference[title] / frame[title]
                         for kind, title in kinds.items() if title in frame})  # fmt: skip


def beside_paper(number: str, result: EvaluationResult) -> pd.DataFrame:
    """Table 1, 2, 4, 7 or 8 with ours beside it: columns ("paper", ...) and ("ours (run)", ...), by method and steps.

    Rows that only one side has stay, with nothing on the other. Raises KeyError for a table without figures of ours.
    """
    sides = {"paper": paper_table(number), f"ours ({result.folder.name})": our_table(number, result)}
    order = list(dict.fromkeys(index for frame in sides.values() for index in frame.index))
    return pd.concat({side: frame.reindex(order) for side, frame in sides.items()}, axis=1)


def printed(number: str, result: EvaluationResult) -> pd.DataFrame:
    """`beside_paper` as text: figures with their 95 % intervals, and in an empty cell of ours what is missing."""
    if not columns(number, result):
        return paper_table(number).map(lambda value: f"{value:.5g}")
    frame, measured = beside_paper(number, result), our_metrics(number, result)
    text = frame.map(lambda value: "" if pd.isna(value) else f"{value:.5g}").astype(object)
    by_title = {column.title: column for column in columns(number, result)}
    for side, title in frame.columns[[name != "paper" for name, _ in frame.columns]]:
        for place in frame.index:
            if title in measured.get(place, {}):
                text.loc[place, (side, title)] += interval_text(*measured[place][title])
            elif pd.isna(frame.loc[place, (side, title)]):
                speedup_of = LATENCY if title.startswith("time") else IMAGE
                text.loc[place, (side, title)] = reason(number, result, place, by_title.get(title, speedup_of))
    return text


def interval_text(metric: Metric, divisor: float) -> str:
    if metric.interval is None:
        return ""
    low, high = (value / divisor for value in metric.interval)
    return f" [{low:.4g}, {high:.4g}]"


def reason(number: str, result: EvaluationResult, place: tuple[str, int], column: Column) -> str:
    """Why there is no figure of ours in a cell."""
    method, steps = place
    if method.startswith(CITED):
        return "cited, not run here"
    names = {paper: ours for ours, paper in counterparts(number, result).items()}
    if method not in names:
        return "no run at this ratio"
    lacking = {name: each.what for each in result.missing for name in each.metrics}
    if (ours := names[method]) in lacking or ours not in {metric.method for metric in result.metrics}:
        return f"needs {lacking[ours]}" if ours in lacking else "not in evaluation.baselines"
    wanted = column.of.get("protocol", result.protocol)
    if wanted not in {metric.protocol for metric in result.metrics} | {result.protocol}:
        return f"protocol {wanted} was not run"
    needed = column.metric if column in COSTS or column.metric in lacking else ON_IMAGES
    if needed in lacking and wanted == result.protocol:
        return f"needs {lacking[needed]}"
    if column is LATENCY and not any(column.fits(metric) for metric in result.metrics):
        return "1 is not in evaluation.latency_batch_sizes"
    if steps not in {metric.steps for metric in result.metrics if metric.method == ours}:
        return f"{steps} steps were not drawn"
    if column.metric.endswith("_to_teacher") and ours == "teacher":
        return "what the others are compared with"
    known = at_scale(result) and wanted == result.protocol and column not in COSTS
    return f"{column.metric} is not in evaluation.metrics" if known else "not measured"


def comparable_tables(result: EvaluationResult) -> dict[str, pd.DataFrame]:
    """{note: table as text} of every table of the paper that this kind of backbone has figures for, ours beside it."""
    numbers = OF_CLASSES if of_classes(result) else OF_CAPTIONS
    more = {} if at_scale(result) else EMBEDDED_NOTES
    return {NOTES[number] + more.get(number, ""): printed(number, result) for number in numbers}
