"""What an import brings with it: deploying a plan needs nothing of training, evaluation, plots or widgets."""

import subprocess
import sys

from conftest import ROOT

import alter_lib

HEAVY = {"training", "hypernetwork", "evaluation", "data", "plots", "widgets", "report", "benchmark"}
MODULES = "print(*{name.split('.')[1] for name in sys.modules if name.startswith('alter_lib.')})"


def imported(code: str) -> set[str]:
    """The modules and packages of alter_lib that a fresh interpreter has loaded after `code`."""
    command = [sys.executable, "-c", f"import sys\n{code}\n{MODULES}"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_deploying_a_plan_loads_nothing_of_training_or_figures():
    found = imported("from alter_lib import apply_plan, load_pipeline")
    assert {"plan", "inference", "skipping"} <= found and not found & HEAVY


def test_params_and_a_package_of_many_parts_load_nothing_else():
    assert imported("from alter_lib import load_params") == {"common", "params"}
    assert imported("import alter_lib.training") == {"training"}


def test_no_module_bears_the_name_of_a_public_function():
    modules = {path.stem for path in (ROOT / "alter_lib").iterdir()}
    assert not modules & set(alter_lib.__all__)
