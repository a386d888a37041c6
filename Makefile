# Everything runs in .venv/, made on first use from requirements.txt; `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

.DEFAULT_GOAL := help
.PHONY: help run test oracle lint format lab bench clients lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

run: $(STAMP)  ## run the workflow; options by ARGS="-p epochs 5"
	@$(BIN)/python run_all.py $(ARGS)

test: $(STAMP)  ## run the tests; options by ARGS="-k recordio"
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

oracle: $(STAMP)  ## check the engine against MXNet 1.9.1 and a real job's ratings (made and kept in .bench/)
	@$(BIN)/python -m pytest -v --no-header -o python_files="check_*.py" tests/oracle $(ARGS)

lint: $(STAMP)  ## check style, types and spelling
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/codespell

format: $(STAMP)  ## mend what the linter can
	@$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format .

lab: $(STAMP)  ## open the notebooks in JupyterLab
	@$(BIN)/python run_all.py lab $(ARGS)

bench: $(STAMP)  ## run the benchmarks against peers (each makes its peers' environment in .bench/)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clients: $(STAMP)  ## run programs written for SageMaker, by AWS's own clients, against the local AWS
	@$(BIN)/python tests/clients/run_clients.py

lock: $(STAMP)  ## pin the packages of pyproject.toml anew in requirements.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" pyproject.toml --group dev -o requirements.txt

clean:  ## remove the environment and caches, and stop the local AWS; runs and their data stay
	@if [ -x $(BIN)/python ]; then $(BIN)/python run_all.py local stop; fi
	@rm -rf .venv .bench .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Reelbook needs Python 3.11 or newer: say make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing the packages of requirements.txt into .venv/ (once: about a minute, 1.8 GB) ..."
	@$(PYTHON) -m venv --clear .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.txt > .venv/uv.txt
	@$(PIP) -r .venv/uv.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.txt || \
	  { echo "uv cannot (it said why); pip may, by its own settings ..."; $(PIP) -r requirements.txt; }
	@$(BIN)/python -c "import os, pathlib, site; pathlib.Path(site.getsitepackages()[0], 'reelbook.pth').write_text(os.getcwd() + '\n')"
	@touch $@
