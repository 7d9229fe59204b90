"""Cells of an executed notebook as HTML that needs nothing from outside: pictures and formulas become data URIs, and
whatever could load or run something is cut out."""

import base64
import io
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import bleach
import mistune
import nbformat
from bleach.css_sanitizer import CSSSanitizer
from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from mistune.renderers.html import HTMLRenderer
from nbconvert.filters import ansi2html, strip_ansi
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from ..params import ROOT

IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/webp")
_TAGS = {
    *"a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3".split(),
    *"h4 h5 h6 hr i img ins kbd li ol p pre s small span strong sub summary sup table tbody td tfoot th thead".split(),
    *"tr u ul".split(),
}  # fmt: skip
_ATTRIBUTES = {"*": ["class", "style", "title", "align"], "a": ["href"], "img": ["src", "alt", "width", "height"],
               "td": ["colspan", "rowspan"], "th": ["colspan", "rowspan", "scope"], "details": ["open"]}  # fmt: skip
_SUFFIXES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def data_uri(mime: str, content: bytes | str) -> str:
    """`content`: bytes, or base64 text as a notebook holds pictures (SVG: its own text)."""
    if isinstance(content, str):
        content = content.encode() if mime == "image/svg+xml" else base64.b64decode(content)
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def picture(mime: str, content: bytes | str, alt: str = "") -> str:
    return f'<img src="{data_uri(mime, content)}" alt="{escape(alt)}">'


def clean(html: str) -> str:
    """`html` without scripts, styles' text, foreign tags, and pictures or links that are not data or plain links."""
    html = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>", "", html)
    html = bleach.clean(
        html, tags=_TAGS, attributes=_ATTRIBUTES, protocols={"data", "http", "https", "mailto"},
        css_sanitizer=CSSSanitizer(), strip=True,
    )  # fmt: skip
    return re.sub(r'<img\b(?![^>]*\ssrc="data:image/)[^>]*>', "", html)


def formula(latex: str, size: float) -> str:
    """A formula as an SVG picture; its source as code where matplotlib's subset of LaTeX ends."""
    target = io.BytesIO()
    try:
        with rc_context({"savefig.transparent": True}):  # the page's theme shows through
            depth = math_to_image(f"${latex.strip()}$", target, prop=FontProperties(size=size), format="svg")
    except ValueError:
        return f"<code>{escape(latex)}</code>"
    uri = data_uri("image/svg+xml", target.getvalue())
    return f'<img class="formula" style="vertical-align: -{depth:.1f}pt;" src="{uri}" alt="{escape(latex)}">'


class _Renderer(HTMLRenderer):
    """Markdown to HTML; `attachments` are a cell's own, `folder` is where relative picture paths start."""

    def __init__(self, attachments: Mapping[str, Any], folder: Path):
        super().__init__(escape=False)  # HTML in a cell is cleaned as a whole afterwards
        self.attachments, self.folder = attachments, folder

    def image(self, text: str, url: str, title: str | None = None) -> str:
        if url.startswith("attachment:"):
            mime, content = next(iter(self.attachments[unquote(url.removeprefix("attachment:"))].items()))
            return picture(mime, content, text)
        file = self.folder / unquote(url)
        if "://" not in url and file.suffix in _SUFFIXES and file.resolve().is_relative_to(ROOT) and file.is_file():
            return picture(_SUFFIXES[file.suffix], file.read_bytes(), text)
        return super().image(text, url, title)  # `clean` drops it unless it is data

    def inline_math(self, text: str) -> str:
        return formula(text, 11)

    def block_math(self, text: str) -> str:
        return f'<p class="formula">{formula(text, 13)}</p>\n'


def markdown(text: str, attachments: Mapping[str, Any] | None = None, folder: Path = ROOT / "notebooks") -> str:
    """Markdown with tables and $formulas$ as clean HTML."""
    renderer = _Renderer(attachments or {}, folder)
    return clean(mistune.create_markdown(renderer=renderer, plugins=["table", "strikethrough", "url", "math"])(text))


def code(source: str) -> str:
    """Code behind a line that unfolds it: its first line."""
    first = next((line for line in source.splitlines() if line.strip()), "")
    body = highlight(source, PythonLexer(), HtmlFormatter())
    return f'<details class="code"><summary><code>{escape(first)}</code></summary>{body}</details>'


def stream(text: str) -> str:
    """What a terminal would show: of a line that was repainted (progress bars), its last state."""
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join(lines).strip("\n")


def output(content: Mapping[str, Any]) -> str:
    """One output; of several forms the richest that works without a network. A bare widget gives nothing."""
    kind = content["output_type"]
    if kind == "stream":
        text = stream(content["text"])
        return f'<pre class="{escape(content["name"])}">{ansi2html(text)}</pre>' if text.strip() else ""
    if kind == "error":
        return f'<pre class="error">{ansi2html(chr(10).join(content["traceback"]))}</pre>'
    return _display(content["data"])


def _display(data: Mapping[str, Any]) -> str:
    if "text/html" in data and "<script" not in data["text/html"]:
        return f'<div class="table">{clean(data["text/html"])}</div>'
    for mime in IMAGES:
        if mime in data:
            return f"<figure>{picture(mime, data[mime], data.get('text/plain', ''))}</figure>"
    if "text/markdown" in data:
        return markdown(data["text/markdown"])
    if "text/latex" in data:
        return markdown(data["text/latex"])
    if "application/vnd.jupyter.widget-view+json" in data or "text/plain" not in data:
        return ""
    return f"<pre>{escape(strip_ansi(data['text/plain']))}</pre>"


def cell(content: nbformat.NotebookNode) -> str:
    """One cell with its outputs; a raw cell gives nothing."""
    if content.cell_type == "markdown":
        return markdown(content.source, content.get("attachments"))
    if content.cell_type != "code" or not content.source.strip():
        return ""
    return code(content.source) + "\n".join(filter(None, map(output, content.outputs)))
