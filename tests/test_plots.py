"""Figures: what is drawn is what the data say, on given axes as on new ones, in colours that can be told apart."""

import shutil
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alter_lib import plots
from alter_lib.evaluation.result import EvaluationResult, Grid, Metric
from alter_lib.params import ROOT, load_params
from alter_lib.plan import CostTable, ExpertPlan
from alter_lib.plots.evaluation import expert_strip, tiled, wrapped
from alter_lib.plots.layers import block_of, blocks
from alter_lib.training.history import HISTORY
from alter_lib.training.plan_history import PlanHistory

LAYERS = ("down_blocks.0.resnets.0", "down_blocks.0.attentions.0", "mid_block.resnets.0", "up_blocks.1.attentions.2")
COSTS = CostTable((10, 20, 30, 40), 100, "linear+conv", (8, 8))


def make_plan(masks: list[list[int]], routing: list[int]) -> ExpertPlan:
    return ExpertPlan(torch.tensor(masks), torch.tensor(routing), LAYERS, COSTS, "UNet2DConditionModel", "hash", 0.65)


PLAN = make_plan([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]], [0, 0, 0, 1, 1, 0])


@pytest.fixture
def params(tmp_path: Path):
    return load_params("params/smoke.yaml", {"run.out": str(tmp_path)})


def test_blocks_by_hand() -> None:
    assert blocks(LAYERS) == [("down 0", 0, 1), ("mid", 2, 2), ("up 1", 3, 3)]
    assert block_of("transformer_blocks.7") == "blocks"


def test_mask_picture_shades_running_layers_by_their_share_of_the_macs() -> None:
    ax = plots.masks(PLAN)
    shown = ax.images[0].get_array()
    expected = np.array([[5, 10, np.nan, 20], [5, np.nan, np.nan, np.nan], [5, 10, 15, 20]])
    np.testing.assert_array_equal(shown.filled(np.nan), expected)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["R", "T", "R", "T"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0   85%", "1   55%", "2   100%"]


def test_routing_draws_one_mark_a_timestep() -> None:
    ax = plots.routing(PLAN, visited=[5, 2])
    np.testing.assert_array_equal(ax.collections[0].get_offsets()[:, 1], PLAN.routing)
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), [5, 2])
    assert "2 of 3 experts in use, 2 switches" in ax.get_title("left")


def test_macs_per_timestep_names_the_plans_own_ratios() -> None:
    ax = plots.macs_per_timestep(PLAN, visited=[3, 4])
    legend = " ".join(text.get_text() for text in ax.get_legend().get_texts())
    assert f"all T: {100 * PLAN.achieved_ratio:.2f} %" in legend and "visited by the sampler: 55.00 %" in legend
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 1], [85, 85, 85, 55, 55, 85])


def test_mask_distances_by_hand() -> None:
    np.testing.assert_array_equal(plots.mask_distances(PLAN), [[0, 2, 1], [2, 0, 3], [1, 3, 0]])


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1, max_size=6))
def test_mask_distance_is_a_metric(masks: list[list[int]]) -> None:
    distance = plots.mask_distances(make_plan(masks, [0]))
    assert (distance == distance.T).all() and (distance.diagonal() == 0).all()
    assert (distance[:, :, None] <= distance[:, None, :] + distance.T[None]).all()


def test_experts_figure_shows_shares() -> None:
    distances, shares = plots.experts(PLAN)
    assert len(distances.texts) == 9
    np.testing.assert_allclose([bar.get_height() for bar in shares.patches], [400 / 6, 200 / 6, 0])


def test_expert_strip_names_the_expert_of_each_call() -> None:
    ax = Figure().subplots()
    expert_strip(ax, PLAN, [5, 4, 3, 0])
    assert [text.get_text() for text in ax.texts] == ["0", "1", "1", "0"]


