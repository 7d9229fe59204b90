"""One process at a time in a run folder: a lock that names its holder.

The system frees it when its holder ends, however that happens: no lock goes stale, and no clock has a part in it.
"""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .. import provenance
from ..params import ParamsError

PATIENCE = 3.0  # seconds: the kernel of a killed run outlives it by one or two


@contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """`folder`, made if need be, for the `work` of this process alone; processes that it starts are let in.

    Raises ParamsError, naming the holder, where another one is at the same work there, or where the folder can't be
    written.
    """
    shown, inherited = provenance.relative(str(folder)), f"ALTER_{work.upper()}_LOCK"
    if os.environ.get(inherited) == str(folder):
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with lock_file(folder, work) as file:
        if not taken(file):
            file.seek(0)
            raise ParamsError([f"{shown}: {file.read() or 'another process'} is at work there"])
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} ({work}, since {provenance.now()})")
        file.flush()
        outer = os.environ.get(inherited, "")  # a run may train another one
        os.environ[inherited] = str(folder)
        try:
            yield
        finally:
            os.environ[inherited] = outer
            if made and all(path.name.endswith(".lock") for path in folder.iterdir()):
                remove_folders(made)


def lock_file(folder: Path, work: str) -> TextIO:
    """The file that is locked, open, in a folder that is made if need be. Raises ParamsError where that can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / f".{work}.lock").open("a+")
    except OSError as error:
        shown = provenance.relative(str(folder))
        raise ParamsError([f"run.out: can't write {shown}: {error.strerror}"]) from None


def remove_folders(made: list[Path]) -> None:
    """Those that bad input left with nothing but locks in them."""
    for path in made[0].iterdir():
        path.unlink()
    for folder in made:
        folder.rmdir()


def taken(file: TextIO) -> bool:
    """Whether the lock of `file` is this process' now, within PATIENCE."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
