# Two commands on a fresh machine with Python >= 3.11: `make run` and `make test`.
#   make run ARGS="--params params/smoke.yaml"      other parameters, see python run_all.py --help
#   make run PIP_ARGS="--index-url ..."             anything that pip install takes
#   make test ARGS="-k plan"
#   make ablations CORES=2 ARGS=table_3             the ablation study or a group of it; goes on where it stopped

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
CORES ?= 2
VENV ?= .venv
READY := $(VENV)/.ready

run: $(READY)
	$(VENV)/bin/python run_all.py $(ARGS)

test: $(READY)
	$(VENV)/bin/python -m pytest $(ARGS)

# What is left of the study, then notebook 06 on all that is finished, even where a run failed or Ctrl-C came between.
ablations: $(READY)
	$(VENV)/bin/python -m snakemake -s workflow/Snakefile --cores $(CORES) --keep-going --rerun-incomplete $(ARGS) \
		--config python=$(VENV)/bin/python; status=$$?; \
	$(VENV)/bin/python run_all.py --only 06 --force --set run.name=study || status=$$?; exit $$status

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

.PHONY: run test ablations lab lint install
