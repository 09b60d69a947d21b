# `make frontier` and `make test` set up everything they need in .venv and may be run again at will.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: frontier test suite chaos check style types clean

frontier: $(READY)
	$(BIN)/python -m harness.run sweeps/frontier.yaml

# Types are checked beside the tests, which leave processors idle while they wait.
#
# Tests of one file stay together, because they share what their fixtures have made. Files run in
# the order of their names: the last ones, of models/, are short, so that no worker waits for long.
WORKERS ?= 2

test: style
	+$(MAKE) --jobs 2 types suite

suite: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests

# Kills, full disks, lost machines and damaged files, for long: run nightly.
chaos: $(READY)
	FRONTIER_CHAOS=1 $(BIN)/python -m pytest tests/chaos -s
	FRONTIER_HOSTILE_S=1800 FRONTIER_HOSTILE_SEED=$$(date +%s) $(BIN)/python -m pytest tests/harness/hostile -s

check: style types

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --pythonpath $(BIN)/python

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info
