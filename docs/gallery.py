"""The pictures of gallery.md: what the executed notebooks of a run show, under the names that the run saved them by.

python docs/gallery.py results/tiny_sd      # writes docs/gallery/NN_name.png
"""

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).with_name("gallery")


def pictures(run: Path) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of each figure that a notebook saved and showed, and the last state of the training dashboard."""
    for path in sorted((run / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            shown = [output["data"]["image/png"] for output in cell.get("outputs", ())
                     if "image/png" in output.get("data", {})]  # fmt: skip
            source = "".join(cell["source"])
            saved = re.findall(r'"(\d\d_\w+)"\)\s*$', source) + ["03_dashboard"] * ("TrainingDashboard" in source)
            if shown and saved:
                yield saved[0], base64.b64decode("".join(shown[-1]))


def main(run: Path) -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.png"):
        old.unlink()
    for name, picture in pictures(run):
        (FOLDER / f"{name}.png").write_bytes(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
