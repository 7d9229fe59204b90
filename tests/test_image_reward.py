"""ImageReward's interpreter: what is said when it can't score, and what goes to and comes from one that can."""

import sys
from pathlib import Path

import numpy as np
import pytest

from alter_lib.evaluation.image_reward import ImageReward
from alter_lib.evaluation.weights import Unavailable
from alter_lib.params import Evaluation

PACKAGE = """
from PIL import Image
import numpy as np
class Model:
    def score(self, prompt, path):  # the package's signature
        return float(np.asarray(Image.open(path)).mean()) + len(prompt)
def load(name):
    assert name == "ImageReward-v1.0"
    print("loading")  # other lines must not be read as scores
    return Model()
"""


class Pictures:
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)])

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int):
        return iter([self.images[:2], self.images[2:]])


def interpreter(folder: Path, package: str) -> Evaluation:
    """An interpreter of an environment that has a package of that name."""
    (folder / "ImageReward.py").write_text(package)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return Evaluation(preference_python=str(python))


def test_every_image_is_scored_by_its_prompt(tmp_path: Path) -> None:
    scores = ImageReward(interpreter(tmp_path, PACKAGE)).scores(Pictures(), ["a", "bb", 'c "é"\n'])
    assert scores == pytest.approx([10 + 1, 20 + 2, 30 + 6])


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    for python, message in (
        (None, "an environment with image-reward: put it at evaluation.preference_python"),
        (str(tmp_path / "nowhere"), "No such file or directory"),
        (sys.executable, "No module named 'ImageReward'"),
    ):
        with pytest.raises(Unavailable, match=message) as caught:
            ImageReward(Evaluation(preference_python=python))
        assert len(str(caught.value).splitlines()) == 1


def test_a_failure_names_the_interpreter_s_last_line(tmp_path: Path) -> None:
    broken = ImageReward(interpreter(tmp_path, PACKAGE.replace('"ImageReward-v1.0"', '"another"')))
    with pytest.raises(RuntimeError, match="image-reward: AssertionError"):
        broken.scores(Pictures(), ["a", "b", "c"])
