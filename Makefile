# Every target creates what it needs, so each works as the very first command on a fresh clone.
# Variables: PYTHON (the interpreter for .venv), ARGS (appended to the program's arguments).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin/python -m
PIP_INSTALL := $(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
MUTATION := $(VENV)/.mutation-installed
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14)
ARGS ?=

.PHONY: help setup setup-dev down-dev run-leader run-learner test check format proto bench \
    bench-kafka mutation clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV) ## Create .venv with the program and the developers' tools

setup-dev: $(DEV) ## Start Kafka and PostgreSQL for development on loopback
	@exec $(RUN) tests.dev_services up

down-dev: $(DEV) ## Stop what setup-dev started; the data stay
	@exec $(RUN) tests.dev_services down

run-leader: $(RUNTIME) ## Run a leader; takes RINGLEDGER_* variables and ARGS="--flag value"
	@exec $(RUN) cluster_app leader $(ARGS)

run-learner: $(RUNTIME) ## Run a learner, which writes the snapshots; variables as above
	@exec $(RUN) cluster_app learner $(ARGS)

test: $(DEV) ## Run the tests; ARGS="-k name" picks some
	$(RUN) pytest $(ARGS)

check: $(DEV) ## Check style, types, imports and contracts; changes nothing
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(VENV)/bin/lint-imports --no-logo
	.ci/proto-check

format: $(DEV) ## Format the code and apply safe fixes
	$(RUN) ruff check --fix --exit-zero --quiet
	$(RUN) ruff format

proto: $(DEV) ## Generate proto/*_pb2* from proto/*.proto
	$(RUN) grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. proto/*.proto

bench: $(RUNTIME) ## Measure a leader, print the table, write it under build/
	@exec $(RUN) client_app.bench_suite $(ARGS)

bench-kafka: $(DEV) ## Measure on Kafka journals, beside SQLite and PostgreSQL
	@exec $(RUN) tests.bench_durability $(ARGS)

# Minutes of work that says how good the tests are, not whether the program is: no part of CI.
mutation: $(MUTATION) ## Change the kernel place by place: do the tests notice?
	@NUMBA_DISABLE_JIT=1 $(RUN) tests.mutation $(ARGS)

clean: ## Remove build/ and caches; keeps .venv and data/
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The oldest supported Python comes first: it is the one that the pinned versions are tested with.
$(VENV)/bin/python:
	@for candidate in $(CANDIDATES); do \
	    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Creating $(VENV) with $$($$candidate --version)"; \
	        $$candidate -m venv --clear $(VENV) && exit 0; \
	        rm -rf $(VENV); \
	        echo "error: '$$candidate -m venv' failed: install its venv module" >&2; \
	        echo "       (Debian: apt-get install python3-venv) and run make again" >&2; \
	        exit 1; \
	    fi; \
	done; \
	echo "error: Python 3.11 or newer is needed, and none of these is: $(CANDIDATES)" >&2; \
	echo "       install one, or name one: make PYTHON=/path/to/python ..." >&2; \
	exit 1

# setuptools goes in first: building without isolation makes the pinned one build the program.
# Its warning that this folder is importable as well is no news: that is how everything runs here.
$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing what the program needs into $(VENV)"
	@$(PIP_INSTALL) pip setuptools
	@PYTHONWARNINGS=ignore $(PIP_INSTALL) --no-build-isolation --editable '.[kafka,postgres]'
	@touch $@

$(DEV): pyproject.toml constraints.txt $(RUNTIME)
	@echo "Installing the developers' tools into $(VENV)"
	@$(PIP_INSTALL) --group dev
	@touch $@

$(MUTATION): pyproject.toml constraints.txt $(DEV)
	@echo "Installing what mutation testing needs into $(VENV)"
	@$(PIP_INSTALL) --group mutation
	@touch $@
