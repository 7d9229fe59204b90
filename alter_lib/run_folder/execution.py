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

ADDS_KERNEL = "python -m ipykernel install --sys-prefix adds it"


class NotebookFailed(Failed):
    """A notebook stopped: its name, cell and error, and where the partial notebook lies."""


def execute(notebook: Notebook, params: Params, output: Path) -> None:
    """Run one notebook into `output`; while it runs, and if it fails, the output is named NN_topic.partial.ipynb.

    Raises NotebookFailed; ParamsError where there is no kernel, or the disk is full.
    """
    import papermill  # here, not above: a rerun with nothing to do must be quick
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError

    partial = output.with_suffix(".partial.ipynb")
    try:
        papermill.execute_notebook(
            _literal(notebook.path),
            _literal(partial),
            parameters=params.dump(),
            kernel_name="python3",
            cwd=notebook.path.parent,
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # no notes on transport and interrupts
        )
    except NoSuchKernel as error:
        raise ParamsError([f"{notebook.stem}: no Jupyter kernel {error.name}: {ADDS_KERNEL}"]) from None
    except papermill.PapermillExecutionError as error:
        raise cell_fault(notebook, error, partial) from None
    except DeadKernelError:
        raise failed(f"{notebook.stem}: the kernel died (out of memory?)", partial) from None
    finally:
        if partial.exists():
            make_portable(partial)
    os.replace(partial, output)


def cell_fault(notebook: Notebook, error: "PapermillExecutionError", partial: Path) -> ParamsError | NotebookFailed:
    """What a failed cell means: a full disk, or a failure that is told with the cell's first line."""
    if reason := files.disk_fault(error.evalue):
        return ParamsError([f"{notebook.stem}: {reason}; what was finished before is kept"])
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
