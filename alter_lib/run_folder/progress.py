"""Progress of a run: one line a notebook, with an estimate of what is left from the times of earlier runs."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..params import ROOT
from .state import RunState


@dataclass
class Progress:
    """One line a notebook; on a terminal the running one is repainted every second."""

    total: int
    seconds: dict[str, float]  # of earlier runs, by stem: what estimates are made of
    width: int = 18

    def remaining(self, stems: Sequence[str]) -> float | None:
        """Seconds that these notebooks took before; None: not known of each of them."""
        known = [self.seconds.get(stem) for stem in stems]
        return None if None in known or not known else sum(known)

    def line(self, number: int, stem: str, text: str, end: str = "\n") -> None:
        start = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{start}[{number}/{self.total}] {stem:<{self.width}} {text}", end=end, flush=True)

    @contextmanager
    def running(self, number: int, stem: str, later: Sequence[str]) -> Iterator[Callable[[], float]]:
        """Yields a function that tells the seconds since the start; paints the line of the running notebook."""
        begin, stop = time.monotonic(), threading.Event()
        before = self.remaining([stem, *later])

        def paint() -> None:
            while not stop.is_set():
                passed = time.monotonic() - begin
                self.line(number, stem, f"running {clock(passed)}{about(before and max(before - passed, 0))}", end="")
                stop.wait(1.0)

        painter = threading.Thread(target=paint, daemon=True)
        if sys.stdout.isatty():
            painter.start()
        try:
            yield lambda: time.monotonic() - begin
        finally:
            stop.set()
            if painter.is_alive():
                painter.join()


def clock(seconds: float) -> str:
    """65 -> "1m05s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def about(seconds: float | None) -> str:
    return "" if seconds is None else f", about {clock(seconds)} left"


def earlier_seconds(state: RunState) -> dict[str, float]:
    """Seconds of each notebook in this run's folder, or else in the committed run of the same name."""
    known = {}
    for path in (ROOT / "results" / state.folder.name).rglob("*.ipynb"):
        known[path.stem] = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("papermill", {}).get("duration")
    known.update({stem: entry["seconds"] for stem, entry in state.entries.items() if "seconds" in entry})
    return {stem: seconds for stem, seconds in known.items() if seconds}
