"""Pages as a reader sees them, in headless Chromium: notebook 04 in JupyterLab, and reports opened from disk.

Screenshots of both themes at two widths land in tests/screenshots/ (not in git): look at them. ALTER_RUN=runs/NAME
takes a finished run in place of a fresh one of params/smoke.yaml.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from alter_lib.params import ROOT, load_params
from alter_lib.plan import ExpertPlan
from alter_lib.plan.schedules import visited_timesteps
from alter_lib.report.build import build_report
from alter_lib.report.compare import build_comparison
from alter_lib.training.plan_history import PlanHistory
from alter_lib.widgets.edits import rerouted, toggled
from alter_lib.widgets.words import layer_text

SCREENSHOTS = ROOT / "tests" / "screenshots"
WIDTHS = (1280, 800)
FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest) -> Path:
    given = os.environ.get("ALTER_RUN")
    return Path(given).resolve() if given else request.getfixturevalue("smoke_run")[0]


@pytest.fixture(scope="module")
def browser(chromium: str):
    from playwright.sync_api import sync_playwright

    SCREENSHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


# --- JupyterLab ---------------------------------------------------------------------------------------------------


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """A server on a free port, its files below `folder`; yields its address with the token."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(folder / ".config")}
    for name in ("RUNTIME", "DATA"):
        environment[f"JUPYTER_{name}_DIR"] = str(folder / f".{name.lower()}")
    tracker = folder / ".settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # else cells outside the window are not in the page
    notifications = folder / ".settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notifications.parent.mkdir(parents=True)
    notifications.write_text('{"fetchNews": "false"}')  # else a question covers part of the page
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(folder / ".settings")
    options = ["--no-browser", "--port=0", "--allow-root", "--expose-app-in-browser", f"--notebook-dir={folder}"]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, env=environment, cwd=folder
        )
        try:
            yield address(folder / ".runtime", server)
        finally:
            server.terminate()
            server.wait(30)


def address(runtime: Path, server: subprocess.Popen) -> str:
    for _ in range(600):
        for path in runtime.glob("jpserver-*.json"):
            info = json.loads(path.read_text())
            return f"{info['url']}lab/tree/04_routing.ipynb?token={info['token']}"
        assert server.poll() is None, "JupyterLab did not start"
        time.sleep(0.5)
    raise TimeoutError("JupyterLab did not start")


def cleared_copy(run: Path, target: Path) -> int:
    """The run's notebook 04, with its parameters and without outputs, as `target`; returns its number of code cells."""
    notebook = nbformat.read(run / "notebooks" / "04_routing.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, target)
    return len(code)


def run_cell(page, cell) -> None:
    """One code cell, to its end. Shift-Enter is lost while the page has no kernel yet: it is pressed until it works."""
    from playwright.sync_api import expect

    prompt = cell.locator(".jp-InputPrompt")
    for attempt in range(6):
        prompt.click()
        page.keyboard.press("Shift+Enter")
        try:
            expect(prompt).to_have_text(re.compile(r"\[(\d+|\*)\]"), timeout=10_000)
            break
        except AssertionError:
            if attempt == 5:
                raise
    expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=300_000)
    assert cell.locator("[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText[data-mime-type*=stderr]"
                        ).count() == 0, cell.inner_text()  # fmt: skip


@pytest.fixture(scope="module")
def lab(run: Path, browser, tmp_path_factory: pytest.TempPathFactory):
    """The page of JupyterLab with notebook 04, all its cells run one by one."""
    folder = tmp_path_factory.mktemp("lab")
    count = cleared_copy(run, folder / "04_routing.ipynb")
    with jupyter_lab(folder) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(url)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        for number in range(count):
            run_cell(page, page.locator(".jp-Notebook .jp-CodeCell").nth(number))
        yield page
        page.close()


@pytest.fixture(scope="module")
def plan(run: Path) -> ExpertPlan:
    return ExpertPlan.load(run / "alter")


def inspector(page):
    """The cell whose output is the MaskInspector."""
    return page.locator(".jp-CodeCell", has_text="MaskInspector(").last


def slide(page, slider, keys: list[str]) -> None:
    slider.locator(".noUi-handle").first.focus()
    for key in keys:
        page.keyboard.press(key)


