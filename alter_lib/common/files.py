"""Files that are whole or not there: written under a temporary name, onto the disk (fsync), then renamed.

All of the project's results are written by these functions, but for checkpoints (training/checkpoints.py, with hashes)
and the rows of history.csv, which a resumed run cuts at the first that is not whole. A kill, a full disk or a power cut
in the middle leaves what was there before; a `.name.PID.partial` that a kill left behind is removed by the next write
of the same name.
"""

import errno
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UMASK = os.umask(0)
os.umask(UMASK)  # it can only be read by setting it
DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def to_disk(path: Path) -> None:
    """A file's bytes, or a folder's entries, are on the disk when this returns (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary(path: Path) -> Path:
    """Where `path` is written first; what killed processes left of earlier attempts is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        pid = left_over.suffixes[-2][1:]
        if pid.isdigit() and not is_alive(int(pid)):
            remove(left_over)
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`: the file, or folder, that is written there replaces `path` at the end.

    An error inside removes it and leaves `path` as it was. Raises OSError where the disk is full or read-only.
    """
    partial = temporary(path)
    try:
        yield partial
        for_all_readers(partial)
        tree_to_disk(partial)
        if partial.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    except BaseException:
        remove(partial)
        raise
    to_disk(path.parent)


@contextmanager
def whole_files(folder: Path, last: str) -> Iterator[Path]:
    """Yields a temporary folder whose files are then moved into `folder`, beside what else is there.

    `last` is the file that makes `folder` valid: the old one goes before the first file comes, the new one comes when
    all others are there.
    """
    partial = temporary(folder)
    try:
        partial.mkdir()
        yield partial
        for_all_readers(partial)
        tree_to_disk(partial)
        (folder / last).unlink(missing_ok=True)
        for file in sorted(path for path in partial.rglob("*") if path.is_file() and path != partial / last):
            target = folder / file.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
        tree_to_disk(folder)
        os.replace(partial / last, folder / last)
        to_disk(folder)
    finally:
        remove(partial)


def write_text(path: Path, text: str) -> None:
    """`path` holds either its old content or all of `text` (UTF-8)."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Indented, with a newline at the end. Not-a-number and infinity are refused (ValueError): JSON has neither."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def tree_to_disk(path: Path) -> None:
    """A file, or a folder with all that is in it."""
    for inner in path.rglob("*") if path.is_dir() else ():
        to_disk(inner)
    to_disk(path)


def for_all_readers(path: Path) -> None:
    """Files get the mode of any new file: safetensors leaves its own to their owner alone."""
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            file.chmod(0o666 & ~UMASK)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def disk_fault(error: object) -> str | None:
    """ "No space left on device" and its like where that is what `error` or its text speaks of, else None.

    Told by the number in the text: safetensors has an error class of its own for it, and a notebook leaves only text.
    """
    number = re.search(r"(?:\[Errno |os error )(\d+)", str(error))
    return os.strerror(int(number[1])) if number and int(number[1]) in DISK_FAULTS else None


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
