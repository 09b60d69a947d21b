# `make frontier` and `make test` set up everything they need in .venv and may be run again at will.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: frontier test chaos check clean

frontier: $(READY)
	$(BIN)/python -m harness.run sweeps/frontier.yaml

# Two processes, for two cores. A shell lets what it starts in the background ignore Ctrl-C, so tests of
# interruptions are in the other one.
BESIDE := analysis models harness/data harness/metrics harness/plugins harness/stages harness/workers

test: check
	@mkdir -p build
	@$(BIN)/python -m pytest $(addprefix tests/,$(BESIDE)) > build/tests.log 2>&1 & beside=$$!; \
	$(BIN)/python -m pytest tests $(addprefix --ignore=tests/,$(BESIDE)); here=$$?; \
	wait $$beside; there=$$?; cat build/tests.log; exit $$((here | there))

# Kills, full disks, lost machines and damaged files, for long: run nightly.
chaos: $(READY)
	FRONTIER_CHAOS=1 $(BIN)/python -m pytest tests/chaos -s

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info