def shown(widget, text: str) -> None:
    """Waits until the widget says `text`, as a person reads it."""
    from playwright.sync_api import expect

    expect(widget).to_contain_text(text, timeout=30_000)


def cursor_places(widget) -> list[float]:
    """Where the cursors stand, as shares of their fields' widths."""
    script = "nodes => nodes.map(n => n.offsetLeft / n.parentElement.clientWidth)"
    return widget.locator(".cursor").evaluate_all(script)


def test_slider_moves_and_picture_and_numbers_follow_the_plan(lab, plan: ExpertPlan) -> None:
    widget = inspector(lab)
    slider = widget.locator(".widget-slider", has_text="timestep").first
    last = plan.num_train_timesteps - 1
    for keys, t in ((["Home"], 0), (["ArrowRight"], 1), (["End"], last), (["ArrowLeft"], last - 1)):
        slide(lab, slider, keys)
        expert = plan.expert(t)
        shown(widget, f"Timestep {t} is served by expert {expert}. Shown: expert {expert}")
        shown(widget, f"= {plan.macs_ratio([t]):.1%}")
        shown(widget, f"{len(plan.active_layers(t))} active:")
        assert all(abs(place - (t + 0.5) / (last + 1)) < 0.01 for place in cursor_places(widget))
        framed = widget.locator(f".expert-{expert}").first.evaluate("node => getComputedStyle(node).outlineColor")
        assert framed == "rgb(213, 94, 0)"


def test_the_drawing_shows_the_masks(lab, plan: ExpertPlan) -> None:
    widget = inspector(lab)
    for expert, mask in enumerate(plan.masks.tolist()):
        cells = widget.locator(f".expert-{expert}").first.locator("g rect:last-child")
        kinds = cells.evaluate_all("nodes => nodes.map(n => n.classList.contains('on'))")
        assert kinds == mask
    titles = widget.locator(".expert-0").first.locator("title").all_text_contents()
    assert [title.split(":")[0] for title in titles] == list(plan.layer_names)


