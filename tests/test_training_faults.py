"""What goes wrong while a run trains: numbers that are not finite, memory, disk, a second process, other params."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import BATCH, RandomBatches, everything, tiny_params, tiny_trainer

from alter_lib import ParamsError, evaluate, provenance
from alter_lib.common import files
from alter_lib.common.command_line import BAD_INPUT, exit_code
from alter_lib.data.latents import Batch
from alter_lib.params import ROOT, Params, load_params
from alter_lib.plan import ExpertPlan
from alter_lib.plan.costs import CostTable
from alter_lib.plan.warnings import largest_distinct, plan_warnings
from alter_lib.run_folder import changed_params, lock
from alter_lib.run_folder.changed_params import make_way, recorded
from alter_lib.training import checkpoints, history, memory
from alter_lib.training.nonfinite import NonFinite
from alter_lib.training.trainer import Trainer


class PoisonedFrom(RandomBatches):
    """Latents hold a NaN from batch `first` on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        batch = super().batch(step, rank, world_size)
        if step >= self.first:
            batch.latents[1, 0, 0, 0] = torch.nan
        return batch


@pytest.mark.parametrize(("joint", "phase"), [(True, "hypernetwork"), (False, "backbone")])
def test_a_step_that_is_not_finite_changes_nothing_is_named_and_ends_a_run_at_some_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], joint: bool, phase: str
) -> None:
    options = {} if joint else {"training__hypernetwork_steps": 0}
    trainer = tiny_trainer(tiny_params(tmp_path, training__max_skipped_steps=1, **options))
    trainer.batches = PoisonedFrom(1)
    trainer.step()
    before = everything(trainer)
    assert trainer.step()["step"] == 2
    line = capsys.readouterr().err
    what = rf"training: step 2, {phase} phase, batch 1 \(samples 4, 5, 6, 7\): L_\w+ is nan"
    assert re.match(what + r": not applied, the 1\. of at most 1\n$", line)
    after = everything(trainer)
    assert all(torch.equal(value, after[name]) for name, value in before.items()) and trainer.guard.skipped == 1
    with pytest.raises(NonFinite, match=r"training: step 3, .*training\.max_skipped_steps.*checkpoint is from before"):
        trainer.step()


def test_an_infinite_gradient_of_a_finite_loss_is_found_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = tiny_trainer(tiny_params(tmp_path, training__hypernetwork_steps=0))
    trainer.theta[0].register_hook(lambda gradient: gradient + torch.inf)
    before = everything(trainer)
    row = trainer.step()
    assert row["grad_norm"] == float("inf") and "backbone phase, batch 0" in capsys.readouterr().err
    assert all(value.isfinite().all() for value in everything(trainer).values())
    assert all(torch.equal(everything(trainer)[name], value) for name, value in before.items())


def limited(trainer: Trainer, samples: int) -> None:
    """The teacher asks for more than there is where a micro-batch holds more than `samples`: a real error."""
    teach = trainer.objective.teach

    def hungry(part: object) -> object:
        if len(part.timesteps) > samples:
            torch.empty(2**46)
        return teach(part)

    trainer.objective.teach = hungry


