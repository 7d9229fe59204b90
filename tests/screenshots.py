"""Where screenshots go, at which widths, and the contrast of what is on a page."""

import re

from conftest import ROOT

SCREENSHOTS = ROOT / "tests" / "screenshots"
WIDTHS = (1280, 800)

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