def test_a_move_is_quick(lab, plan: ExpertPlan) -> None:
    """Below 100 ms from key to text, N_e = 10 and N_L = 34, unless other work holds the cores (test_widgets counts the
    kernel's part in CPU time). All are written beside the screenshots."""
    assert plan.masks.shape == (10, 34)
    widget = inspector(lab)
    slider = widget.locator(".widget-slider", has_text="timestep").first
    slide(lab, slider, ["Home"])
    shown(widget, "Timestep 0 is served")
    widget.evaluate("""node => {
        window.seen = [];
        node.addEventListener('keydown', () => window.began = performance.now(), true);
        const note = () => window.began && window.seen.push(performance.now() - window.began) && (window.began = 0);
        new MutationObserver(note).observe(node.querySelector('.alter-plan').closest('.widget-vbox').lastElementChild,
                                           {subtree: true, childList: true});
    }""")
    for t in range(1, 11):
        slide(lab, slider, ["ArrowRight"])
        time.sleep(0.5)  # nothing else asks the page meanwhile
        shown(widget, f"Timestep {t} is served")
    seen = sorted(lab.evaluate("window.seen"))
    found = {"milliseconds from key to text": seen, "load average": os.getloadavg()}
    (SCREENSHOTS / "move.json").write_text(json.dumps(found, indent=1))
    is_busy = os.getloadavg()[0] > 2 * os.cpu_count()
    assert len(seen) >= 10 and (is_busy or seen[len(seen) // 2] < 100)


def test_cells_of_the_heat_map_name_themselves_by_mouse_and_keyboard(lab, plan: ExpertPlan) -> None:
    widget = inspector(lab)
    named, rows = widget.locator(".alter-named"), widget.locator(".alter-plan .masks")
    rows.nth(2).locator("g").nth(7).hover()
    shown(named, f"{layer_text(plan, 7)}; expert 2 {'runs' if plan.masks[2, 7] else 'skips'} it")
    rows.nth(1).locator("g").nth(5).click()
    shown(named, f"{layer_text(plan, 5)}; expert 1 ")
    shown(widget, "Shown: expert 1,")
    for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowLeft"):
        lab.keyboard.press(key)
    shown(named, f"{layer_text(plan, 5)}; expert 0 ")
    shown(widget, "Shown: expert 1,")  # looking around chooses nothing
    lab.keyboard.press("Enter")
    shown(widget, "Shown: expert 0,")


def test_play_moves_the_timestep_by_itself(lab) -> None:
    widget = inspector(lab)
    slide(lab, widget.locator(".widget-slider", has_text="timestep").first, ["Home"])
    shown(widget, "Timestep 0 is served")
    widget.locator(".widget-play button").first.click()
    lab.wait_for_function("node => !node.innerText.includes('Timestep 0 is served')", arg=widget.element_handle())
    widget.locator(".widget-play button").first.click()


def test_sampler_says_which_experts_it_visits(lab, plan: ExpertPlan) -> None:
    from diffusers import DDIMScheduler

    widget = inspector(lab)
    scheduler = DDIMScheduler.from_pretrained(ROOT / "assets" / "tiny_sd" / "scheduler")
    widget.locator(".widget-dropdown", has_text="sampler").locator("select").select_option("DDIMScheduler")
    steps = widget.locator(".widget-text", has_text="steps").locator("input")
    steps.fill("7")
    steps.press("Enter")
    visited = visited_timesteps(scheduler, 7)
    shown(widget, f"7 calls visit expert{'s' if len({plan.expert(t) for t in visited}) > 1 else ''} ")
    assert widget.locator(".alter-calls span").all_inner_texts() == [str(plan.expert(t)) for t in visited]
    shown(widget, f"= {plan.macs_ratio(visited):.2%} of the whole network's")


def test_what_if_edits_are_counted_drawn_saved_and_load(lab, plan: ExpertPlan, run: Path) -> None:
    widget = inspector(lab)
    saved = run / "edited" / "plan.json"
    saved.unlink(missing_ok=True)
    slide(lab, widget.locator(".widget-slider", has_text="timestep").first, ["Home"])
    shown(widget, "Timestep 0 is served")
    widget.get_by_role("button", name="What if").focus()
    lab.keyboard.press("Space")
    expert = plan.expert(0)
    shown(widget, f"What if expert {expert} ran other layers?")
    toggles = widget.locator(".widget-toggle-button:not([title*=plan])")
    assert toggles.count() == len(plan.layer_names)
    toggles.nth(5).focus()
    lab.keyboard.press("Space")
    edited = toggled(plan, expert, 5)
    shown(widget, f"{edited.achieved_ratio:.2%} of the MACs over all timesteps")
    assert widget.locator(".changed").count() == 1
    cell = widget.locator(f".masks >> nth={expert} >> g >> nth=3")
    cell.click()
    lab.keyboard.press("ArrowRight")
    lab.keyboard.press("Space")  # the cell kept the focus while the drawing was made anew
    edited = toggled(toggled(edited, expert, 3), expert, 4)
    shown(widget, f"{edited.achieved_ratio:.2%} of the MACs over all timesteps")
    assert widget.locator(".changed").count() == 3
    widget.locator(".widget-dropdown", has_text="to expert").locator("select").select_option("1")
    widget.get_by_role("button", name="Re-route").click()
    edited = rerouted(edited, 0, (plan.num_train_timesteps - 1) // 10, 1)
    shown(widget, f"{edited.achieved_ratio:.2%} of the MACs over all timesteps")
    widget.get_by_role("button", name="Save plan").click()
    shown(widget, "Saved: ")
    loaded = ExpertPlan.load(saved)
    assert (loaded.masks == edited.masks).all() and (loaded.routing == edited.routing).all()
    widget.get_by_role("button", name="Generate").click()
    picture = widget.locator("img[alt*='before']")
    picture.wait_for(timeout=300_000)
    assert picture.evaluate("node => node.naturalWidth") > 500


def test_two_plans_move_with_one_slider(lab, plan: ExpertPlan, run: Path) -> None:
    widget = lab.locator(".jp-CodeCell", has_text="PlanComparison({").last
    record = PlanHistory.load(run)
    earlier = record.plan(len(record.steps) // 2, plan)
    slide(lab, widget.locator(".widget-slider").first, ["End"])
    t = plan.num_train_timesteps - 1
    for each in (earlier, plan):
        shown(widget, f"expert {each.expert(t)}, {each.macs_ratio([t]):.1%} of the MACs")
    assert widget.locator(".alter-plan").count() == 2


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_screenshots_of_the_notebook(lab, theme: str) -> None:
    lab.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})",
                 f"JupyterLab {theme}")  # fmt: skip
    lab.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=f"JupyterLab {theme}")
    for width in WIDTHS:
        lab.set_viewport_size({"width": width, "height": 2400})  # all of a widget at once
        lab.evaluate("hide => window.jupyterapp.shell[hide ? 'collapseLeft' : 'expandLeft']()", width < 1000)
        time.sleep(1)  # the layout settles
        widget = inspector(lab)
        widget.locator(".jp-OutputArea-output").first.screenshot(
            path=SCREENSHOTS / f"inspector_{theme.lower()}_{width}.png"
        )
        lab.locator(".jp-CodeCell", has_text="PlanComparison({").last.screenshot(
            path=SCREENSHOTS / f"two_plans_{theme.lower()}_{width}.png"
        )
        text = widget.locator(".alter-plan .name").nth(1).evaluate(COLOURS)
        assert contrast(*text) > 4.5  # WCAG AA


COLOURS = """node => {
    let behind = node;
    while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    return [getComputedStyle(node).color, getComputedStyle(behind).backgroundColor];
}"""


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours "rgb(r, g, b)", WCAG 2."""

    def luminance(color: str) -> float:
        channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


# --- the report, from disk, without a network ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(run: Path) -> dict[str, Path]:
    """The run's report, and the comparison of the run with a copy of it under another name."""
    build_report(load_params(run / "params.yaml", {"run.out": str(run.parent), "run.name": run.name}))
    twin = run.with_name("twin")
    twin.mkdir(exist_ok=True)
    for name in ("params.yaml", "metrics.json", "grid.npz", "history.csv", "provenance.json", "alter/plan.json"):
        (twin / name).parent.mkdir(exist_ok=True)
        shutil.copy(run / name, twin / name)
    return {"report": run / "report.html", "comparison": build_comparison([run, twin])}


@contextmanager
def opened(browser, path: Path, **options) -> Iterator:
    """The page of a file with the network off; at the end, nothing was said on the console and nothing asked for."""
    context = browser.new_context(offline=True, **options)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else said.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert said == []


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_page_opens_offline_with_its_pictures(browser, pages: dict[str, Path], name: str) -> None:
    assert pages[name].stat().st_size < 15_000_000
    with opened(browser, pages[name], viewport={"width": 1280, "height": 1000}) as page:
        pictures = page.locator("img").evaluate_all("nodes => nodes.map(n => [n.naturalWidth, n.clientWidth])")
        assert len(pictures) >= 4 and all(natural > 0 for natural, _ in pictures)
        hidden = page.locator("img").evaluate_all("nodes => nodes.filter(n => !n.checkVisibility()).length")
        assert hidden == 0


def test_links_of_the_report_lead_to_files(browser, pages: dict[str, Path], run: Path) -> None:
    with opened(browser, pages["report"]) as page:
        links = page.locator("a").evaluate_all("nodes => nodes.map(n => n.href)")
    local = [unquote(link.removeprefix("file://").partition("#")[0]) for link in links if link.startswith("file:")]
    assert str(run / "alter" / "plan.json") in local and all(Path(link).is_file() for link in local)


def test_tables_sort_and_code_unfolds(browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["report"]) as page:
        table = page.locator("#artefacts ~ .table table").first
        sizes = "node => [...node.tBodies[0].rows].map(row => +row.cells[2].innerText.replaceAll(',', ''))"
        button = table.get_by_role("button", name="kB")
        button.focus()
        page.keyboard.press("Enter")
        up = table.evaluate(sizes)
        button.click()
        assert up == sorted(up) and table.evaluate(sizes) == sorted(up, reverse=True)
        assert table.locator("th[aria-sort=descending]").inner_text().startswith("kB")
        folded = page.locator("details.code").first
        assert not folded.locator(".highlight").is_visible()
        folded.locator("summary").click()
        assert folded.locator(".highlight").is_visible()


@pytest.mark.parametrize("name", ["report", "comparison"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_screenshots_of_pages(browser, pages: dict[str, Path], name: str, theme: str, width: int) -> None:
    size = {"width": width, "height": 1000}
    with opened(browser, pages[name], viewport=size, color_scheme=theme) as page:
        page.screenshot(path=SCREENSHOTS / f"{name}_{theme}_{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves
        for element in ("p", "td", "th"):
            assert contrast(*page.locator(element).first.evaluate(COLOURS)) > 4.5
