"""Whatever a plan file, a params file or an override holds, what comes out is a PlanError or a ParamsError."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_bad_plans import PLAN

from alter_lib.params import ParamsError, load_params
from alter_lib.plan import ExpertPlan
from alter_lib.plan.file import PlanError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn, whole: object) -> object:
    """`whole` with one place in it replaced or taken away."""
    content = json.loads(json.dumps(whole))
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = draw(st.sampled_from(list(keys)))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
        elif draw(st.booleans()):
            place[key] = draw(JSON)
            return content
        else:
            del place[key]
            return content


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "plan.json"


def only_plan_errors(path: Path) -> None:
    try:
        ExpertPlan.load(path)
    except PlanError as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | JSON.map(json.dumps).map(str.encode))
@settings(max_examples=150)
@example(b"\xef\xbb\xbf{}")
def test_whatever_a_plan_file_holds_only_plan_errors_come_out(plan_file: Path, content: bytes):
    plan_file.write_bytes(content)
    only_plan_errors(plan_file)


@given(damaged(PLAN.to_dict()))
@settings(max_examples=300)
def test_a_damaged_plan_loads_or_is_a_plan_error(plan_file: Path, content: object):
    plan_file.write_text(json.dumps(content))
    only_plan_errors(plan_file)


def only_params_errors(source: Path | dict, overrides: dict | None = None) -> None:
    try:
        load_params(source, overrides)
    except ParamsError as error:
        assert error.faults and all(line and "\n" not in line for line in error.faults)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | JSON.map(json.dumps).map(str.encode))
@settings(max_examples=150)
@example(b"run: &a [*a]\n")
@example(b"? [1, 2]\n: {}\n")
@example(b"run: {? [a] : 1}\n")
@example(b"run: 2020-13-45\n")
@example(b"run: {seed: 0x}\n")
@example(b"run: {seed: " + b"9" * 5000 + b"}\n")
@example(b"[" * 3000)
@example(b'{"\\ud834": {"\\ud834": "\\ud834"}, "run": {"name": "\\ud834", "\\udfd2": 1}}')
def test_whatever_a_params_file_holds_only_params_errors_come_out(plan_file: Path, content: bytes):
    path = plan_file.with_name("x.yaml")
    path.write_bytes(content)
    only_params_errors(path)


@given(damaged(load_params("params/smoke.yaml").dump()))
@settings(max_examples=300)
def test_damaged_params_load_or_are_a_params_error(content: object):
    only_params_errors(content if isinstance(content, dict) else {"run": content})


@given(st.dictionaries(st.text(max_size=12) | st.sampled_from(["training.steps", "run.name", "data.path"]), JSON))
@settings(max_examples=150)
def test_whatever_is_overridden_only_params_errors_come_out(overrides: dict):
    only_params_errors("params/smoke.yaml", overrides)
