"""Bad plan files through any command: one line that names file and key, exit code 2, the file unchanged."""

import json
from pathlib import Path

import pytest
import torch

from alter_lib.common.command_line import BAD_INPUT, exit_code
from alter_lib.plan import ExpertPlan
from alter_lib.plan.costs import CostTable

PLAN = ExpertPlan(
    masks=torch.tensor([[True, True, False, False], [False, True, True, True]]),
    routing=torch.tensor([0, 0, 0, 1]),
    layer_names=tuple(f"layer.{i}" for i in range(4)),
    cost=CostTable((10, 20, 30, 40), 100, "linear+conv", (8, 8)),
    backbone_class="UNet2DConditionModel",
    architecture_hash="0" * 64,
)

PLANS = {
    "another version": (lambda c: c.update(format="alter-plan/9"), "format: "),
    "no masks": (lambda c: c.pop("experts"), "experts: Field required"),
    "an unknown key": (lambda c: c.update(expert=[]), "expert: Extra inputs"),
    "a wrong length": (lambda c: c["experts"].__setitem__(0, "110"), "experts.0: 3 bits"),
    "letters": (lambda c: c["experts"].__setitem__(0, "11x0"), "experts.0: "),
    "an edited mask": (lambda c: c["experts"].__setitem__(0, "1110"), "achieved_ratio: "),
    "an edited cost": (lambda c: c["layers"][0].update(cost=11), "cost.total: 200"),
    "a negative cost": (lambda c: c["layers"][0].update(cost=-1), "layers.0.cost: "),
    "overlapping timesteps": (lambda c: c["routing"].__setitem__(1, [2, 3, 1]), "overlaps another row"),
    "missing timesteps": (lambda c: c["routing"].__setitem__(0, [0, 1, 0]), "timesteps 2..2 are missing"),
    "a missing end": (lambda c: c["routing"].pop(), "timesteps 3..3 are missing"),
    "timesteps beyond the end": (lambda c: c["routing"].__setitem__(1, [3, 9, 1]), "must lie within 0..3"),
    "an unknown expert": (lambda c: c["routing"].__setitem__(1, [3, 3, 7]), "routing: expert 7"),
    "a row of text": (lambda c: c["routing"].__setitem__(1, ["3", 3, 1]), "routing.1.0: "),
    "a name twice": (lambda c: c["layers"][0].update(name="layer.1"), "layers: a name stands twice"),
    "a ratio above one": (lambda c: c.update(target_ratio=1.5), "target_ratio: "),
    "no ratio": (lambda c: c.update(achieved_ratio=float("nan")), "achieved_ratio: "),
    "a huge number of timesteps": (lambda c: c.update(num_train_timesteps=10**18), "num_train_timesteps: "),
}


def loads(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that any command prints for this plan."""
    before = path.read_bytes()
    assert exit_code(lambda: ExpertPlan.load(path) and None, debug=False) == BAD_INPUT
    assert path.read_bytes() == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ")
    return line


@pytest.mark.parametrize("name", PLANS)
def test_a_faulty_plan_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str):
    content, (damage, message) = PLAN.to_dict(), PLANS[name]
    damage(content)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    assert message in loads(path, capsys)


@pytest.mark.parametrize("text", ["", "[]", "1", '{"format": ', "\x00", "[" * 100_000, "9" * 5000])
def test_a_file_that_is_no_plan_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str):
    path = tmp_path / "plan.json"
    path.write_text(text)
    loads(path, capsys)
