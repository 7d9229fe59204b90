"""A page of JupyterLab: its server, and cells run one by one in Chromium."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat

from alter_lib.params import ROOT


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """A server on a free port, its files below `folder`; yields its address with the token."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(folder / ".config")}
    for name in ("RUNTIME", "DATA"):
        environment[f"JUPYTER_{name}_DIR"] = str(folder / f".{name.lower()}")
    tracker = folder / ".settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # else cells outside the window are not in the page
    notifications = folder / ".settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notifications.parent.mkdir(parents=True)
    notifications.write_text('{"fetchNews": "false"}')  # else a question covers part of the page
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(folder / ".settings")
    options = ["--no-browser", "--port=0", "--allow-root", "--expose-app-in-browser", f"--notebook-dir={folder}"]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, env=environment, cwd=folder
        )
        try:
            yield address(folder / ".runtime", server)
        finally:
            server.terminate()
            server.wait(30)


def address(runtime: Path, server: subprocess.Popen) -> str:
    for _ in range(600):
        for path in runtime.glob("jpserver-*.json"):
            info = json.loads(path.read_text())
            return f"{info['url']}lab/tree/04_routing.ipynb?token={info['token']}"
        assert server.poll() is None, "JupyterLab did not start"
        time.sleep(0.5)
    raise TimeoutError("JupyterLab did not start")


def cleared_copy(run: Path, target: Path) -> int:
    """The run's notebook 04, with its parameters and without outputs, as `target`; returns its number of code cells."""
    notebook = nbformat.read(run / "notebooks" / "04_routing.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, target)
    return len(code)


IDLE = "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


def run_cell(page, cell) -> None:
    """One code cell, to its end. Without a kernel Shift-Enter would be lost, or JupyterLab would ask for one."""
    from playwright.sync_api import expect

    page.wait_for_function(IDLE, timeout=300_000)
    prompt = cell.locator(".jp-InputPrompt")
    prompt.click()
    page.keyboard.press("Shift+Enter")
    expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=300_000)
    assert cell.locator("[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText[data-mime-type*=stderr]"
                        ).count() == 0, cell.inner_text()  # fmt: skip
