"""Reports as a reader sees them: opened from disk in headless Chromium, without a network.

Screenshots of both themes at two widths land in tests/screenshots/ (not in git): look at them. ALTER_RUN=runs/NAME
takes a finished run in place of a fresh one of params/smoke.yaml.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest
from screenshots import COLOURS, SCREENSHOTS, WIDTHS, contrast

from alter_lib.params import load_params
from alter_lib.report.build import build_report
from alter_lib.report.compare import build_comparison


@pytest.fixture(scope="module")
def pages(finished_run: Path) -> dict[str, Path]:
    """The run's report, and the comparison of the run with a copy of it under another name."""
    named = {"run.out": str(finished_run.parent), "run.name": finished_run.name}
    build_report(load_params(finished_run / "params.yaml", named))
    twin = finished_run.with_name("twin")
    twin.mkdir(exist_ok=True)
    for name in ("params.yaml", "metrics.json", "grid.npz", "history.csv", "provenance.json", "alter/plan.json"):
        (twin / name).parent.mkdir(exist_ok=True)
        shutil.copy(finished_run / name, twin / name)
    return {"report": finished_run / "report.html", "comparison": build_comparison([finished_run, twin])}


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


def test_links_of_the_report_lead_to_files(browser, pages: dict[str, Path], finished_run: Path) -> None:
    with opened(browser, pages["report"]) as page:
        links = page.locator("a").evaluate_all("nodes => nodes.map(n => n.href)")
    local = [unquote(link.removeprefix("file://").partition("#")[0]) for link in links if link.startswith("file:")]
    assert str(finished_run / "alter" / "plan.json") in local and all(Path(link).is_file() for link in local)


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
