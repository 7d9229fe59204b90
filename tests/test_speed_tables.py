"""Benchmark results as notebook 07 shows them: beside the paper's speedups, and empty where no GPU measured."""

from collections import Counter

import pytest
from test_plots import labels_apart

from alter_lib import plots
from alter_lib.benchmark import speed
from alter_lib.benchmark.workloads import cases


def by_hand(name: str, batch_size: int, steps: tuple[int, ...], compiled: bool = True) -> dict:
    """A result of one workload: each call of ALTER takes 0.6 of the time at 0.65 of the MACs, compiled 0.3."""
    shares = {"unpruned": (1.0, 1.0), "ALTER": (0.65, 0.6)} | ({"ALTER, compiled": (0.65, 0.3)} if compiled else {})
    rows = [
        {"method": method, "steps": number, "calls": number + 1, "macs_ratio": macs,
         "seconds": {"median": share}, "over_unpruned": {"median": share, "q25": share, "q75": share}}
        for method, (macs, share) in shares.items() for number in steps
    ]  # fmt: skip
    case = {"name": name, "batch_size": batch_size, "status": "measured", "device": "cpu", "plan": "learned",
            "convention": "linear+conv", "rows": rows}  # fmt: skip
    return {"hardware": {"cpu": "abacus", "gpus": []}, "threads": 2, "repeats": 7, "workloads": [case]}


def test_the_papers_rows_stand_beside_ours_and_without_a_gpu_theirs_are_empty() -> None:
    """51 / (21 x 0.65) = 3.74, 51 / (16 x 0.65) = 4.90: what Table 2's 3.64x and 4.37x are measured against."""
    tables = speed.paper_speedups([by_hand("tiny_sd", 64, (50, 20, 15))])
    assert tables["paper's speedup"].tolist() == [3.64, 3.64, 4.37, 4.37, 1.92, 1.92]
    full, tiny = (tables.xs(name, level="workload") for name in ("sd21_768", "tiny_sd"))
    assert full[["ours, ideal", "ours, measured", "ours, compiled"]].isna().all(axis=None)
    assert set(full["device"]) == {"not measured: no result from a GPU"}
    assert tiny["ours, ideal"].tolist() == pytest.approx([51 / (21 * 0.65), 51 / (16 * 0.65)])
    assert tiny["ours, measured"].tolist() == pytest.approx([51 / (21 * 0.6), 51 / (16 * 0.6)])
    assert tiny["ours, compiled"].tolist() == pytest.approx([51 / (21 * 0.3), 51 / (16 * 0.3)])
    assert set(tiny["device"]) == {"abacus, 2 threads"} and set(tiny["plan"]) == {"learned"}
    assert tables.xs("dit_xl2_256", level="workload")["ours, measured"].isna().all()


def test_workloads_that_no_result_measured_have_an_empty_row() -> None:
    """Also where one of the same name and size was measured on another kind of device."""
    table = speed.method_table([by_hand("tiny_sd", 64, (50,)), by_hand("dit_xl2_256", 4, (250,))], cases())
    empty = table[table["steps"].isna()].index.tolist()
    gpu = [("sd21_768", size) for size in (1, 4, 16)] + [("sd21_512", size) for size in (1, 4, 16)]
    gpu += [("dit_xl2_256", size) for size in (1, 4, 16)]
    assert empty == [
        *((name, size, "not measured: no result from a GPU") for name, size in gpu),
        ("tiny_dit", 64, "not measured: no result from a CPU"),
    ]
    assert set(table["rounds"].dropna()) == {7}


def test_committed_results_fill_the_tables_and_the_figure() -> None:
    """Each panel of the figure is one workload on one device, and none has more than its own points."""
    found = speed.results()
    rows = [row for row in speed.measured(found) if row["ideal"]]
    assert rows and len(speed.method_table(found, cases())) >= len(rows)
    figure = plots.speedup_panels(rows)
    drawn = [sum(len(each.get_offsets()) for each in ax.collections) for ax in figure.axes]
    wanted = Counter((row["workload"], row["batch_size"], row["device"]) for row in rows)
    assert drawn[: len(wanted)] == list(wanted.values()) and not any(drawn[len(wanted) :])
    assert all(labels_apart(ax) for ax in figure.axes)
