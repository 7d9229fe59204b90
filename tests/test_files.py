"""Files that are whole or not there, under every error and under kill -9."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from alter_lib.common import files
from alter_lib.params import ROOT


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a" / "b.txt"
    files.write_text(path, "one")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "two \ud800")
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"value": float("nan")})
    assert path.read_text() == "one" and os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str):
    files.write_text(tmp_path / "x", "one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, moment, full)
        with pytest.raises(OSError):
            files.write_text(tmp_path / "x", "two")
    assert (tmp_path / "x").read_text() == "one" and os.listdir(tmp_path) == ["x"]


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths))[1])
    files.write_text(tmp_path / "x", "one")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder's entry


WRITER = """
import sys
from pathlib import Path
from alter_lib.common import files
path = Path(sys.argv[1])
for i in range(10**9):
    files.write_text(path, str(i % 10) * 300_000)
    print(i, flush=True)
"""


def test_kill_9_while_writing_leaves_a_whole_file_and_the_next_write_cleans_up(tmp_path: Path):
    path = tmp_path / "x"
    for wanted in (3, 1, 8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(wanted):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        text = path.read_text()
        assert len(text) == 300_000 and set(text) == {text[0]}
    (tmp_path / f".x.{writer.pid}.partial").write_text("half")  # as a kill may leave it
    (tmp_path / f".x.{os.getppid()}.partial").write_text("another live process is writing")
    files.write_text(path, "one")
    assert sorted(os.listdir(tmp_path)) == [f".x.{os.getppid()}.partial", "x"]


def test_weights_are_as_readable_as_any_new_file(tmp_path: Path):
    (tmp_path / "usual").touch()
    with files.whole(tmp_path / "file.safetensors") as partial:
        save_file({"w": torch.zeros(1)}, partial)
    with files.whole_files(tmp_path / "folder", last="w.safetensors") as partial:
        save_file({"w": torch.zeros(1)}, partial / "w.safetensors")
        (partial / "config.json").touch()
    modes = {name: (tmp_path / name).stat().st_mode for name in ("usual", "file.safetensors", "folder/w.safetensors")}
    assert len(set(modes.values())) == 1, modes


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path):
    for content in ("one", "two"):
        with files.whole(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert os.listdir(tmp_path / "folder") == ["two"]


def write_set(folder: Path, content: str) -> None:
    with files.whole_files(folder, last="index") as partial:
        for name in ("a/weights", "b", "index"):
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(content)


@given(st.integers(0, 3))
def test_files_are_moved_in_with_the_one_that_makes_them_valid_last(
    tmp_path_factory: pytest.TempPathFactory, fail: int
):
    """Whichever of the moves fails: the folder holds the old set, the new set, or no valid one."""
    folder = tmp_path_factory.mktemp("a") / "folder"
    replace, moves = os.replace, []

    def failing(*paths: Path) -> None:
        if len(moves) == fail:
            raise OSError(28, "No space left on device")
        moves.append(paths)
        replace(*paths)

    write_set(folder, "old")
    (folder / "theirs").write_text("kept")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", failing)
        if fail < 3:
            with pytest.raises(OSError):
                write_set(folder, "new")
        else:
            write_set(folder, "new")
    held = {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert held.pop("theirs") == "kept" and not list(folder.parent.glob("*.partial"))
    assert "index" not in held if fail < 3 else set(held.values()) == {"new"}
    write_set(folder, "new")
    assert {path.read_text() for path in folder.rglob("*") if path.is_file()} == {"new", "kept"}
