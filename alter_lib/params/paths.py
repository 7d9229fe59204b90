"""Where the repository lies, and paths below it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the repository: relative paths start here, never at the kernel's folder
DEFAULT = ROOT / "params" / "tiny_sd.yaml"


def resolve(path: str | Path) -> Path:
    """`path` itself when absolute, else below the repository root; without `..`."""
    return Path(os.path.normpath(ROOT / path))
