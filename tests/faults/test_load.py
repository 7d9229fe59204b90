"""The script at a small size: all that is asked for is drawn, judged and read back, and memory is measured."""

import json
import sys
import time
from pathlib import Path

import load
import numpy as np
import pytest


def test_drawing_judging_and_reading_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "load.json"
    monkeypatch.setattr(load, "LISTS", ("image_folder",))  # each is read in a process of its own, which takes seconds
    monkeypatch.setattr(sys, "argv", ["load.py", "--images", "64", "--rows", "200", "--out", str(out)])
    assert load.main() == 0
    content = json.loads(out.read_text())
    images, (folder,) = content["images"]["64"], content["lists"].values()
    assert images["drawn"] == {"teacher": 64, "alter": 64} and images["judged"] == 64
    for part in (*images["drawing"].values(), images["judging"]):
        figures = part["rss_mb"]
        assert 50 < figures["start"] <= figures["peak"] and figures["last_quarter"] <= figures["peak"]
    assert folder["rows"] == 200 and folder["as_written"] and folder["added_mb"] >= 0
    assert content["command"] and content["hardware"]["cpu"]


@pytest.mark.parametrize("kind", load.LISTS)
def test_each_kind_of_list_holds_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / ("metadata.jsonl" if kind == "image_folder" else f"list.{kind}")
    load.write_list(path, kind, 1500)
    assert load.as_written(path, kind, 1500)
    first = load.caption(0)
    monkeypatch.setattr(load, "caption", lambda i: first)  # now all rows but one are others
    assert not load.as_written(path, kind, 1500)


def test_memory_that_is_held_is_seen() -> None:
    with load.Resident(0.005) as memory:
        held = np.ones(int(200e6), np.uint8)
        time.sleep(0.5)
        del held
    figures = memory.content()["rss_mb"]
    assert figures["peak"] - figures["start"] > 150