def test_out_of_memory_names_what_fits(tmp_path: Path) -> None:
    trainer = tiny_trainer(tiny_params(tmp_path))
    limited(trainer, BATCH // 2)
    with pytest.raises(ParamsError) as caught:
        memory.step(trainer)
    (line,) = caught.value.faults
    assert line.startswith(f"training.batch_size: {BATCH} samples at a time don't fit into the memory of cpu (")
    assert "2 do: training.gradient_accumulation_steps: 2 gives the same" in line and "\n" not in line
    assert line.endswith("training.batch_size: 2 a smaller batch")


def test_out_of_memory_with_a_single_sample_says_what_else_there_is(tmp_path: Path) -> None:
    trainer = tiny_trainer(tiny_params(tmp_path))
    limited(trainer, 0)
    with pytest.raises(ParamsError, match="nor does one; training.gradient_checkpointing: true"):
        memory.step(trainer)


def test_any_other_error_is_not_taken_for_memory(tmp_path: Path) -> None:
    trainer = tiny_trainer(tiny_params(tmp_path))
    trainer.objective.teach = lambda part: torch.ones(2) @ torch.ones(3)
    with pytest.raises(RuntimeError, match="size") as caught:
        memory.step(trainer)
    assert not isinstance(caught.value, ParamsError)


# --- disk -----------------------------------------------------------------------------------------------------------

TENSORS = {"student": {"w": torch.arange(3000.0)}}


def in_child(work: Callable[[], object], most: int) -> int:
    """The exit code of a command that does `work` where no file can be longer than `most` bytes: the same error, from
    the same calls, as on a full disk."""
    if (pid := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        code = exit_code(lambda: work() and None, debug=False)
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = checkpoints.save(tmp_path, 1, TENSORS, {}, 2)
    assert in_child(lambda: checkpoints.save(tmp_path, 2, TENSORS, {}, 2), most=5000) == BAD_INPUT
    (line,) = capfd.readouterr().err.splitlines()
    assert "File too large; what was finished before is kept" in line
    assert checkpoints.last_whole(tmp_path) == first and sorted(os.listdir(tmp_path)) == ["latest", "step-000001"]


def test_a_full_disk_leaves_a_file_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files.write_text(tmp_path / "x", "old")
    assert in_child(lambda: files.write_text(tmp_path / "x", "new" * 1000), most=1000) == BAD_INPUT
    assert "File too large" in capfd.readouterr().err
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def write_rows(path: Path, steps: range, columns: tuple[str, ...] = ("step", "phase", "L_U")) -> None:
    path.write_text(",".join(columns) + "\n" + "".join(f"{step},joint,0.5\n" for step in steps))


@pytest.mark.parametrize("tail", ["", "4", "4,jo", "4,joint,0.5,9\n", "\x00\x00\x00", "x,joint,0.5\n", "6,joint,0.5\n"])
def test_the_rows_of_a_history_up_to_the_first_that_a_power_cut_took(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "history.csv"
    write_rows(path, range(1, 4))
    with path.open("a") as file:
        file.write(tail)
    assert [row["step"] for row in history.earlier(path, 9)] == ["1", "2", "3"]
    assert [row["step"] for row in history.earlier(path, 2)] == ["1", "2"]
    assert history.earlier(tmp_path / "none.csv", 2) == []


# --- two processes, and other params --------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from alter_lib.run_folder.lock import locked
with locked(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_dies_with_it_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ParamsError, match=rf"process {holder.pid} on \S+ \(training, since \S+\) is at work there"):
        with lock.locked(folder, "training"):
            pass
    with lock.locked(folder, "run"):  # another work
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    monkeypatch.setattr(provenance, "now", lambda: "1970-01-01T00:00:00+00:00")
    with lock.locked(folder, "training"), lock.locked(folder, "training"):  # a process that the holder starts is let in
        assert f"process {os.getpid()} on" in (folder / ".training.lock").read_text()


def test_a_second_evaluation_of_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    params = tiny_params(tmp_path)
    with lock.lock_file(params.run_folder, "evaluation") as other:
        assert lock.taken(other)  # a lock belongs to an open file: another one in this process is as good as another's
        with pytest.raises(ParamsError, match="tiny: another process is at work there"):
            evaluate(params)
    with pytest.raises(FileNotFoundError, match="tiny"):  # no artefact: that is as far as it gets alone
        evaluate(params)


def test_bad_input_leaves_no_folder_but_a_run_does(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="wrong"), lock.locked(tmp_path / "runs" / "x", "run"):
        with lock.locked(tmp_path / "runs" / "x", "training"):
            raise ParamsError(["wrong"])
    assert os.listdir(tmp_path) == []
    with lock.locked(tmp_path / "runs" / "x", "run"):
        (tmp_path / "runs" / "x" / "history.csv").touch()
    assert sorted(os.listdir(tmp_path / "runs" / "x")) == [".run.lock", "history.csv"]


def trained(folder: Path, **overrides: object) -> Params:
    """Params, and a run folder with a checkpoint that was made with them."""
    params = tiny_params(folder, **overrides)
    checkpoints.save(params.run_folder / "checkpoints", 4, TENSORS, {"params": recorded(params)}, 2)
    return params


def test_other_params_are_refused_key_by_key_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = trained(tmp_path)
    make_way(params, force=False)
    changed = load_params(params.dump(), {"loss.ratio": 6, "run.seed": 3, "training.checkpoint_every": 1})
    with pytest.raises(ParamsError) as caught:
        make_way(changed, force=False)
    assert [line.split(": made with ")[1] for line in caught.value.faults] == [
        "run.seed = 0, now 3: set another run.name, or --force starts anew",
        "loss.ratio = 5.0, now 6.0: set another run.name, or --force starts anew",
    ]
    make_way(params, force=True)  # nothing has changed: nothing is set aside
    assert params.run_folder.is_dir() and capsys.readouterr().err == ""
    for n in (1, 2):
        make_way(changed, force=True)
        kept = tmp_path / ".replaced" / f"tiny-{n}"
        assert str(kept) in capsys.readouterr().err and not params.run_folder.exists()
        assert json.loads((kept / "checkpoints" / "latest" / "state.json").read_text())["step"] == 4
        trained(tmp_path)


def test_a_damaged_checkpoint_is_left_to_the_training_to_judge(tmp_path: Path) -> None:
    params = trained(tmp_path)
    (params.run_folder / "checkpoints" / "latest" / "state.json").write_text("{")
    before = sorted(params.run_folder.rglob("*"))
    make_way(load_params(params.dump(), {"loss.ratio": 6}), force=False)
    assert sorted(params.run_folder.rglob("*")) == before


def test_execution_keys_name_params_that_there_are() -> None:
    content = load_params("params/smoke.yaml").dump()
    assert all(key in content[section] for section, key in changed_params.EXECUTION)


# --- a plan that is valid and still not good ------------------------------------------------------------------------

PLAN = ExpertPlan(
    masks=torch.tensor([[True, True, False, False], [False, True, True, True], [True, False, True, False]]),
    routing=torch.arange(99) % 3,
    layer_names=tuple("abcd"),
    cost=CostTable((10, 20, 30, 40), 100, "linear+conv", (8, 8)),
    backbone_class="UNet2DConditionModel",
    architecture_hash="0",
)


def test_the_largest_set_of_distinct_experts_is_found_among_all() -> None:
    masks = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert largest_distinct(masks, range(5)) == (0, 2, 3, 4)
    assert largest_distinct(masks, [1, 2]) == (1,)
    assert largest_distinct([*masks, *([[1, 1, 1, 1]] * 15)], range(20)) == (0, 2, 3, 4)


def test_a_missed_budget_and_a_collapsed_router_are_warnings() -> None:
    good = replace(PLAN, target_ratio=PLAN.achieved_ratio)
    assert plan_warnings(PLAN) == plan_warnings(good) == []
    (line,) = plan_warnings(replace(good, target_ratio=PLAN.achieved_ratio * 0.97))
    assert line.startswith(f"off target: the plan leaves {PLAN.achieved_ratio:.4f} active, not ")
    routing = torch.where(torch.arange(99) < 3, 0, 2)
    (line,) = plan_warnings(replace(PLAN, routing=routing))
    assert line.startswith("router collapse: expert 2 of 3 serves 97.0% of the timesteps")
    (line,) = plan_warnings(replace(PLAN, masks=PLAN.masks[[0, 0, 0]]))
    assert line == "router collapse: the 3 experts in use skip the same layers, or all but one of them"
    one_layer = torch.tensor([[True, True, False, False], [True, False, False, False], [True, True, True, False]])
    assert plan_warnings(replace(PLAN, masks=one_layer)) == []  # the last two differ in two layers
    (line,) = plan_warnings(replace(PLAN, masks=one_layer[[0, 1, 0]]))
    assert line.startswith("router collapse")
    pair = replace(PLAN, masks=PLAN.masks[:2], routing=torch.arange(99) % 2)  # Fig. 4c's smallest
    assert plan_warnings(pair) == []
    for collapsed in (replace(pair, routing=routing // 2), replace(pair, masks=one_layer[:2])):
        (line,) = plan_warnings(collapsed)
        assert line.startswith("router collapse")
    static = replace(PLAN, masks=PLAN.masks[:1], routing=torch.zeros(99, dtype=torch.int64))
    assert plan_warnings(static) == []