def test_tiled_by_hand() -> None:
    sheet = tiled(np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8), columns=2, gap=1)
    np.testing.assert_array_equal(sheet[..., 0], [[0, 255, 1], [255, 255, 255], [2, 255, 255]])


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_captions_fit_two_lines(caption: str) -> None:
    lines = wrapped(caption)
    assert 1 <= len(lines) <= 2 and all(len(line) <= 18 for line in lines)


def evaluation_result(folder: Path) -> EvaluationResult:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    metrics = [Metric(name, "real", 1.0, n=8, interval=(0.9, 1.1)) for name in ("fid_alexnet", "proxy_text_score")]
    for method, steps, macs in (("teacher", 20, 4e9), ("teacher", 13, 2.6e9), ("alter", 20, 2.6e9)):
        metrics.append(Metric("total_macs", method, macs, steps, macs_convention="linear+conv"))
        for name in ("fid_alexnet", "proxy_text_score"):
            metrics.append(Metric(name, method, float(steps), steps, n=8, interval=(steps - 1.0, steps + 2.0)))
    pictures = {"real": images, "teacher@20": images, "alter@20": images}
    calls = {"teacher@20": [5.0, 3.0], "alter@20": [5.0, 3.0]}
    return EvaluationResult(tuple(metrics), Grid(("a", "b", "c"), pictures, calls), folder)


def test_quality_stands_against_total_macs_with_its_intervals(tmp_path: Path) -> None:
    ax = plots.quality_against_macs(evaluation_result(tmp_path))
    teacher, alter = ax[0].containers
    np.testing.assert_allclose(teacher.lines[0].get_xydata(), [[4, 20], [2.6, 13]])
    np.testing.assert_allclose(alter.lines[0].get_xydata(), [[2.6, 20]])
    np.testing.assert_allclose(alter.lines[2][0].get_segments()[0], [[2.6, 19], [2.6, 22]])


def test_side_by_side_puts_a_strip_under_alter_alone(tmp_path: Path) -> None:
    figure = plots.side_by_side(evaluation_result(tmp_path), PLAN)
    strips = [[text.get_text() for text in ax.texts] for ax in figure.axes[3:]]
    assert strips == [[], ["2 calls of the whole network"], ["0", "1"]]


def history(steps: int, end: int) -> pd.DataFrame:
    k = np.arange(1, steps + 1)
    losses = dict.fromkeys(("L_U", "L_featKD", "L_outKD", "L_denoise"), 1 / k)
    known = {"step": k, "phase": np.where(k <= end, "joint", "backbone"), "ratio": 0.7, "images_per_second": 10.0 * k}
    return pd.DataFrame(known | losses, columns=HISTORY)


@pytest.mark.parametrize("end", [0, 3])  # 0: nothing but fine-tuning
def test_training_curves(end: int) -> None:
    frame = history(6, end)
    ax = plots.training_curves(frame, 0.65, end)
    np.testing.assert_allclose(ax[0].lines[0].get_ydata(), frame.L_U)
    speeds = {0: "35 images/s after it", 3: "20 images/s with the hypernetwork, 50 images/s after it"}
    assert plots.throughput(frame, end).get_title("left") == f"Throughput: {speeds[end]} (medians)"


def test_losses_of_several_runs_share_their_axes() -> None:
    first, second = history(6, 3), history(4, 2)
    ax = plots.loss_comparison({"p = 0.65": first, "p = 0.5": second}, {"p = 0.65": 3})
    for line, frame in zip([line for line in ax[0].lines if len(line.get_xdata()) > 2], (first, second), strict=True):
        np.testing.assert_allclose(line.get_ydata(), frame.L_U)  # six steps: nothing to smooth over
    assert [text.get_text() for text in ax[0].get_legend().get_texts()] == ["p = 0.65", "p = 0.5"]
    assert [list(line.get_xdata()) for line in ax[1].lines if list(line.get_xdata()) == [3, 3]] == [[3, 3]]


def plan_history() -> PlanHistory:
    masks = np.array([np.ones((3, 4), bool), PLAN.masks.numpy()])
    return PlanHistory(np.array([5, 10]), masks, np.array([[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 0]]))


