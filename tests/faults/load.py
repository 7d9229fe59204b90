"""Resident memory while many images are drawn and judged on the embedded pipeline, and while long lists are read.

python tests/faults/load.py --images 1000 10000 --rows 1000000 --out results/load.json

Images: the teacher and the artefact in results/tiny_sd_long draw N each, as `python -m alter_lib.evaluation.generate`
does, and `evaluate` judges them; few steps and no guidance, so their figures mean nothing. CPU only. Lists: a file of
that many rows in each format is read through; what is reported is what that adds. Each in a process of its own.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from alter_lib import provenance
from alter_lib.common import files
from alter_lib.params import ROOT, Data, Evaluation, load_params

MB = 1e6
LISTS = ("image_folder", "txt", "csv", "jsonl", "parquet", "tsv")
READ = 1000  # rows that are taken of a list, out of order where it can be
OVERRIDES = {
    "run.name": "load", "backbone.device": "cpu", "sampling.scheduler": "DDIMScheduler", "sampling.guidance_scale": 1.0,
    "evaluation.protocol": "prompts", "evaluation.metrics": ["fid_alexnet", "kid_alexnet"], "evaluation.steps": [2],
    "evaluation.teacher_steps": [], "evaluation.teacher_results": None,
}  # fmt: skip


class Resident(threading.Thread):
    """Samples the resident memory of this process, in MB, every `interval` seconds of a `with` block."""

    def __init__(self, interval: float) -> None:
        super().__init__(daemon=True)
        self.interval, self.done, self.process = interval, threading.Event(), psutil.Process()
        self.samples = [self.now()]

    def now(self) -> float:
        return self.process.memory_info().rss / MB

    def run(self) -> None:
        while not self.done.wait(self.interval):
            self.samples.append(self.now())

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.join()
        self.samples.append(self.now())
        self.seconds = time.monotonic() - self.began

    def content(self) -> dict[str, float]:
        """seconds; rss_mb at the start, at its peak, and in the median of the first and of the last quarter."""
        quarter = -(-len(self.samples) // 4)
        found = {"start": self.samples[0], "first_quarter": statistics.median(self.samples[:quarter]),
                 "last_quarter": statistics.median(self.samples[-quarter:]), "peak": max(self.samples)}  # fmt: skip
        return {"seconds": round(self.seconds, 2), "rss_mb": {name: round(value, 1) for name, value in found.items()}}


def images(count: int, folder: Path, interval: float = 0.2) -> dict[str, Any]:
    """Draw and judge `count` images of the teacher and of the artefact; memory of both parts."""
    from alter_lib.evaluation import evaluate
    from alter_lib.evaluation.generate import draw
    from alter_lib.training.accelerator import process_state

    params = load_params("params/tiny_sd.yaml", OVERRIDES | inputs(count, folder))
    drawn, drawing = {}, {}
    for method in ("teacher", "alter"):
        with Resident(interval) as memory:
            (found,) = draw(params, [method], [], process_state(params))
        drawn[method], drawing[method] = len(found.store.present()), memory.content()
    with Resident(interval) as judging:
        result = evaluate(params)
    judged = {(m.method, m.name): m.n for m in result.metrics if m.name in ("fid_alexnet", "kid_alexnet")}
    return {"drawn": drawn, "judged": min(judged.values()), "steps": params.evaluation.steps[0],
            "batch": params.sampling.batch_size, "drawing": drawing, "judging": judging.content()}  # fmt: skip


def inputs(count: int, folder: Path) -> dict[str, Any]:
    """Prompts (the emoji's names, over and over), real pictures and the artefact in `folder`."""
    from alter_lib.data import emoji

    pictures, rows = emoji.load("train")
    (folder / "load").mkdir(parents=True)
    (folder / "prompts.txt").write_text("".join(f"{rows[i % len(rows)]['name']}\n" for i in range(count)))
    np.savez(folder / "real.npz", arr_0=pictures)
    (folder / "load" / "alter").symlink_to(ROOT / "results" / "tiny_sd_long" / "alter")
    return {"run.out": str(folder), "evaluation.prompts": str(folder / "prompts.txt"), "evaluation.num_images": count,
            "evaluation.reference": str(folder / "real.npz")}  # fmt: skip


def lists(rows: int, folder: Path) -> dict[str, Any]:
    """{format: size of the file, seconds, memory that reading it adds}."""
    found = {}
    for kind in LISTS:
        path = folder / ("metadata.jsonl" if kind == "image_folder" else f"list.{kind}")
        write_list(path, kind, rows)
        found[kind] = alone(read_list, path, kind, rows)
        path.unlink()
    return found


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` makes in a process of its own, started anew: a forked one would begin with this one's memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def caption(i: int) -> str:
    return f"picture {i:09d}: one of the many things that a long list of captions may be about, in a dozen words"


def write_list(path: Path, kind: str, rows: int) -> None:
    if kind == "parquet":
        write_parquet(path, rows)
        return
    line: Callable[[int], str] = {
        "image_folder": lambda i: json.dumps({"file_name": f"{i:09d}.jpg", "text": caption(i)}),
        "txt": caption,
        "csv": lambda i: f'{i},"{caption(i)}"',
        "jsonl": lambda i: json.dumps({"number": i, "text": caption(i)}),
        "tsv": lambda i: f"{caption(i)}\thttp://example.org/{i:09d}.jpg",
    }[kind]
    with path.open("w") as file:
        file.writelines(["number,text\n"] if kind == "csv" else [])
        file.writelines(line(i) + "\n" for i in range(rows))


def write_parquet(path: Path, rows: int) -> None:
    """One row group, as pandas writes up to a million rows: the hardest to read in parts."""
    table = pa.table({"number": range(rows), "text": map(caption, range(rows))})
    with ParquetWriter(path, table.schema, compression="none", use_dictionary=False) as writer:
        writer.write_table(table, row_group_size=rows)


def read_list(path: Path, kind: str, rows: int) -> dict[str, Any]:
    """In a process of its own: what the list adds, after a short one has loaded what the libraries themselves take."""
    short = path.parent / "short" / path.name
    short.parent.mkdir(exist_ok=True)
    write_list(short, kind, 10)
    as_written(short, kind, 10)
    with Resident(0.01) as memory:
        right = as_written(path, kind, rows)
    content = memory.content()
    added = content["rss_mb"]["peak"] - content["rss_mb"]["start"]
    return {"file_mb": round(path.stat().st_size / MB, 1), "rows": rows, "seconds": content["seconds"],
            "added_mb": round(added, 1), "as_written": right}  # fmt: skip


def as_written(path: Path, kind: str, rows: int) -> bool:
    """Take up to READ rows of a list, then go through all of it: whether they are those that were written."""
    from alter_lib.data.sources import open_source
    from alter_lib.evaluation.prompts import captions, load_prompts

    count = min(READ, rows)
    if kind == "image_folder":
        source = open_source(Data(source=kind, path=str(path.parent), cache_folder="none"), has_classes=False)
        numbers = (i * 7919 % rows for i in range(count))
        taken = all(source.image(0, (i, 0)) == str(path.parent / f"{i:09d}.jpg") for i in numbers)
        texts = (record.captions[0] for shard in range(len(source)) for record in source.read(shard))
    else:
        protocol = "cc3m" if kind == "tsv" else "prompts"
        options = {"protocol": protocol, "prompts": str(path), "num_images": count, "prompt_column": "text"}
        prompts = load_prompts(Evaluation(**options))
        taken = all(text == caption(i) for i, text in zip(prompts.ids, prompts.prompts, strict=True))
        texts = captions(path, protocol, "text")
    return taken and all(text == caption(i) for i, text in zip(range(rows), texts, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000], help="of each of teacher and artefact")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each list")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    options = parser.parse_args()
    facts = {"command": provenance.command(), **provenance.git_state(), "hardware": provenance.hardware()}
    with tempfile.TemporaryDirectory() as folder:
        content = {"images": {n: alone(images, n, Path(folder) / str(n)) for n in options.images},
                   "lists": lists(options.rows, Path(folder))}  # fmt: skip
    print(json.dumps(content, indent=1), flush=True)
    files.write_json(options.out, {**content, **facts})
    return 0


if __name__ == "__main__":
    sys.exit(main())
