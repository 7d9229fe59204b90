"""What the offline pages share: templates, style and the one script, whose hash the page's Content-Security-Policy
names, so that nothing else runs and nothing is loaded; and the limit on a page's size."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from PIL import Image
from pygments.formatters import HtmlFormatter

from . import cells

LIMIT = 15_000_000  # bytes of a page
TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **content: Any) -> str:
    """A page of at most LIMIT bytes; whatever `content` holds is escaped unless the template says otherwise."""
    environment = Environment(autoescape=True, loader=FileSystemLoader(TEMPLATES))
    environment.filters["is_number"] = lambda text: bool(re.match(r"-?[\d.,]+(e[-+]?\d+)?( \[.*\])?$", str(text)))
    script = (TEMPLATES / "sort.js.j2").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shared = {"script": safe(script), "script_hash": f"sha256-{digest}", "code_style": safe(code_style())}
    return fit(environment.get_template(template).render(**shared, **content))


def safe(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def code_style() -> str:
    """Colours of code in both themes."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def fit(page: str, limit: int = LIMIT) -> str:
    """`page` within `limit` bytes: its largest PNGs turn into WebP, and what is still too large is left out, with a
    line that says so."""
    for shrink in (_as_webp, _left_out):
        for uri in _largest(page):
            if len(page.encode()) <= limit:
                return page
            page = page.replace(uri, shrink(uri))
    return page


def _largest(page: str) -> Sequence[str]:
    return sorted(set(re.findall(r"data:image/(?:png|jpeg|webp);base64,[A-Za-z0-9+/=]+", page)), key=len, reverse=True)


def _as_webp(uri: str) -> str:
    target = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).save(target, "WEBP", quality=80)
    small = cells.data_uri("image/webp", target.getvalue())
    return min(uri, small, key=len)


def _left_out(uri: str) -> str:
    text = '<text y="20" font-size="14">A picture was left out to keep this page small: see the notebook.</text>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="560" height="30">{text}</svg>'
    return cells.data_uri("image/svg+xml", svg)
