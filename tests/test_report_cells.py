"""Cells of a notebook on the report's page: code, outputs, formulas and pictures, and a page that grows too large."""

import base64
from pathlib import Path
from typing import Any

import nbformat
import pytest
from report_content import png

from alter_lib.report import cells
from alter_lib.report.page import fit

new = nbformat.v4


def displayed(**data: Any) -> str:
    mimes = {"html": "text/html", "plain": "text/plain", "png": "image/png", "latex": "text/latex",
             "widget": "application/vnd.jupyter.widget-view+json", "svg": "image/svg+xml"}  # fmt: skip
    return cells.output(new.new_output("display_data", {mimes[name]: value for name, value in data.items()}))


def test_code_is_folded_and_escaped():
    html = cells.code("# why\nprint('</details><script>alert(1)</script>')")
    assert html.startswith('<details class="code"><summary><code># why</code></summary>')
    assert "<script>" not in html and html.count("</details>") == 1


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
