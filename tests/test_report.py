"""report.html: one page that needs nothing from outside, says first what was reached, and hides no failure."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from alter_lib import provenance
from alter_lib.evaluation.result import Grid
from alter_lib.params import Params, ParamsError, load_params
from alter_lib.plan import CostTable, ExpertPlan
from alter_lib.report import answers, build, cells
from alter_lib.report.compare import build_comparison
from alter_lib.report.findings import findings, key_figures
from alter_lib.report.page import fit

new = nbformat.v4


def png(width: int = 4, height: int = 3, seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return base64.b64encode(target.getvalue()).decode()


def displayed(**data: Any) -> str:
    mimes = {"html": "text/html", "plain": "text/plain", "png": "image/png", "latex": "text/latex",
             "widget": "application/vnd.jupyter.widget-view+json", "svg": "image/svg+xml"}  # fmt: skip
    return cells.output(new.new_output("display_data", {mimes[name]: value for name, value in data.items()}))


class Outside(HTMLParser):
    """Collects whatever would load something or run."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [tag] if tag in {"script", "link", "iframe", "object", "embed"} else []
        for name, value in attributes:
            loads = name in {"src", "srcset", "data", "background"} and not (value or "").startswith("data:")
            self.found += [f"{tag} {name}={value}"] if loads or name.startswith("on") else []


