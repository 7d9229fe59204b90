"""Shared by all tests: one thread for each library (the suite must not fight itself for cores), and the tiny UNet."""

# ruff: noqa: E402
import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before torch and numpy are imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
os.environ.setdefault("MPLBACKEND", "agg")

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)  # a busy machine is no failure
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def tiny_unet() -> Callable[..., Any]:
    """Makes a random UNet2DConditionModel with SD2.1's 34 prunable layers: 8 x 8 latents, widths 8 and 16, seconds on a
    CPU. `tiny_unet(seed=0, **config)`: keywords replace values of the config."""

    def make(seed: int = 0, **config: Any) -> Any:
        import torch
        from diffusers import UNet2DConditionModel

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return UNet2DConditionModel(**{**TINY_UNET, **config}).eval()

    return make


TINY_UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16, 16, 16),
    "attention_head_dim": (1, 1, 1, 1),
    "cross_attention_dim": 16,
    "use_linear_projection": True,
    "norm_num_groups": 4,
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


@pytest.fixture
def write_notebook() -> Callable[..., Path]:
    """Writes a small notebook with the project's parameters cell; `alter`: its metadata of that name."""

    def write(path: Path, *cells: str, title: str = "", alter: dict[str, Any] | None = None) -> Path:
        from alter_lib.params import Params

        lines = [f"{section} = None" for section in Params.model_fields] + ["overrides = {}"]
        parameters = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]})
        body = [nbformat.v4.new_code_cell(code) for code in cells]
        heading = nbformat.v4.new_markdown_cell(f"# {title or path.stem}\n\nSome text.")
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "alter": alter or {}}
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=[heading, parameters, *body], metadata=metadata), path)
        return path

    return write


@pytest.fixture(scope="session")
def run_all() -> Callable[[Path], subprocess.CompletedProcess]:
    """`run_all(out)`: run_all.py on params/smoke.yaml, its run folder below `out`."""

    def execute(out: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "run_all.py", "--params", "params/smoke.yaml", "--out", str(out)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)

    return execute


@pytest.fixture(scope="session")
def smoke_run(
    run_all: Callable[[Path], subprocess.CompletedProcess], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess]:
    """The run folder of all notebooks on params/smoke.yaml, executed once for all tests, and how that ended."""
    out = tmp_path_factory.mktemp("runs")
    done = run_all(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "smoke", done


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; without one its tests are skipped, but fail in CI, where a missing browser hides breakage."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium on the path")
    return found


@pytest.fixture(scope="session")
def finished_run(request: pytest.FixtureRequest) -> Path:
    """The run folder of ALTER_RUN, else of `smoke_run`."""
    given = os.environ.get("ALTER_RUN")
    return Path(given).resolve() if given else request.getfixturevalue("smoke_run")[0]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Headless Chromium by playwright."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()
