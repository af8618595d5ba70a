# Everything a newcomer or CI runs. Needs python3 (3.11 or newer) with venv and pip.

PYTHON ?= python3
# Test workers: two is what CI has. Each one loads JAX, so more need more memory.
JOBS ?= 2

BIN := .venv/bin
STAMP := .venv/.installed
OLDEST := .venv-oldest
OLDEST_STAMP := $(OLDEST)/.installed
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed
PYTEST := -m pytest -n $(JOBS)

SHELL := bash
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# $(call install,VENV,PIP-ARGUMENTS). One dot for each package that pip comes to; what
# it says goes into a log, whose end is shown if the installation fails.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "vernal needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Making $(1) with $$($(PYTHON) --version); this takes a minute or two."
	@$(PYTHON) -m venv $(1)
	@set -o pipefail; \
	  $(1)/bin/python -m pip install --progress-bar off $(2) 2>&1 \
	  | tee $(1)/install.log \
	  | while read -r word _; do \
	      case $$word in Collecting|Processing) printf .;; esac; \
	    done || { echo; tail -n 30 $(1)/install.log; exit 1; }
	@touch $(1)/.installed
	@echo " $(1) is ready."
endef

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-oldest doctest bench bench-quick faults format \
        format-check lint types check clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## Make .venv with vernal and its tools, if pyproject.toml changed

$(STAMP): pyproject.toml
	$(call install,.venv,--editable '.[dev]')

demo: setup  ## Train a small stateful network on handwritten digits
	@$(BIN)/python examples/digits.py

test: setup  ## Run the tests
	@$(BIN)/python $(PYTEST) tests

$(BENCH_STAMP): pyproject.toml
	$(call install,$(BENCH),--editable '.[bench]')

bench: $(BENCH_STAMP)  ## Compare the speed with plain JAX and other libraries
	@$(BENCH)/bin/python benchmarks/run.py --write --json benchmarks/out/results.json

bench-quick: $(BENCH_STAMP)  ## The same in two minutes, and less exactly
	@$(BENCH)/bin/python benchmarks/run.py --quick

faults: setup  ## Do the same stateful tasks in the libraries that are installed
	@$(BIN)/python benchmarks/state_faults.py

doctest: setup  ## Run the examples in docstrings and in the README
	@$(BIN)/python $(PYTEST) --doctest-modules vernal tests/test_readme.py

format: setup  ## Rewrite the code in the house style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --select I .

format-check: setup
	@$(BIN)/ruff format --check .

lint: setup  ## Look for mistakes with ruff
	@$(BIN)/ruff check .

types: setup  ## Check the types with mypy
	@$(BIN)/mypy

# One pytest run, and last, so that its closing line is the last line of all.
check: format-check lint types  ## All of it: format, lint, types, tests, doc examples
	@$(BIN)/python $(PYTEST) --doctest-modules tests vernal

$(OLDEST_STAMP): pyproject.toml tests/oldest.txt
	$(call install,$(OLDEST),--constraint tests/oldest.txt --editable '.[test]')

test-oldest: $(OLDEST_STAMP)  ## Run the same tests on the oldest supported JAX
	@$(OLDEST)/bin/python $(PYTEST) tests

clean:  ## Remove what the other targets made
	@rm -rf .venv .venv-oldest .venv-bench .hypothesis .mypy_cache .pytest_cache .ruff_cache \
	  build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
