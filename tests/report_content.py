"""What reports are tested with: a plan and figures by hand, pictures, and what a page would load from outside."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import torch
from PIL import Image

from alter_lib.plan import CostTable, ExpertPlan


def png(width: int = 4, height: int = 3, seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return base64.b64encode(target.getvalue()).decode()


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
