# Everything happens in .venv; nothing is installed outside the checkout except, where apt may be used, the two
# system libraries that OpenCV needs. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

# One stamp per set of packages: a second `make` installs nothing.
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
MODELS := $(VENV)/.models
ALL := $(VENV)/.all
SOURCES := pyproject.toml constraints.txt

# What the tests execute is measured in CI always, else on demand (make test COVERAGE=1).
COVERAGE ?= $(filter true,$(CI))
MEASURED = $(if $(COVERAGE),--cov --cov-report= $(if $(PYTEST),,--coverage-floors))

# Options for `make test`, such as PYTEST="-k storage" or PYTEST="--run-slow".
PYTEST ?=
# Many tests wait, for a scheduler or a server: one more at work than there are processors.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
# Options for `make demo`, `make bench` and `make ui`.
ARGS ?=

.PHONY: help install install-dev install-models install-all demo test check format ui bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: .env ## the core environment in .venv, .env and the folders that it names

install-dev: $(DEV) .env ## the core and what tests and checks need

install-models: $(MODELS) .env ## the core and the neural backends (torch, gigabytes)

install-all: $(ALL) .env ## every extra together

demo: install ## make the demo plate, run it from raw files to the final table, print a summary
	@$(BIN)/morphseq demo $(ARGS)

test: install-dev ## run the test suite
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(MEASURED) $(PYTEST)

check: install-dev ## lint, format, types, import contracts, dead code, spelling, definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/dead_code.py
	$(BIN)/codespell morphseq_dagster tests docs scripts benchmarks Makefile pyproject.toml $(wildcard *.md)
	$(BIN)/dagster definitions validate -w workspace.yaml
	@# dg looks for the word on telemetry in the home that is exported, before it reads .env.
	$(BIN)/dotenv run -- $(BIN)/dg check defs

format: install-dev ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: install ## the web page, with its daemon
	$(BIN)/dagster dev -w workspace.yaml $(ARGS)

bench: install-dev ## the measurements that the issues' limits speak of
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove the environment and the tools' leavings; data, .env and DAGSTER_HOME stay
	rm -rf $(VENV) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .coverage*
	rm -rf .tmp_dagster_home_*
	find morphseq_dagster tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An interrupted installation leaves no stamp and is done again; pip keeps what is already there.
$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is wanted; name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)

$(CORE): $(SOURCES) | $(VENV)/bin/python
	@echo "Installing the core environment"
	@$(PIP) -e .
	@scripts/system_libraries.sh libgl1 libglib2.0-0 -- $(BIN)/python -c "import cv2"
	@touch $@

$(DEV): $(CORE)
	@echo "Installing what tests and checks need"
	@$(PIP) -e '.[dev]'
	@touch $@

# sam2's build imports torch, and a build in isolation would fetch a second, newer one: torch goes first and the
# build sees it. Without SAM2_BUILD_CUDA=0 it would compile an extension that nothing here calls.
$(VENV)/.torch: $(CORE)
	@$(PIP) torch setuptools wheel
	@touch $@

$(MODELS): $(VENV)/.torch
	@echo "Installing the neural backends"
	@SAM2_BUILD_CUDA=0 $(PIP) --no-build-isolation -e '.[models]'
	@touch $@

$(ALL): $(VENV)/.torch
	@echo "Installing every extra"
	@SAM2_BUILD_CUDA=0 $(PIP) --no-build-isolation -e '.[all]'
	@touch $@ $(DEV) $(MODELS)

# Cheap, so run every time: folders that somebody removed come back.
.PHONY: .env
.env: $(CORE)
	@$(BIN)/python scripts/environment.py
