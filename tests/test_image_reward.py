"""ImageReward's interpreter: what is said when it can't score, and what goes to and comes from one that can."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from alter_lib.evaluation.image_reward import ImageReward
from alter_lib.evaluation.weights import Unavailable
from alter_lib.params import Evaluation

WEIGHTS = b"weights"
PACKAGE = """
import os
from PIL import Image
import numpy as np
class Model:
    def score(self, prompt, path):  # the package's signature
        return float(np.asarray(Image.open(path)).mean()) + len(prompt)
def load(name, download_root):
    print("loading")  # other lines must not be read as scores
    if name == "ImageReward-v1.0":  # else the path of a file, which needs no network
        assert "HF_HUB_OFFLINE" not in os.environ
        name = os.path.join(download_root, "ImageReward.pt")
        os.makedirs(download_root)
        open(name, "wb").write(b"fetched")
    assert open(name, "rb").read() in (b"weights", b"fetched"), "not a checkpoint"
    return Model()
"""


class Pictures:
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)])

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int):
        return iter([self.images[:2], self.images[2:]])


def interpreter(folder: Path, package: str, weights: bytes | None = WEIGHTS, download: bool = False) -> Evaluation:
    """An interpreter of an environment that has a package of that name, and a folder of weights."""
    if weights:
        (folder / "weights" / "image-reward").mkdir(parents=True)
        (folder / "weights" / "image-reward" / "ImageReward.pt").write_bytes(weights)
    (folder / "ImageReward.py").write_text(package)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return Evaluation(preference_python=str(python), weights=str(folder / "weights"), download=download)


def test_every_image_is_scored_by_its_prompt(tmp_path: Path) -> None:
    scores = ImageReward(interpreter(tmp_path, PACKAGE)).scores(Pictures(), ["a", "bb", 'c "é"\n'])
    assert scores == pytest.approx([10 + 1, 20 + 2, 30 + 6])


def test_its_weights_are_named_by_their_hash(tmp_path: Path) -> None:
    assert ImageReward(interpreter(tmp_path, PACKAGE)).weights == hashlib.sha256(WEIGHTS).hexdigest()[:16]


def test_weights_are_fetched_only_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    needed = f"ImageReward.pt, med_config.json: put it at {tmp_path}/weights/image-reward/"
    with pytest.raises(Unavailable, match=needed):
        ImageReward(interpreter(tmp_path, PACKAGE, weights=None))
    fetched = ImageReward(interpreter(tmp_path, PACKAGE, weights=None, download=True))
    assert fetched.weights == hashlib.sha256(b"fetched").hexdigest()[:16]
    assert fetched.scores(Pictures(), ["a", "bb", "ccc"]) == pytest.approx([11, 22, 33])


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    there = interpreter(tmp_path, PACKAGE, weights=b"cut short")
    for python, message in (
        (None, "an environment with image-reward: put it at evaluation.preference_python"),
        (str(tmp_path / "nowhere"), "No such file or directory"),
        (sys.executable, "No module named 'ImageReward'"),
        (there.preference_python, r"image-reward \(AssertionError: not a checkpoint\)"),
    ):
        with pytest.raises(Unavailable, match=message) as caught:
            ImageReward(there.model_copy(update={"preference_python": python}))
        assert len(str(caught.value).splitlines()) == 1


def test_a_failure_names_the_interpreter_s_last_line(tmp_path: Path) -> None:
    broken = ImageReward(interpreter(tmp_path, PACKAGE.replace("float(np", "float(nothing + np")))
    with pytest.raises(RuntimeError, match="image-reward: NameError"):
        broken.scores(Pictures(), ["a", "b", "c"])
