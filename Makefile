# Everything a newcomer, a developer and the continuous integration do; each target is one command from a fresh clone.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
# More arguments for pip, such as an index of CPU wheels: make demo PIP_EXTRA="--extra-index-url ..."
PIP_EXTRA ?=
PYTEST_ARGS ?= -n 2 --dist loadfile --max-worker-restart 0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_EXTRA)

.PHONY: demo test test-all check format clean

demo: $(VENV)/.installed  ## set up and make the first map
	$(BIN)/fluxgrid upscale --region midwest --calibration neighbourhood

test: check  ## set up and pass lint, types, layers and the fast tests
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow"

test-all: check  ## the same with the slow tests: many kills, QGIS, CDO
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "fluxgrid needs Python 3.11, 3.12 or 3.13; none was found. Say where: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV): some minutes and 2 GB, most of it torch."
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV): some minutes and 2 GB, most of it torch."
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis
