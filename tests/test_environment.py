"""One set of versions: requirements.lock, environment.yml, pyproject.toml and what is installed agree."""

import re
import tomllib
from importlib.metadata import version

import pytest
import yaml

from alter_lib.params import ROOT


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: list[str]) -> dict[str, str]:
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {canonical(match[1]): match[2] for match in found}


LOCK = pins([line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"])
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = {
    canonical(re.match(r"[\w.-]+", item)[0])
    for extra in (PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name] for name in ("dev", "deploy")))
    for item in extra
}


@pytest.mark.parametrize("name", sorted(LOCK))
def test_what_is_installed_is_what_is_locked(name: str):
    assert version(name).split("+")[0] == LOCK[name]  # torch's build (+cpu, +cu130) is the machine's choice


def test_the_lock_leaves_the_build_of_torch_open_and_holds_no_torchvision():
    assert LOCK["torch"] == "2.13.0"
    assert not {name for name in LOCK if name.startswith(("torchvision", "nvidia", "triton"))}


def test_conda_gets_the_same_pins():
    (pip,) = [item["pip"] for item in CONDA if isinstance(item, dict)]
    options = [line for line in pip if line.startswith("-")]
    assert options == ["-c requirements.lock", "-e ."]
    conda = pins([line for line in pip if not line.startswith("-")])
    assert conda == {name: LOCK[name] for name in DIRECT}


def test_every_direct_dependency_is_locked():
    assert DIRECT <= set(LOCK)


def test_conda_s_python_is_one_that_the_project_takes():
    (python,) = [item for item in CONDA if isinstance(item, str) and item.startswith("python=")]
    at_least = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.split("=")[1].split("."))) >= tuple(map(int, at_least.split(".")))
