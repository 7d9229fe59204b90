"""docs/gallery.md: every figure is listed, and its pictures are the committed run's."""

import re

import pytest

from alter_lib import plots
from alter_lib.params import ROOT


def test_the_gallery_lists_every_figure_of_the_notebooks_and_functions_that_exist() -> None:
    gallery = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb"))
    made = set(re.findall(r'params, \\"(\w+)\\"\)', sources))
    assert made == set(re.findall(r"^\| `(\d\d_\w+)`", gallery, re.M))
    assert set(re.findall(r"plots\.(\w+)", gallery)) - {"style"} <= set(plots.__all__)


def test_the_gallery_s_pictures_are_those_of_the_committed_default_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    from gallery import FOLDER, pictures

    gallery = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    made = dict(pictures(ROOT / "results" / "tiny_sd"))
    assert {path.stem: path.read_bytes() for path in FOLDER.glob("*.png")} == made
    assert sorted(re.findall(r"\(gallery/(\w+)\.png\)", gallery)) == sorted(made)
    listed = set(re.findall(r"^\| `(\d\d_\w+)`", gallery, re.M))
    assert {name for name in listed if name[:2] != "06"} | {"03_dashboard"} == set(made)
