"""Run the notebooks in order on one params file and build the report: python run_all.py --help."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - whoever types it with an old Python gets a line
    print(f"needs Python >= 3.11, this is {sys.version.split()[0]}: make run PYTHON=python3.11", file=sys.stderr)
    sys.exit(2)

try:
    from alter_lib.runner import main
except ModuleNotFoundError as error:
    print(f"package {error.name} is not installed: make run, or pip install -e . in this environment", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