def test_masks_over_training_show_each_step_with_its_ratio() -> None:
    ax = plots.mask_evolution(plan_history(), PLAN)
    assert [each.get_title("left") for each in ax] == ["step 5: 100.0% of the MACs", "step 10: 75.0% of the MACs"]
    for each, masks in zip(ax, plan_history().masks, strict=True):
        np.testing.assert_array_equal(each.images[0].get_array(), masks)
    given = Figure().subplots(1, 3)
    drawn = plots.mask_evolution(plan_history(), PLAN, given)
    assert list(drawn) == list(given) and not given[2].get_visible()  # two steps for three places


def test_routing_over_training_is_an_image_of_steps_and_timesteps() -> None:
    ax = plots.routing_evolution(plan_history())
    np.testing.assert_array_equal(ax.collections[0].get_array().reshape(6, 2).T, plan_history().routing)


def test_dashboard_shows_the_plan_of_now_and_what_is_left() -> None:
    figure = plots.dashboard(history(6, 3), PLAN, plan_history(), 3, "step 6 of 12")
    assert figure.get_suptitle() == "step 6 of 12"
    titles = [ax.get_title("left") for ax in figure.axes]
    assert {"$L_U$: backbone", "active share of the MACs", "Routing while it was learned"} <= set(titles)


def test_overview_marks_a_timestep_and_its_expert() -> None:
    above, below = plots.overview(PLAN, timestep=3).axes[:2]
    assert above.patches[-1].get_y() == 1 - 0.5  # the row of expert 1
    assert below.get_title("left") == "Timestep 3 is served by expert 1: 55.0% of the MACs"


def test_two_plans_stand_side_by_side() -> None:
    other = make_plan([[1, 1, 1, 1]], [0] * 6)
    figure = plots.plan_pair({"learned": PLAN, "all": other})
    titles = [ax.get_title("left") for ax in figure.axes]
    assert "learned: 75.00% of the MACs" in titles and "all: 100.00% of the MACs" in titles


def test_front_has_the_teacher_once_and_a_point_a_run(tmp_path: Path) -> None:
    result = evaluation_result(tmp_path)
    ax = plots.quality_front({"a": result, "b": result})
    assert ax[0].get_legend_handles_labels()[1] == ["teacher (unpruned)", "a", "b"]
    np.testing.assert_allclose(ax[0].containers[2].lines[0].get_xydata(), [[2.6, 20]])
    assert ax[0].containers[1].lines[0].get_marker() != ax[0].containers[2].lines[0].get_marker()


def test_number_of_experts_stands_in_order_with_intervals_and_the_teacher(tmp_path: Path) -> None:
    result = evaluation_result(tmp_path)
    ax = plots.expert_counts({10: result, 5: result})
    np.testing.assert_allclose(ax[0].containers[0].lines[0].get_xydata(), [[5, 20], [10, 20]])
    np.testing.assert_allclose(ax[0].containers[0].lines[2][0].get_segments()[0], [[5, 19], [5, 22]])
    assert ax[0].get_legend_handles_labels()[1] == ["unpruned, 20 steps"]


def test_latency_bars_show_median_quartiles_and_macs() -> None:
    found = {"macs_ratio": 0.64, "pruned_over_unpruned": {"median": 0.7, "q25": 0.65, "q75": 0.8}}
    ax = plots.latency_bars({"learned": found})
    assert ax.patches[0].get_width() == pytest.approx(70)
    spread = next(each for each in ax.collections if len(each.get_segments()) == 1)
    np.testing.assert_allclose(spread.get_segments()[0], [[65, 0], [80, 0]])
    assert any(np.allclose(line.get_xdata(), [64, 64]) for line in ax.lines)
    assert ax.texts[0].get_text() == "learned: 70.0 %"


