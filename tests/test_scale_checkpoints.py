"""Checkpoints: whole or not at all, the last K kept, a link to the newest, a spare for a damaged one."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alter_lib import ParamsError, checkpoints

TENSORS = {"student": {"w": torch.arange(6.0).view(2, 3)}, "plan": {"masks": torch.tensor([True, False])}}


def save(folder: Path, step: int, keep: int = 2) -> Path:
    return checkpoints.save(folder, step, TENSORS, {"params": {"a": 1}}, keep)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    assert torch.equal(checkpoints.tensors(path, "student")["w"], TENSORS["student"]["w"])
    assert torch.equal(checkpoints.tensors(path, "plan")["masks"], TENSORS["plan"]["masks"])
    assert checkpoints.state(path)["step"] == 3 and checkpoints.state(path)["params"] == {"a": 1}


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_k_are_kept_and_latest_leads_to_the_newest(tmp_path: Path, keep: int) -> None:
    for step in (2, 10, 100, 1000):
        save(tmp_path, step, keep)
        assert json.loads((tmp_path / "latest" / "state.json").read_text())["step"] == step
    kept = ["step-000010", "step-000100", "step-001000"][-keep:]
    assert sorted(os.listdir(tmp_path)) == ["latest", *kept]


@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_a_crash_while_saving_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first = save(tmp_path, 1)

    def crash(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, moment, crash)
        with pytest.raises(OSError):
            save(tmp_path, 2)
    assert checkpoints.last_whole(tmp_path) == first == (tmp_path / "latest").resolve()
    assert save(tmp_path, 2) == checkpoints.last_whole(tmp_path)  # over what the crash left
    assert not list(tmp_path.glob("*.partial"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("saved"), 1)


@given(st.sampled_from(["student.safetensors", "plan.safetensors"]), st.integers(0), st.integers(1, 255))
def test_any_changed_byte_is_found(saved: Path, name: str, place: int, change: int) -> None:
    assert checkpoints.damage(saved) is None
    whole = (saved / name).read_bytes()
    changed = bytearray(whole)
    changed[place % len(whole)] ^= change
    (saved / name).write_bytes(changed)
    assert checkpoints.damage(saved) == f"{name} is not the file that was written"
    (saved / name).write_bytes(whole)


@pytest.mark.parametrize("harm", ["truncate", "remove", "no state"])
def test_the_spare_serves_where_the_last_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture, harm: str) -> None:
    spare, last = save(tmp_path, 1), save(tmp_path, 2)
    if harm == "truncate":
        os.truncate(last / "student.safetensors", 20)
    else:
        (last / {"remove": "student.safetensors", "no state": "state.json"}[harm]).unlink()
    assert checkpoints.last_whole(tmp_path) == spare
    line = capsys.readouterr().err
    assert line.startswith("checkpoints: step-000002 is damaged (") and line.endswith("going on from the one before\n")
    assert (tmp_path / "step-000002.damaged").is_dir()  # set aside, so that a later step 2 is not taken for it
    assert save(tmp_path, 2) == checkpoints.last_whole(tmp_path)


def test_none_is_whole(tmp_path: Path) -> None:
    assert checkpoints.last_whole(tmp_path) is None
    os.truncate(save(tmp_path, 1) / "plan.safetensors", 9)
    with pytest.raises(ParamsError, match="no whole checkpoint is left; remove the folder to start again"):
        checkpoints.last_whole(tmp_path)
