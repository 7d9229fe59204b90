"""Run the notebooks in order on one params file and build the report: python run_all.py --help."""

import sys

from alter_lib.runner import main

if __name__ == "__main__":
    sys.exit(main())
