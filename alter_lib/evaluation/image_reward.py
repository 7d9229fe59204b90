"""ImageReward (Xu et al. 2023, arXiv 2304.05977) in an environment of its own: its package can't live beside a current
transformers, so that environment's interpreter scores PNG files and hands numbers back.

    python -m venv reward && reward/bin/pip install image-reward
    python -m alter_lib.evaluation --params ... --set evaluation.preference_python=reward/bin/python
"""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ..params import Evaluation, resolve
from .extractors import Images
from .weights import Need, Unavailable

NAME = "ImageReward-v1.0"
SCORE = f"""
import json, sys
import ImageReward
model = ImageReward.load("{NAME}")
for line in sys.stdin:
    prompt, path = json.loads(line)
    print("score", model.score(prompt, path), flush=True)
"""


class ImageReward:
    """Scores images by the prompts that they were drawn from."""

    name, weights, resize = f"{NAME} (image-reward)", "", "its own"

    def __init__(self, evaluation: Evaluation) -> None:
        """Raises Unavailable when no interpreter is named or it can't import ImageReward."""
        put = "evaluation.preference_python"
        if evaluation.preference_python is None:
            raise Unavailable(Need("an environment with image-reward", put, "python -m venv; pip install image-reward"))
        self.python = str(resolve(evaluation.preference_python))
        try:
            tried = subprocess.run([self.python, "-c", "import ImageReward"], capture_output=True, text=True)
            fault = tried.stderr.strip().splitlines()[-1] if tried.returncode else None
        except OSError as error:
            fault = f"{evaluation.preference_python}: {error.strerror}"
        if fault:
            get = "pip install image-reward in an environment of its own"
            raise Unavailable(Need(f"image-reward ({fault})", put, get))

    def scores(self, images: Images, prompts: list[str]) -> np.ndarray:
        """[N]. Raises RuntimeError with the interpreter's last line when it fails."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{i:06d}.png") for i in range(len(prompts))]
            pictures = (image for batch in images.batches(64) for image in batch)
            for path, image in zip(paths, pictures, strict=True):
                Image.fromarray(image).save(path)
            lines = "".join(json.dumps([prompt, str(path)]) + "\n" for prompt, path in zip(prompts, paths, strict=True))
            done = subprocess.run([self.python, "-c", SCORE], input=lines, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"image-reward: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        return np.array([float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("score ")])
