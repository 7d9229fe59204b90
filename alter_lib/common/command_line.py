"""What all commands of the project share: --debug, exit codes, and one line on stderr for each fault.

0 done; 1 failed; 2 bad input, a full or a read-only disk; 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from .faults import BadInput, Failed
from .files import disk_fault

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Takes --debug; a wrong option is one line on stderr and exit code 2, without the usage text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--debug", action="store_true", help="show the traceback of a fault")

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{message}\n")


def exit_code(work: Callable[[], int | None], debug: bool, resumes: str = "goes on where it stopped") -> int:
    """Do `work` and return the exit code of the command. resumes: what the same command does after an interruption.

    Of several processes the first one speaks. An error that is no fault of the input is raised: it is ours.
    """
    speaks = os.environ.get("RANK", "0") == "0"
    try:
        return work() or DONE
    except KeyboardInterrupt:
        print(f"interrupted: the same command {resumes}" * speaks, file=sys.stderr, end="\n" * speaks)
        return INTERRUPTED
    except Exception as error:
        if debug or (lines := one_line_each(error)) is None:
            raise
        print(lines * speaks, file=sys.stderr, end="\n" * speaks)
        return FAILED if isinstance(error, Failed) else BAD_INPUT


def one_line_each(error: Exception) -> str | None:
    """The faults of an error that the user can do something about; None for any other."""
    if isinstance(error, BadInput | Failed):
        return str(error)
    where = getattr(error, "filename", None)
    if reason := disk_fault(error):
        return f"{where or 'run.out'}: {reason}; what was finished before is kept"
    if isinstance(error, FileNotFoundError):
        return f"{where}: no such file" if where else str(error)
    return None
