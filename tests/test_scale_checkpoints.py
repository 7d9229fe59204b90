"""Checkpoints: whole or not at all, the last K kept, a link to the newest, a spare for a damaged one."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alter_lib import ParamsError
from alter_lib.training import checkpoints

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
    assert line.startswith("checkpoints: step-000002 is damaged (") and line.endswith("going on from step-000001\n")
    assert (tmp_path / "step-000002.damaged").is_dir()  # set aside, so that a later step 2 is not taken for it
    assert save(tmp_path, 2) == checkpoints.last_whole(tmp_path)


def test_none_is_whole(tmp_path: Path) -> None:
    assert checkpoints.last_whole(tmp_path) is None
    os.truncate(save(tmp_path, 1) / "plan.safetensors", 9)
    for _ in range(2):  # asked again, it does not start anew over what is left
        with pytest.raises(ParamsError, match=r"no whole checkpoint is left \(step-000001: .*; remove the folder"):
            checkpoints.last_whole(tmp_path)


def test_the_same_step_damaged_twice(tmp_path: Path) -> None:
    spare = save(tmp_path, 1)
    for _ in range(2):
        (save(tmp_path, 2) / "state.json").write_text("{")
        assert checkpoints.last_whole(tmp_path) == spare
    assert (tmp_path / "step-000002.damaged" / "state.json").read_text() == "{"


def test_checkpoints_beyond_a_million_steps_stay_in_order(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
    assert checkpoints.last_whole(tmp_path).name == "step-1000000"


def test_what_a_kill_left_of_another_step_is_removed(tmp_path: Path) -> None:
    (tmp_path / "step-000003.partial").mkdir()
    (tmp_path / "step-000003.partial" / "student.safetensors").write_text("half")
    assert checkpoints.last_whole(tmp_path) is None
    save(tmp_path, 5)
    assert sorted(os.listdir(tmp_path)) == ["latest", "step-000005"]
