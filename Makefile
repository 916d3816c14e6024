# Needs Python 3.11 or later, git and make. `make PYTHON=python3.13 …` chooses the interpreter,
# `make VENV=elsewhere …` the virtual environment, `make test ARGS='-k sleep'` what pytest gets.

VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
export VENV

ifeq ($(origin PYTHON),undefined)
PYTHON := $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))) python3)
endif

.DEFAULT_GOAL := help
.PHONY: help demo test e2e test-all format lint types bench bench-cold venv venv-dev clean

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: venv ## run the example of the README
	@$(BIN)/python examples/create_site.py

test: venv-dev ## check everything: format, lint, import rules, types, tests
	@scripts/check $(ARGS)

e2e: venv-dev ## build and deploy with SAM to an AWS emulator on this machine, and run workflows there
	@scripts/e2e $(ARGS)

test-all: ## run the tests on Python 3.11, 3.12 and 3.13, those that are here
	@scripts/test-all $(ARGS)

format: venv-dev ## put the code into shape
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lint: venv-dev ## format, lint and import rules only
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo

types: venv-dev ## types only
	@$(BIN)/mypy

bench-cold: venv-dev ## measure the import time and memory of the functions
	@$(BIN)/python benchmarks/cold_start.py

bench: venv ## measure the engine on SQLite
	@$(BIN)/python benchmarks/run.py $(ARGS)

venv:
	@$(PYTHON) scripts/venv.py $(VENV)

venv-dev:
	@$(PYTHON) scripts/venv.py $(VENV) dev

clean: ## remove what the commands above made
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
