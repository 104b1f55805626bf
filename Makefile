.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= 1
USERS ?= 50
TIME ?= 60s
RECIPIENTS ?= 3000
CYCLES ?= 100
JOBS ?= 2
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

test: install check ## Check the code, then run every test; JOBS=2 at a time
	$(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist loadfile

check: install ## Lint, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## Measure speed beside nginx and others (needs wrk, nginx, h2load); RUNS=3 for medians of three
	$(BIN)/python -m loadtests.bench --runs $(RUNS)

load: install ## Recipients as they behave, on a running server; USERS=50 TIME=60s RECIPIENTS=3000 HOST=http://127.0.0.1:8080
	$(BIN)/python -m locust --locustfile loadtests/locustfile.py --headless --only-summary --loglevel WARNING \
	  --users $(USERS) --spawn-rate $(USERS) --run-time $(TIME) --recipients $(RECIPIENTS) \
	  $(if $(HOST),--host $(HOST)) $(if $(SEED),--seed $(SEED)) $(if $(REMOTE),--allow-remote)

faults: install ## Break things under load and count hits; CYCLES=100 OF=kills
	$(BIN)/python -m tests.faults.campaign --cycles $(CYCLES) $(if $(OF),--of $(OF))

pictures: install ## Take the README's picture of the pages anew (needs Chromium)
	$(BIN)/python -m tests.browser.pictures docs/images

lock: ## Renew both lock files (needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-annotate --no-header pyproject.toml -o requirements.lock
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-annotate --no-header --group dev pyproject.toml -o requirements-dev.lock

.PHONY: help run install test check bench load faults pictures lock