def own_script(page: str) -> str:
    """The page's one script, which its Content-Security-Policy names by hash."""
    script = re.search(r"<script>(.*?)</script>\n</body>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page
    return script[0]


def outside(page: str) -> list[str]:
    parser = Outside()
    parser.feed(page.replace(own_script(page), "", 1))
    return parser.found + re.findall(r"@import|url\((?!['\"]?data:)", page)


PLAN = {
    "num_train_timesteps": 1000,
    "cost": {"convention": "linear+conv+attention", "resolution": [8, 8], "denominator": "total"},
    "experts": ["1111", "1100", "0011", "1110"],
    "routing": [[0, 399, 0], [400, 699, 1], [700, 959, 2], [960, 999, 3]],
    "target_ratio": 0.65,
    "achieved_ratio": 0.6549,
}


# by hand: 3 layers of 10, 20 and 30 MACs and 40 fixed ones; 2 of 3 experts serve 10 timesteps
SMALL = ExpertPlan(
    torch.tensor([[True, False, True], [True, True, False], [True, True, True]]),
    torch.tensor([0] * 6 + [1] * 4),
    ("down_blocks.0.resnets.0", "mid_block.attentions.0", "up_blocks.1.resnets.0"),
    CostTable((10, 20, 30), 40, "linear+conv", (8, 8)),
    "UNet2DConditionModel",
    "hash",
    0.75,
)


def metric(name: str, method: str, steps: int, value: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "method": method, "steps": steps, "value": value, **more}


METRICS = [
    metric("fid_alexnet", "teacher", 20, 4.0, interval=[3.9, 4.1], n=1000),
    metric("total_macs", "teacher", 20, 2.0e10),
    metric("total_macs", "teacher", 13, 1.33e10),
    metric("fid_alexnet", "alter", 20, 6.0, interval=[5.9, 6.1], n=1000),
    metric("total_macs", "alter", 20, 1.3e10),
    metric("fid_alexnet_ratio", "alter", 20, 1.5, interval=[1.45, 1.55], n=1000, against="teacher@20"),
    metric("fid_alexnet_ratio", "alter", 20, 0.9, interval=[0.85, 0.95], n=1000, against="teacher@13"),
]


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
    assert "2 residual layers (R) and 1 transformer layers (T) can be skipped, 60% of its MACs" in what
    assert "The 2 experts in use skip 1 layers each; 1 layers run in all of them, no layers in none." in what
    # skipped: 20 MACs in 6 of 10 timesteps, 30 in 4
    assert what.endswith("Of what is saved, 50% in mid, 50% in up 1.")
    assert "saved" not in answers.what(replace(SMALL, masks=torch.ones(3, 3, dtype=torch.bool)))
    assert found["How much?"].lead == "24.0% of the MACs."  # expert 0 runs 80 of 100, 6 times; expert 1 70, 4 times
    assert "76.0% stay, averaged over all 10 timesteps (target 75%)" in how_much and "runs 70% to 80%" in how_much
    assert "one of 2 experts, which hold 40% to 60% of the timesteps each; the expert changes 1 times" in when
    assert "In the noisiest tenth 70%" in when and "nearest to the image 80%" in when
    cost = found["What did it cost in quality?"]
    assert cost.lead == (
        "Pictures are worse at 20 steps (FID-AlexNet times 1.5), "
        "better at equal MACs (unpruned at 13 steps: times 0.9)."
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
    assert answers.price([ratio]) == f"Pictures are {words} at 20 steps (FID-AlexNet times 1)."


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
    assert ("alter, 20 steps", "6 [5.9, 6.1]", "13", "1,000") in figures.rows
    assert ("teacher, 13 steps", "", "13.3", "") in figures.rows
    assert key_figures([]) is None


def test_a_figure_is_embedded_and_its_caption_escaped(page: Callable[..., str]):
    figure = new.new_output("display_data", {"image/png": png(), "text/plain": 'a "b" <img src=x onerror=alert(1)>'})
    text = page(new.new_code_cell("plot()", outputs=[figure]))
    assert f"data:image/png;base64,{png()}" in text and outside(text) == []
    assert "&lt;img src=x" in text


def test_code_is_folded_and_escaped():
    html = cells.code("# why\nprint('</details><script>alert(1)</script>')")
    assert html.startswith('<details class="code"><summary><code># why</code></summary>')
    assert "<script>" not in html and html.count("</details>") == 1


def test_what_could_run_or_load_is_cut_out(page: Callable[..., str]):
    hostile = """[a](javascript:alert(1)) <img src="https://a.b/c.png"> ![x](http://a.b/c.png)
<iframe src="//a"></iframe> <script>alert(1)</script><b onclick="alert(1)" style="background:url(http://a.b)">bold</b>"""
    table = '<style>b {color: red}</style><table><tr><td>1</td></tr></table><link rel="stylesheet" href="http://a.b">'
    shown = new.new_output("display_data", {"text/html": table})
    text = page(new.new_markdown_cell(hostile), new.new_code_cell("t", outputs=[shown]))
    assert outside(text) == [] and "javascript:" not in text and "alert(1)" not in text.replace("alert(1)</script>", "")
    assert "<td>1</td>" in text and "bold" in text and "color: red" not in text


def test_progress_bars_show_their_last_state_and_colours_survive():
    printed = "  0%|\r 50%|\r100%| done\n\x1b[31m<red>\x1b[0m\n\n"
    text = cells.output(new.new_output("stream", name="stderr", text=printed))
    assert text == '<pre class="stderr">100%| done\n<span class="ansi-red-fg">&lt;red&gt;</span></pre>'
    assert cells.output(new.new_output("stream", text="\n")) == ""


def test_of_several_forms_the_richest_that_works_offline_is_shown():
    assert displayed(html="<table><tr><td>1</td></tr></table>", plain="x").startswith('<div class="table"><table>')
    assert "<pre>x</pre>" == displayed(html="<script>require()</script>", plain="x")
    assert displayed(png=png(), plain="<Figure>").startswith("<figure><img src=")
    assert displayed(widget={"model_id": "1"}, plain="IntSlider()") == ""
    assert displayed(widget={"model_id": "1"}, plain="Viewer()", png=png()).startswith("<figure>")
    assert displayed(svg="<svg onload='alert(1)'/>").startswith('<figure><img src="data:image/svg+xml;base64,')


def test_an_error_is_shown(page: Callable[..., str]):
    error = new.new_output("error", ename="ValueError", evalue="bad", traceback=["\x1b[31mValueError\x1b[0m: bad <x>"])
    assert 'class="error"' in page(new.new_code_cell("f()", outputs=[error]))


def test_formulas_are_pictures_with_their_source_and_unknown_latex_is_shown_as_it_is():
    html = cells.markdown(r"The ratio loss $L = \log\frac{\max(S, p)}{\min(S, p)}$ and $\nosuch{x}$")
    assert html.count("data:image/svg+xml") == 1 and r'alt="L = \log\frac' in html
    assert r"<code>\nosuch{x}</code>" in html
    assert displayed(latex="$x^2$").count("data:image/svg+xml") == 1


def test_pictures_of_a_cell_and_of_the_repository_are_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cells, "ROOT", tmp_path)
    (tmp_path / "in.png").write_bytes(base64.b64decode(png()))
    attached = {"x y.png": {"image/png": png()}}
    assert "data:image/png" in cells.markdown("![a](attachment:x%20y.png)", attached, tmp_path)
    assert "data:image/png" in cells.markdown("![a](in.png)", None, tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.setattr(cells, "ROOT", tmp_path / "sub")
    assert "<img" not in cells.markdown("![a](../in.png)", None, tmp_path / "sub")


def test_a_page_that_is_too_large_loses_bytes_before_it_loses_pictures():
    uris = [f"data:image/png;base64,{png(160, 160, seed)}" for seed in range(3)]
    page = "".join(f'<img src="{uri}">' for uri in uris)
    assert fit(page, len(page)) == page
    smaller = fit(page, len(page) - 1)
    assert len(smaller) < len(page) and smaller.count("image/webp") == 1 and smaller.count("image/png") == 2
    least = fit(page, 2000)
    assert len(least) <= 2000 and least.count("image/svg+xml") >= 2


# --- comparison -----------------------------------------------------------------------------------------------------


def write_run(folder: Path, steps: int, metrics: list[dict[str, Any]]) -> Path:
    params = load_params("params/smoke.yaml", {"training.steps": steps})  # a folder may be renamed
    provenance.write_text(folder / "params.yaml", yaml.safe_dump(params.dump()))
    SMALL.save(folder / "alter")
    (folder / "metrics.json").write_text(json.dumps({"metrics": metrics, "notes": []}))
    Grid(("a", "b"), {"alter@20": np.zeros((2, 4, 4, 3), np.uint8)}, {"alter@20": [5.0]}).save(folder / "grid.npz")
    return folder


def scored(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With what the front needs: both figures of quality, with intervals."""
    extra = [metric("proxy_text_score", method, 20, 70.0, interval=[69.0, 71.0], n=1000)
             for method in ("teacher", "alter")]  # fmt: skip
    return [{**m, "macs_convention": "linear+conv"} if m["name"] == "total_macs" else m for m in metrics] + extra


def test_comparison_sets_runs_side_by_side(tmp_path: Path):
    scores = {"value": 8.0, "interval": [7.9, 8.1], "n": 500}
    worse = [m | scores if (m["name"], m["method"]) == ("fid_alexnet", "alter") else m for m in METRICS]
    runs = [write_run(tmp_path / "a", 12, scored(METRICS)), write_run(tmp_path / "b<i>", 20, scored(worse))]
    path = build_comparison(runs)
    text = path.read_text()
    assert path == tmp_path / "compare-a-b<i>.html" and outside(text) == []
    assert '<td>training.steps</td><td class="number">12</td><td class="number">20</td>' in text
    assert "6 [5.9, 6.1]" in text and "8 [7.9, 8.1]" in text and "b&lt;i&gt;" in text and "b<i>" not in text
    assert "measured at N = 500, 1000: not comparable" in text
    assert text.count("data:image/png") == 4  # masks of both, the front, the pictures
    assert 'href="a/report.html"' in text and 'href="b%3Ci%3E/report.html"' in text


@pytest.mark.parametrize(("names", "fault"), [(["a"], "two runs or more"), (["a", "nothing"], "is no run folder")])
def test_what_is_no_pair_of_runs_is_one_line(tmp_path: Path, names: list[str], fault: str):
    write_run(tmp_path / "a", 12, [])
    with pytest.raises(ParamsError, match=fault):
        build_comparison([tmp_path / name for name in names])
    assert not list(tmp_path.glob("*.html"))
