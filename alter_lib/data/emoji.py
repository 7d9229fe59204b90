"""The embedded data set: Noto emoji with their names and keywords (assets/emoji)."""

import json

import numpy as np

from ..assets import verified
from ..params import ROOT

FOLDER = ROOT / "assets" / "emoji"
EXAMPLES = ("red apple", "ghost", "pizza", "cat face", "rocket", "snowman", "sunflower", "birthday cake",
            "octopus", "trophy", "soccer ball", "frog", "crown", "umbrella", "guitar", "penguin")  # fmt: skip


def load(split: str | None = None) -> tuple[np.ndarray, list[dict]]:
    """Images [N, 32, 32, 3] uint8 and their caption rows {base, variant, name, keywords, category, split}.

    split: `train`, `test` (the held-out tenth of the base emoji) or None for all.
    """
    rows = json.loads(verified(FOLDER / "captions.json").read_text())
    keep = [i for i, row in enumerate(rows) if split in (None, row["split"])]
    with np.load(verified(FOLDER / "emoji.npz")) as file:
        return file["images"][keep], [rows[i] for i in keep]


def captions(row: dict, keywords: bool = True) -> list[str]:
    """The captions of one image: its name alone, and its name with further keywords."""
    return [row["name"], ", ".join([row["name"], *row["keywords"][:4]])] if keywords else [row["name"]]
