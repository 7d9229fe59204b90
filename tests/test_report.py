"""report.html: one page that needs nothing from outside, says first what was reached, and hides no failure."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from report_content import METRICS, SMALL, metric, outside, png

from alter_lib import provenance
from alter_lib.params import Params, load_params
from alter_lib.report import answers, build
from alter_lib.report.findings import findings, key_figures

PLAN = {
    "num_train_timesteps": 1000,
    "cost": {"convention": "linear+conv+attention", "resolution": [8, 8], "denominator": "total"},
    "experts": ["1111", "1100", "0011", "1110"],
    "routing": [[0, 399, 0], [400, 699, 1], [700, 959, 2], [960, 999, 3]],
    "target_ratio": 0.65,
    "achieved_ratio": 0.6549,
}


new = nbformat.v4


@pytest.fixture
def params(tmp_path: Path) -> Params:
    return load_params("params/smoke.yaml", {"run.out": str(tmp_path), "evaluation.target_fid_ratio": 1.8})


@pytest.fixture
def page(params: Params, write_notebook: Callable[..., Path]) -> Callable[..., str]:
    """Builds the report of a run whose only notebook holds the given cells."""

    def made(*cells: Any, **keywords: Any) -> str:
        path = write_notebook(params.run_folder / "notebooks" / "01_a.ipynb", title="A question")
        notebook = nbformat.read(path, 4)
        notebook.cells += cells
        nbformat.write(notebook, path)
        return build.build_report(params, **keywords).read_text()

    return made


def test_the_page_says_what_ran_on_what_and_what_was_reached(page: Callable[..., str], params: Params):
    folder = params.run_folder
    SMALL.save(folder / "alter")
    (folder / "metrics.json").write_text(json.dumps({"metrics": METRICS, "notes": ["a caution"]}))
    made = provenance.record(params, folder, wall_seconds={"01_a": 65.0})
    text = page()
    for expected in ("0.7600 over all timesteps", "1.5 [1.45, 1.55]", "A question", "1m05s", made["hardware"]["cpu"],
                     made["versions"]["torch"], f"run {params.run.seed}", "linear+conv", "a caution",
                     "2 reached, 2 missed."):  # fmt: skip
        assert expected in text, expected
    order = ["What was pruned?", "How much?", "When?", "What did it cost in quality?", "How do I use it?",
             'id="verdict"', 'id="figures"', 'id="facts"', 'id="artefacts"', '<section id="01_a">']  # fmt: skip
    assert sorted(order, key=text.index) == order
    assert outside(text) == [] and "default-src 'none'" in text


def test_the_time_in_all_counts_a_training_that_its_notebook_found_done(params: Params):
    seconds = {"01_a": 5.0, "03_training": 10.0, "training": 60.0}  # 10 s of its 60 at most were in the notebook
    assert "1m05s in all" in build.headline(params, {"wall_seconds": seconds})
    assert "15s in all" in build.headline(params, {"wall_seconds": seconds | {"training": 9.0}})


def test_the_five_answers_by_hand(params: Params):
    found = {answer.question: answer for answer in answers.answers(params, SMALL, METRICS)}
    what, how_much, when = (found[question].text for question in ("What was pruned?", "How much?", "When?"))
    assert "2 residual layers (R) and 1 transformer layers (T) can be skipped, 60% of its multiply-accumulates" in what
    assert "The 2 experts in use skip 1 layers each; 1 layers run in all of them, no layers in none." in what
    # skipped: 20 MACs in 6 of 10 timesteps, 30 in 4
    assert what.endswith("Of what is saved, 50% in block mid, 50% in block up 1.")
    assert "saved" not in answers.what(replace(SMALL, masks=torch.ones(3, 3, dtype=torch.bool)))
    assert found["How much?"].lead == "24.0% of the MACs."  # expert 0 runs 80 of 100, 6 times; expert 1 70, 4 times
    assert "76.0% stay, averaged over all 10 timesteps (target 75%)" in how_much and "runs 70% to 80%" in how_much
    assert "one of 2 experts, which hold 40% to 60% of the timesteps each; the expert changes 1 times" in when
    assert "In the noisiest tenth 70%" in when and "nearest to the image 80%" in when
    cost = found["What did it cost in quality?"]
    assert cost.lead == (
        "Pictures are worse at 20 steps (1.5 times the unpruned network's FID-AlexNet), "
        "better at equal MACs (0.9 times that of 13 unpruned steps)."
    )
    assert cost.text.startswith("FID-AlexNet, lower is better (how far the pictures are from real ones;")
    assert "N = 1,000): at 20 steps 6 pruned and 4 unpruned, 1.5 [1.45, 1.55] times as much." in cost.text
    assert found["What was pruned?"].lead == "Whole layers, other ones at other timesteps."
    alike = replace(SMALL, masks=SMALL.masks[[0, 0, 0]])
    assert answers.changes(alike).startswith("the same ones at all timesteps")
    assert f'load_pipeline("{params.run_folder}/alter")' in found["How do I use it?"].code.replace(
        "~", str(Path.home())
    )
    assert found["When?"].picture.startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("interval", "words"),
    [([1.01, 1.2], "worse"), ([0.8, 0.99], "better"), ([0.9, 1.1], "as good, as far as can be told,")],
)
def test_the_price_is_judged_by_the_whole_interval(interval: list[float], words: str):
    ratio = metric("fid_alexnet_ratio", "alter", 20, 1.0, interval=interval, n=1000, against="teacher@20")
    measured = "(1 times the unpruned network's FID-AlexNet)"
    assert answers.price([ratio]) == f"Pictures are {words} at 20 steps {measured}."


def test_numbers_of_steps_with_the_same_outcome_share_a_clause():
    found = ((50, 1.1, [1.05, 1.2]), (20, 1.3, [1.2, 1.4]), (10, 1.0, [0.9, 1.1]))
    ratios = [metric("fid_alexnet_ratio", "alter", steps, value, interval=interval, n=9, against=f"teacher@{steps}")
              for steps, value, interval in found]  # fmt: skip
    assert answers.price(ratios) == (
        "Pictures are worse at 50 and 20 steps (1.1 and 1.3 times the unpruned network's FID-AlexNet), "
        "as good, as far as can be told, at 10 steps (1 times the unpruned network's FID-AlexNet)."
    )


def test_notebooks_that_are_stale_for_one_reason_share_a_line():
    stale = {"01_a": "library changed", "02_b": "not run yet", "03_c": "library changed"}
    assert [line.partition(". ")[0] for line in build.out_of_date(stale)] == [
        "Not up to date (library changed): 01_a, 03_c", "Not up to date (not run yet): 02_b"
    ]  # fmt: skip


def test_names_of_files_are_escaped_and_their_links_quoted(page: Callable[..., str], params: Params):
    hostile = params.run_folder / "figures" / '"><script>alert(1)<b>&.png'
    hostile.parent.mkdir(parents=True)
    try:
        hostile.write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such name")
    text = page()
    assert outside(text) == []
    assert 'href="figures/%22%3E%3Cscript%3Ealert%281%29%3Cb%3E%26.png"' in text
    assert "<li>&#34;&gt;&lt;script&gt;alert(1)&lt;b&gt;&amp;: <a" in text


def test_a_run_without_results_says_so_and_a_stale_notebook_is_marked(page: Callable[..., str]):
    text = page(stale={"01_a": "params loss changed"})
    assert "Not evaluated yet." in text and "No plan and no figures yet." in text
    assert "Not up to date (params loss changed): 01_a." in text


@pytest.mark.parametrize(
    ("achieved", "verdict"), [(0.65, "reached"), (0.6565, "reached"), (0.6566, "missed"), (0.6434, "missed")]
)
def test_the_budget_is_met_within_one_percent(params: Params, achieved: float, verdict: str):
    budget = findings(params, {**PLAN, "achieved_ratio": achieved}, [])[0]
    assert (budget.verdict, budget.target) == (verdict, "0.65, within 1%")


def test_experts_count_by_their_share_of_the_timesteps_and_their_distance(params: Params):
    experts = findings(params, PLAN, [])[1]
    assert experts.found == "3 of 4; 3 of them differ pairwise in 2 layers or more"  # the fourth holds 4 %
    assert experts.verdict == "reached"
    alike = findings(params, {**PLAN, "experts": ["1111", "1110", "0011", "1110"]}, [])[1]
    assert alike.found.startswith("3 of 4; 2 of them") and alike.verdict == "missed"
    one = findings(params, {**PLAN, "routing": [[0, 999, 0]]}, [])[1]
    assert one.found.startswith("1 of 4; 1 of them") and one.verdict == "missed"


def test_quality_is_judged_at_equal_steps_and_at_equal_macs(params: Params):
    equal_steps, equal_macs = findings(params, None, METRICS)
    assert (equal_steps.found, equal_steps.verdict) == ("1.5 [1.45, 1.55]", "reached")
    assert equal_macs.question.endswith("ALTER at 20 steps / unpruned at 13") and equal_macs.verdict == "reached"
    strict = load_params(params.dump(), {"evaluation.target_fid_ratio": 1.4})
    assert findings(strict, None, METRICS)[0].verdict == "missed"
    silent = load_params(params.dump(), {"evaluation.target_fid_ratio": None})
    assert findings(silent, None, METRICS)[0].verdict == "open"


def test_a_control_is_shown_and_not_judged(params: Params):
    control = [{**metric, "method": "tuned"} for metric in METRICS if metric["method"] == "alter"]
    of_control = [finding for finding in findings(params, None, control) if "control tuned" in finding.question]
    assert [(finding.found, finding.verdict) for finding in of_control] == [("1.5 [1.45, 1.55]", "open")]


@pytest.mark.parametrize(
    ("interval", "verdict"), [([0.8, 1.0], "reached"), ([0.9, 1.1], "open"), ([1.01, 1.2], "missed")]
)
def test_an_interval_that_holds_one_decides_nothing(params: Params, interval: list[float], verdict: str):
    metrics = [*METRICS[:-1], {**METRICS[-1], "interval": interval}]
    assert findings(params, None, metrics)[-1].verdict == verdict


def test_key_figures_have_one_row_a_method_and_number_of_steps():
    figures = key_figures(METRICS)
    assert figures.columns == ("", "FID-AlexNet", "GMACs an image", "N")
    assert ("ALTER, 20 steps", "6 [5.9, 6.1]", "13", "1,000") in figures.rows
    assert ("unpruned (teacher), 13 steps", "", "13.3", "") in figures.rows
    assert key_figures([]) is None


def test_a_figure_is_embedded_and_its_caption_escaped(page: Callable[..., str]):
    figure = new.new_output("display_data", {"image/png": png(), "text/plain": 'a "b" <img src=x onerror=alert(1)>'})
    text = page(new.new_code_cell("plot()", outputs=[figure]))
    assert f"data:image/png;base64,{png()}" in text and outside(text) == []
    assert "&lt;img src=x" in text


def test_what_could_run_or_load_is_cut_out(page: Callable[..., str]):
    hostile = """[a](javascript:alert(1)) <img src="https://a.b/c.png"> ![x](http://a.b/c.png)
<iframe src="//a"></iframe> <script>alert(1)</script><b onclick="alert(1)" style="background:url(http://a.b)">bold</b>"""
    table = '<style>b {color: red}</style><table><tr><td>1</td></tr></table><link rel="stylesheet" href="http://a.b">'
    shown = new.new_output("display_data", {"text/html": table})
    text = page(new.new_markdown_cell(hostile), new.new_code_cell("t", outputs=[shown]))
    assert outside(text) == [] and "javascript:" not in text and "alert(1)" not in text.replace("alert(1)</script>", "")
    assert "<td>1</td>" in text and "bold" in text and "color: red" not in text


def test_an_error_is_shown(page: Callable[..., str]):
    error = new.new_output("error", ename="ValueError", evalue="bad", traceback=["\x1b[31mValueError\x1b[0m: bad <x>"])
    assert 'class="error"' in page(new.new_code_cell("f()", outputs=[error]))
