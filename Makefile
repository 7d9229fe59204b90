# Two commands on a fresh machine with Python >= 3.11: `make run` and `make test`.
#   make run ARGS="--params params/smoke.yaml"      other parameters, see python run_all.py --help
#   make run PIP_ARGS="--index-url ..."             anything that pip install takes
#   make test ARGS="-k plan"

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
VENV ?= .venv
READY := $(VENV)/.ready

run: $(READY)
	$(VENV)/bin/python run_all.py $(ARGS)

test: $(READY)
	$(VENV)/bin/python -m pytest $(ARGS)

lab: $(READY)
	$(VENV)/bin/jupyter lab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check .

install: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python >= 3.11: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_ARGS) -r requirements.lock
	$(VENV)/bin/python -m pip install $(PIP_ARGS) --no-deps -e .
	@touch $@

.PHONY: run test lab lint install
