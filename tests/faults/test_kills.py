"""A few kills at random instants; ALTER_KILLS=20,10 makes it 20 of a training and 10 of run_all."""

import os
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from kills import ARGUMENTS, Ran, Trained, measure

TRAININGS, RUNS = map(int, os.environ.get("ALTER_KILLS", "2,1").split(","))
SHORT = ("training.steps=6", "training.hypernetwork_steps=4", "training.checkpoint_every=2", "training.batch_size=4",
         "data.limit=16")  # fmt: skip


def test_a_killed_training_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    tally = measure(Trained, [*ARGUMENTS, *(() if TRAININGS >= 20 else SHORT)], TRAININGS, seed=0, folder=tmp_path)
    assert tally.faults == []
    assert tally.identical == tally.resumed == sum(tally.kills.values()) == TRAININGS


@pytest.mark.skipif(RUNS == 0, reason="ALTER_KILLS asks for none")
def test_a_killed_run_of_all_notebooks_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, smoke_run: tuple[Path, CompletedProcess]
) -> None:
    whole = None if torch.accelerator.is_available() else smoke_run[0]  # a GPU's kernels are not deterministic
    tally = measure(Ran, ARGUMENTS, RUNS, seed=1, folder=tmp_path, whole=whole)
    assert tally.faults == [] and tally.identical == sum(tally.kills.values()) == RUNS