def test_figures_draw_on_the_axes_that_they_are_given() -> None:
    ax = Figure().subplots(2, 3)
    assert plots.masks(PLAN, ax[0, 0]) is ax[0, 0]
    assert list(plots.experts(PLAN, ax[1, :2])) == list(ax[1, :2])
    assert list(plots.training_curves(history(3, 1), 0.65, 1, ax)) == list(ax.ravel())


PICTURES = np.zeros((3, 8, 8, 3), np.uint8)
SPEEDUPS = [{"method": "ALTER", "steps": 20, "ideal": 3.7, "speedup": 3.5, "workload": name, "batch_size": 64,
             "device": "cpu"} for name in ("tiny_sd", "tiny_dit")]  # fmt: skip
COMPOSITES = {
    "dashboard": lambda **place: plots.dashboard(history(6, 3), PLAN, plan_history(), 3, "step 6 of 12", **place),
    "image_grid": lambda **place: plots.image_grid(PICTURES, ["a", "b", "c"], columns=3, **place),
    "image_rows": lambda **place: plots.image_rows({"DDIM": PICTURES}, ["a", "b", "c"], **place),
    "overview": lambda **place: plots.overview(PLAN, **place),
    "plan_pair": lambda **place: plots.plan_pair({"one": PLAN, "two": PLAN}, **place),
    "speedup_panels": lambda **place: plots.speedup_panels(SPEEDUPS, **place),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_drawings_of_many_panels_take_the_place_of_an_axes(name: str) -> None:
    """The same panels, inside that axes' cell of the caller's own figure."""
    alone, figure = COMPOSITES[name](), Figure((12, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert COMPOSITES[name](ax=right) in figure.subfigs
    assert right not in figure.axes and left in figure.axes and len(figure.axes) == 1 + len(alone.axes)
    figure.savefig(BytesIO())
    assert all(ax.get_window_extent().x0 > left.get_window_extent().x1 for ax in figure.axes if ax is not left)


def labels_apart(ax: Axes) -> bool:
    """The texts that stand at points do not cover each other."""
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    return not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize("run", ["tiny_sd", "tiny_sd_long"])
def test_steps_of_alter_and_teacher_are_written_once_and_apart(tmp_path: Path, run: str) -> None:
    shutil.copy(ROOT / "results" / run / "metrics.json", tmp_path)
    Grid(("a",), {"alter@20": np.zeros((1, 4, 4, 3), np.uint8)}, {"alter@20": [5.0]}).save(tmp_path / "grid.npz")
    result = EvaluationResult.load(tmp_path)
    measured = [m.steps for m in result.metrics if m.name == "fid_alexnet" and m.method in ("teacher", "alter")]
    for each in plots.quality_against_macs(result):  # a control of the same steps and MACs lies on the teacher
        assert [int(text.get_text()) for text in each.texts] == measured and labels_apart(each)


def test_labels_of_speedups_stand_apart() -> None:
    shared = {"workload": "tiny_sd", "batch_size": 64, "device": "cpu"}
    points = {"unpruned": (1.0, 0.99), "all-ones plan": (1.0, 1.03), "ALTER": (1.54, 1.73)}
    rows = [{"method": name, "steps": 50, "ideal": ideal, "speedup": found, **shared}
            for name, (ideal, found) in points.items()]  # fmt: skip
    ax = plots.speedups(rows)
    assert len(ax.texts) == 2 and labels_apart(ax)


def test_nothing_is_left_in_pyplot() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots.overview(PLAN)
    assert plt.get_fignums() == before


def test_save_writes_into_the_run_and_displays(params) -> None:
    saved = plots.save(plots.masks(PLAN), params, "04_masks")
    assert saved.path == params.run_folder / "figures" / "04_masks.png"
    data, metadata = saved._repr_mimebundle_()
    assert data["image/png"] == saved.path.read_bytes() and data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"].startswith("Masks of the experts")
    assert sorted(path.name for path in saved.path.parent.iterdir()) == ["04_masks.pdf", "04_masks.png"]  # no .tmp
    assert saved.path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert plots.png(plots.masks(PLAN).figure) == saved.path.read_bytes()
