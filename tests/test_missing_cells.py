"""Cells of the paper's tables at scale that hold no figure of ours: each says why."""

from pathlib import Path

import pytest

from alter_lib.evaluation.cost import PAPER
from alter_lib.evaluation.our_tables import printed
from alter_lib.evaluation.result import ON_IMAGES, EvaluationResult, Grid, Metric, Missing

COSTS = (
    Metric("total_macs", "teacher", 4e12, 20, macs_convention="c"),
    Metric("total_macs", "alter", 3e12, 20, macs_convention="c"),
    Metric("macs_per_call", "alter", 9e11, 20, macs_convention=PAPER),
    Metric("macs_ratio", "alter", 0.65, 20, macs_convention="c"),
)
CAPTIONS = Missing((ON_IMAGES,), "captions of coco2017", "x", "y")
CLIP = Missing(("clip_score",), "openai/clip", "x", "y")


def cells(metrics: tuple[Metric, ...], *missing: Missing, number: str = "2") -> dict[str, str]:
    """Our side of ALTER's row at 20 steps."""
    result = EvaluationResult(metrics, Grid((), {}, {}), Path("t"), (), missing, "hash", "coco2017")
    return printed(number, result).loc[("ALTER 0.65", 20), "ours (t)"].to_dict()


def test_without_captions_every_figure_of_images_needs_them_and_macs_are_there() -> None:
    found = cells(COSTS, CAPTIONS, CLIP)
    assert found["FID"] == "needs captions of coco2017" and found["CLIP"] == "needs openai/clip"
    assert found["MACs G/image"] == "3000" and float(found["MACs teacher@20 / this"]) == pytest.approx(4 / 3, rel=1e-4)
    assert "MACs G/call, linear+conv" in found


def test_a_metric_that_was_not_asked_for_is_named() -> None:
    found = cells(COSTS, CLIP)
    assert found["FID"] == "fid_legacy_pytorch is not in evaluation.metrics" and found["CLIP"] == "needs openai/clip"


def test_what_is_missing_now_is_not_said_of_another_protocol_s_figures() -> None:
    """Table 1 keeps cc3m's figures of an earlier run; that run lacked something of its own."""
    cc3m = Metric("cmmd", "alter", 0.4, 20, interval=(0.3, 0.5), protocol="cc3m")
    found = cells((*COSTS, cc3m), CAPTIONS, CLIP, number="1")
    assert found["CMMD (CC3M)"] == "0.4 [0.3, 0.5]" and found["FID (CC3M)"] == "not measured"
    assert found["CLIP (COCO)"] == "protocol coco2014 was not run"


def test_times_that_were_not_taken_say_how_to_take_them() -> None:
    untimed = "1 is not in evaluation.latency_batch_sizes"
    found = cells(COSTS)
    assert found["latency s"] == found["time teacher@20 / this"] == untimed
    times = [Metric("latency", method, value, 20, batch_size=1) for method, value in (("teacher", 3.0), ("alter", 2.0))]
    found = cells((*COSTS, *times))
    assert found["latency s"] == "2" and found["time teacher@20 / this"] == "1.5"
    assert cells((*COSTS, Metric("latency", "alter", 9.0, 20, batch_size=8)))["latency s"] == untimed
