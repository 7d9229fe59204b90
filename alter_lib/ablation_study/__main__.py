"""What of the ablation study is finished, what is left, and the command for it.

    python -m alter_lib.ablation_study [--study workflow/study.yaml]
"""

import argparse
import sys
from pathlib import Path

from ..common.command_line import Parser, exit_code
from .study import STUDY, Study


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=STUDY, help="default: workflow/study.yaml")
    options = parser.parse_args()

    def work() -> None:
        for row in Study.load(options.study).left():
            print("{group:<14} {backbone:<10} {finished:>3} of {runs:>3}  {command for the rest}".format_map(row))

    return exit_code(work, options.debug)


if __name__ == "__main__":
    sys.exit(main())
