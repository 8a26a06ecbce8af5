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
EDGE_SOURCES := $(wildcard cluster_app/edge/src/*.rs) cluster_app/edge/build.rs \
    cluster_app/edge/Cargo.toml $(wildcard proto/*.proto)
export CARGO_TARGET_DIR ?= $(CURDIR)/build/rust
MUTATION := $(VENV)/.mutation-installed
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14)
ARGS ?=

.PHONY: help setup setup-dev down-dev run-leader run-follower run-learner run-archiver run-admin \
    run-user test test-browser setup-browser setup-peers check format proto bench bench-throughput \
    bench-latency bench-growth bench-recovery bench-history bench-ghz bench-admin bench-pages \
    bench-compare figures mutation simulate fuzz campaign overload clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV) ## Create .venv with the program and the developers' tools

setup-dev: $(DEV) ## Start Kafka and PostgreSQL for development on loopback
	@exec $(RUN) tests.dev_services up

down-dev: $(DEV) ## Stop what setup-dev started; the data stay
	@exec $(RUN) tests.dev_services down

run-leader: $(RUNTIME) ## Run a leader; takes RINGLEDGER_* variables and ARGS="--flag value"
	@exec $(RUN) cluster_app leader $(ARGS)

run-follower: $(RUNTIME) ## Run a follower, which answers queries; variables as above
	@exec $(RUN) cluster_app follower $(ARGS)

run-learner: $(RUNTIME) ## Run a learner, which writes the snapshots; variables as above
	@exec $(RUN) cluster_app learner $(ARGS)

run-admin: $(RUNTIME) ## Run the admin app, the REST API; variables as above
	@exec $(RUN) client_app admin $(ARGS)

run-user: $(RUNTIME) ## Run the user app, people's own accounts; variables as above
	@exec $(RUN) client_app user $(ARGS)

run-archiver: $(RUNTIME) ## Run an archiver, which keeps the history; variables as above
	@exec $(RUN) cluster_app archiver $(ARGS)

test: $(DEV) $(if $(CI),setup-browser setup-peers) ## Run the tests; ARGS="-k name" picks some, "-n 0" one at a time
	$(RUN) pytest -n 2 --dist loadscope $(ARGS)

test-browser: $(DEV) setup-browser ## Test the pages in a real Chromium; pictures in build/pages
	CI=true $(RUN) pytest tests/browsing $(ARGS)

setup-browser: ## Install Debian's Chromium, which test-browser needs, if there is none
	@command -v chromium chromium-browser google-chrome > /dev/null || { \
	    apt-get update --quiet=2 && \
	    apt-get install --quiet=2 --yes --no-install-recommends chromium fonts-dejavu-core; }

setup-peers: ## Install Debian's Redis, a peer of the benchmarks, if there is none
	@command -v redis-server valkey-server > /dev/null || { \
	    apt-get update --quiet=2 && \
	    apt-get install --quiet=2 --yes --no-install-recommends redis-server; }

check: $(DEV) ## Check style, types, imports and contracts; changes nothing
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(VENV)/bin/lint-imports --no-logo
	.ci/proto-check
	.ci/rust-check

format: $(DEV) ## Format the code and apply safe fixes
	$(RUN) ruff check --fix --exit-zero --quiet
	$(RUN) ruff format

proto: $(DEV) ## Generate proto/*_pb2* from proto/*.proto
	$(RUN) grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. proto/*.proto

# Each writes build/bench-NAME.json; ARGS="--scale 0.01" to try one, "--only NAME" for some rows.
BENCHES := throughput latency growth recovery history ghz admin

bench: $(DEV) ## Measure all but the pages, under half an hour on two cores; then `make figures`
	@failed=; for name in $(BENCHES); do \
	    $(RUN) tests.bench_$$name $(ARGS) || failed="$$failed $$name"; \
	done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

bench-throughput: $(DEV) ## Transfers/s by batch size and journal, beside PostgreSQL and other peers
	@exec $(RUN) tests.bench_throughput $(ARGS)

bench-latency: $(DEV) ## Latency by offered rate, open loop, to the point where it breaks
	@exec $(RUN) tests.bench_latency $(ARGS)

bench-growth: $(DEV) ## 10 thousand to 10 million accounts, 1 to 4 followers
	@exec $(RUN) tests.bench_growth $(ARGS)

bench-recovery: $(DEV) ## Snapshots, restarts, replay, failover
	@exec $(RUN) tests.bench_recovery $(ARGS)

bench-history: $(DEV) ## The archiver and its questions
	@exec $(RUN) tests.bench_history $(ARGS)

bench-ghz: $(DEV) ## Both edges, by ghz and a load client in Rust
	@exec $(RUN) tests.bench_ghz $(ARGS)

bench-admin: $(DEV) ## The REST API, by autocannon (npx), and the client library
	@exec $(RUN) tests.bench_admin $(ARGS)

bench-pages: $(DEV) ## The pages: first paint, load under open pages, ten minutes of memory
	@exec $(RUN) tests.bench_pages $(ARGS)

bench-compare: $(DEV) ## Faster or slower than BASE=commit, or noise? (the committed figures' one)
	@exec $(RUN) tests.bench_compare $(if $(BASE),--base $(BASE)) $(ARGS)

figures: $(DEV) ## Take build/bench-*.json; draw the plots, write BENCHMARK.md's tables anew
	@exec $(RUN) tests.figures $(ARGS)

MINUTES ?= 3
SECONDS ?= 60

campaign: $(DEV) ## Faults for MINUTES=n on real brokers, nodes and clients; nothing may be lost
	@exec $(RUN) tests.campaign --minutes $(MINUTES) $(ARGS)

overload: $(DEV) ## Offer ten times what is served for SECONDS=n, to the leader and the admin app
	@exec $(RUN) tests.campaign.overload --seconds $(SECONDS) $(ARGS)

simulate: $(DEV) ## Simulate failures of a cluster; SEED=n, COUNT=m, ARGS=--trace
	@exec $(RUN) tests.simulation --seed $(or $(SEED),1) --count $(or $(COUNT),1) $(ARGS)

fuzz: $(DEV) ## Hostile bytes to the packed decoder and the journal reader; ARGS="--cases 1000000"
	@exec $(RUN) tests.fuzz $(ARGS)

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
# It builds the native edge where cargo is (minutes, the first time), and does without it elsewhere.
# Its warning that this folder is importable as well is no news: that is how everything runs here.
$(RUNTIME): pyproject.toml constraints.txt $(EDGE_SOURCES) | $(VENV)/bin/python
	@echo "Installing what the program needs into $(VENV)"
	@$(PIP_INSTALL) pip setuptools setuptools-rust
	@PYTHONWARNINGS=ignore $(PIP_INSTALL) --no-build-isolation --editable '.[kafka,postgres,apps]'
	@touch $@

$(DEV): pyproject.toml constraints.txt $(RUNTIME)
	@echo "Installing the developers' tools into $(VENV)"
	@$(PIP_INSTALL) --group dev
	@touch $@

$(MUTATION): pyproject.toml constraints.txt $(DEV)
	@echo "Installing what mutation testing needs into $(VENV)"
	@$(PIP_INSTALL) --group mutation
	@touch $@
