"""Colours that every reader can tell apart, and shades that grow darker for all of them."""

from io import BytesIO
from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from alter_lib import plots
from alter_lib.plots import style


@pytest.mark.parametrize("count", [1, 11, 12, 40])
def test_every_expert_has_its_own_colour(count: int) -> None:
    assert len(set(style.expert_colors(count))) == count


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "none": np.eye(3),
}


def lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt((to_xyz @ linear.clip(0, 1)) / np.array([0.9505, 1, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_main_colours_differ_for_colour_blind_readers(deficiency: str) -> None:
    matrix = np.array(DEFICIENCIES[deficiency])
    colors = [lab(matrix @ np.array(to_rgb(color)) ** 2.2) for color in style.PALETTE[:7]]
    closest = min(np.linalg.norm(a - b) for a, b in combinations(colors, 2))
    assert closest > 10  # CIE76: about 2 is just noticeable


def test_shades_grow_darker_with_the_value_for_every_reader() -> None:
    import matplotlib

    shades = [lab(np.array(color[:3]) ** 2.2)[0] for color in matplotlib.colormaps[style.MAP](np.linspace(0, 1, 9))]
    assert all(a > b for a, b in pairwise(shades))


def test_text_beside_colourful_pictures_stays_grey() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8) // np.array([1, 2, 256])
    figure = plots.image_rows({"before": images[:4], "after": images[4:]}, ["a"] * 4)
    pixels = np.array(Image.open(BytesIO(plots.png(figure))).convert("RGB")).astype(int)
    assert (np.abs(pixels - 0x22).max(-1) < 4).sum() > 50
