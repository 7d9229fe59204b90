"""ImageReward (Xu et al. 2023, arXiv 2304.05977) in an environment of its own: its package can't live beside a current
transformers, so that environment's interpreter scores PNG files and hands numbers back.

    python -m venv reward && reward/bin/pip install image-reward
    python -m alter_lib.evaluation --params ... --set evaluation.preference_python=reward/bin/python
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ..assets import sha256
from ..params import Evaluation, resolve
from .extractors import Images
from .weights import Need, Unavailable, all_of

NAME, FOLDER, FILE = "ImageReward-v1.0", "image-reward", "ImageReward.pt"
URL = "https://huggingface.co/THUDM/ImageReward"
LOAD = """
import json, sys
import ImageReward
model = ImageReward.load(sys.argv[1], download_root=sys.argv[2])
"""
SCORE = """
for line in sys.stdin:
    prompt, path = json.loads(line)
    print("score", model.score(prompt, path), flush=True)
"""


class ImageReward:
    """Scores images by the prompts that they were drawn from."""

    name, resize = f"{NAME} (image-reward)", "shorter side to 224 px, bicubic; centre crop"

    def __init__(self, evaluation: Evaluation) -> None:
        """Loads the model once, to say before anything is drawn what it lacks. Raises Unavailable: no interpreter, no
        weights, or image-reward can't be imported or loaded there."""
        self.folder, self.python = all_of(lambda: weight_folder(evaluation), lambda: interpreter(evaluation))
        self.offline = {} if evaluation.download else {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        try:
            tried = self._run(LOAD)
            fault = last_line(tried) if tried.returncode else None
        except OSError as error:
            fault = f"{evaluation.preference_python}: {error.strerror}"
        if fault:
            get = "pip install image-reward in an environment of its own"
            raise Unavailable(Need(f"image-reward ({fault})", "evaluation.preference_python", get))
        self.weights = sha256(self.folder / FILE)[:16]

    def _run(self, code: str, lines: str = "") -> subprocess.CompletedProcess[str]:
        """`code` in the other environment, with what the package loads: a file, or the name that it downloads."""
        file = self.folder / FILE
        command = [self.python, "-c", code, str(file) if file.is_file() else NAME, str(self.folder)]
        return subprocess.run(command, input=lines, capture_output=True, text=True, env=os.environ | self.offline)

    def scores(self, images: Images, prompts: list[str]) -> np.ndarray:
        """[N]. Raises RuntimeError with the interpreter's last line when it fails."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{i:06d}.png") for i in range(len(prompts))]
            pictures = (image for batch in images.batches(64) for image in batch)
            for path, image in zip(paths, pictures, strict=True):
                Image.fromarray(image).save(path)
            lines = "".join(json.dumps([prompt, str(path)]) + "\n" for prompt, path in zip(prompts, paths, strict=True))
            done = self._run(LOAD + SCORE, lines)
        if done.returncode:
            raise RuntimeError(f"image-reward: {last_line(done)}")
        return np.array([float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("score ")])


def interpreter(evaluation: Evaluation) -> str:
    """Path of `evaluation.preference_python`. Raises Unavailable when none is named."""
    if evaluation.preference_python is None:
        put, get = "evaluation.preference_python", "python -m venv; pip install image-reward"
        raise Unavailable(Need("an environment with image-reward", put, get))
    return str(resolve(evaluation.preference_python))


def weight_folder(evaluation: Evaluation) -> Path:
    """Where the package finds its files, or puts them. Raises Unavailable when they are not there nor to be fetched."""
    folder = resolve(evaluation.weights) / FOLDER
    if not (folder / FILE).is_file() and not evaluation.download:
        put, get = f"{evaluation.weights}/{FOLDER}/", f"{URL}, or evaluation.download: true"
        raise Unavailable(Need(f"{FILE}, med_config.json", put, get))
    return folder


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
