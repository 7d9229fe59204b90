"""One notebook through papermill: its output is portable, and a failure says which cell, and where the output is."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import provenance
from ..common import files
from ..common.faults import Failed
from ..params import Params, ParamsError
from .state import Notebook

if TYPE_CHECKING:
    from papermill import PapermillExecutionError

KERNEL = "python3"
# BadInput and what is derived from it: of an error in a cell its name alone is left
BAD_INPUT = {"BadInput", "ParamsError", "PlanError", "AssetError", "Unavailable"}


class NotebookFailed(Failed):
    """A notebook stopped: its name, cell and error, and where the partial notebook lies."""


def check_kernel() -> None:
    """Raises ParamsError where Jupyter knows no kernel to run notebooks in."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel  # here, as below

    try:
        KernelSpecManager().get_kernel_spec(KERNEL)
    except NoSuchKernel:
        adds = "python -m ipykernel install --sys-prefix adds it"
        raise ParamsError([f"no Jupyter kernel {KERNEL}: {adds}"]) from None


def execute(notebook: Notebook, params: Params, output: Path) -> None:
    """Run one notebook into `output`; while it runs, and if it fails, the output is named NN_topic.partial.ipynb.

    Raises NotebookFailed; ParamsError where a cell met bad input, or the disk is full.
    """
    import papermill  # here, not above: a rerun with nothing to do must be quick
    from nbclient.exceptions import DeadKernelError

    partial = output.with_suffix(".partial.ipynb")
    try:
        papermill.execute_notebook(
            _literal(notebook.path),
            _literal(partial),
            parameters=params.dump(),
            kernel_name=KERNEL,
            cwd=notebook.path.parent,
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # no notes on transport and interrupts
        )
    except papermill.PapermillExecutionError as error:
        raise cell_fault(notebook, error, partial) from None
    except DeadKernelError:
        raise failed(f"{notebook.stem}: the kernel died (out of memory?)", partial) from None
    finally:
        if partial.exists():
            make_portable(partial)
    os.replace(partial, output)


def cell_fault(notebook: Notebook, error: "PapermillExecutionError", partial: Path) -> ParamsError | NotebookFailed:
    """What a failed cell means: a full disk, bad input, or a failure that is told with the cell's first line."""
    if reason := files.disk_fault(error.evalue):
        return ParamsError([f"{notebook.stem}: {reason}; what was finished before is kept"])
    if error.ename in BAD_INPUT:
        return ParamsError([f"{notebook.stem}: {line}" for line in provenance.relative(error.evalue).splitlines()])
    first = (error.source.strip().splitlines() or [""])[0]
    return failed(f"{notebook.stem}: cell In [{error.exec_count}] ({first}): {error.ename}: {error.evalue}", partial)


def failed(message: str, partial: Path) -> NotebookFailed:
    return NotebookFailed(f"{provenance.relative(message)}\n  partial notebook: {provenance.relative(str(partial))}")


def _literal(path: Path) -> str:
    """papermill passes paths through str.format."""
    return str(path).replace("{", "{{").replace("}", "}}")


def make_portable(path: Path) -> None:
    """Cut the places of this machine out of an executed notebook: its outputs' text and papermill's record."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _relative_strings(cell.outputs)
    record = notebook.metadata.get("papermill", {})
    for key in record.keys() & {"input_path", "output_path"}:
        record[key] = provenance.relative(record[key]).replace(".partial.", ".")
    files.write_text(path, nbformat.writes(notebook) + "\n")


def _relative_strings(value: Any) -> Any:
    if isinstance(value, str):
        return provenance.relative(value)
    if isinstance(value, list):
        return [_relative_strings(item) for item in value]
    if isinstance(value, dict):  # base64 of an image may spell anything
        return type(value)({k: v if k.startswith("image/") else _relative_strings(v) for k, v in value.items()})
    return value
