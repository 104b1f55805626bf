.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement

help: ## List what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/runs: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) requirements.lock
	@touch $@

$(VENV)/develops: requirements-dev.lock $(VENV)/runs
	$(PIP) requirements-dev.lock
	@touch $@

run: $(VENV)/runs ## Install, start everything on this machine, play the demo at the first start
	@exec $(BIN)/python -m app up --demo

install: $(VENV)/develops ## Install everything from the lock into .venv

test: install check ## Check the code, then run every test
	$(BIN)/python -m pytest -q

check: install ## Lint, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: ## Renew both lock files (needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-annotate --no-header pyproject.toml -o requirements.lock
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-annotate --no-header --group dev pyproject.toml -o requirements-dev.lock

.PHONY: help run install test check lock
