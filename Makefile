# Every target makes its own virtual environment and installs what it needs, once.
#
#   make test PYTHON=python3.11 DJANGO='django==5.2.*'
#
# PYTHON       the interpreter (default: the newest of $(PYTHONS) that really runs)
# DJANGO       a requirement that pins Django (default: what pyproject.toml says)
# VENV         where the environment lives (default: .venv, or one of its own where PYTHON or DJANGO is given)
# PORT         where the demo and the recipes serve
# NAME         the recipe that `make recipe` serves, as in NAME=notifications
# PYTEST_ARGS  added to pytest's command line, as in PYTEST_ARGS='-k presence'
# INSTALLER    the command that installs packages into the environment (default: its pip)
# PARALLEL     how the tests are spread over processes (PARALLEL= for one process)

PYTHONS ?= 3.14 3.13 3.12 3.11
PORT ?= 8000
export PORT

slug = $(shell printf '%s' '$(1)' | sed 's/[^A-Za-z0-9.]//g; s/\.*$$//')
VENV ?= .venv$(if $(PYTHON),-$(call slug,$(notdir $(PYTHON))))$(if $(DJANGO),-$(call slug,$(DJANGO)))
BIN := $(VENV)/bin
INSTALLER ?= $(BIN)/python -m pip install --disable-pip-version-check
CLIENT := cookbook/client/datastar.js
OLDEST_CLIENT := cookbook/client/datastar-1.0.1.js

# The fixtures of a file are made once, so a file's tests stay together. tests/harness/selection.py says how many
# processes there are, and which files they begin with.
PARALLEL ?= -n auto --dist loadfile --no-loadscope-reorder

# A pyenv shim for a version that is not active exits non-zero, and Debian ships Pythons without ensurepip:
# only an interpreter that can make an environment counts.
define find_python
for candidate in $(PYTHON) $(if $(PYTHON),,$(foreach v,$(PYTHONS),python$(v) $(HOME)/.pyenv/versions/$(v).*/bin/python$(v)) python3); do \
    if "$$candidate" -c 'import ensurepip, sqlite3, ssl, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
        found=$$(command -v "$$candidate"); break; \
    fi; \
done; \
if [ -z "$$found" ]; then \
    echo "No Python 3.11 or newer with venv and ensurepip runs here$(if $(PYTHON), as $(PYTHON)). Install one, or name one: make PYTHON=/path/to/python3" >&2; \
    exit 1; \
fi
endef

.DEFAULT_GOAL := help
.PHONY: help demo recipe test test-fast lint format chaos attack bench bench-100k bench-docs docs docs-code clean python

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@sed -n '/^# [A-Z]/ s/^# /  /p' $(MAKEFILE_LIST) | grep -E '^  [A-Z_]+ {2,}'

demo: $(VENV)/.has-demo $(CLIENT) ## Serve the live room on http://localhost:8000 (PORT=... for another port)
	@exec $(BIN)/python cookbook/room/manage.py demo

recipe: $(VENV)/.has-demo $(CLIENT) ## Serve one recipe of the cookbook on http://localhost:8000 (NAME=...)
	@exec $(BIN)/python cookbook/serve.py $(or $(NAME),--help) $(if $(NAME),--port $(PORT))

test: $(VENV)/.has-test $(CLIENT) $(OLDEST_CLIENT) ## Run the tests
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-fast: $(VENV)/.has-test ## Run the tests that start no server, browser or broker
	EXAMPLES=$(or $(EXAMPLES),0.25) $(BIN)/python -m pytest $(PARALLEL) -m 'not (servers or browser or brokers or slow)' $(PYTEST_ARGS)

lint: $(VENV)/.has-dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.has-dev ## Put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

chaos: $(VENV)/.has-test ## Run two workers at length while their broker, connections and tabs come and go
	FULL_CHAOS=1 $(BIN)/python -m pytest -s tests/brokers/test_chaos.py $(PYTEST_ARGS)

attack: $(VENV)/.has-test ## Attack the package at length: forged input, tokens, races, floods
	FULL_ATTACK=1 EXAMPLES=$(or $(EXAMPLES),10) $(BIN)/python -m pytest tests/attack $(PYTEST_ARGS)

bench: $(VENV)/.has-bench ## Measure against other libraries
	missed=0; $(BIN)/python -m benchmarks.save || missed=$$?; $(BIN)/python -m benchmarks --install $(BENCH_ARGS) || missed=$$?; exit $$missed

bench-docs: $(VENV)/.has-bench ## Put the figures and plots of a run of `make bench` on their page (RUN=... for another file)
	$(BIN)/python -m benchmarks.page $(RUN)

bench-100k: $(VENV)/.has-bench ## Measure 100,000 streams on this machine
	$(BIN)/python -m benchmarks.hundred_thousand $(BENCH_ARGS)

docs: $(VENV)/.has-docs ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-code: $(BIN)/python ## Copy the code that the cookbook's pages show from its files
	$(BIN)/python cookbook/show_code.py

clean: ## Remove environments, caches and everything built or fetched
	rm -rf .venv .venv-* build dist site htmlcov .coverage *.egg-info cookbook/client
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f cookbook/room/*.sqlite3 cookbook/room/*.sqlite3-*
	find ds_broadcaster tests cookbook benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

python:
	@$(find_python); echo "$$found"

$(BIN)/python:
	@$(find_python); echo "Making $(VENV) with $$($$found --version)"; "$$found" -m venv $(VENV)

$(VENV)/.has-demo: EXTRAS = uvicorn
$(VENV)/.has-test: EXTRAS = test
$(VENV)/.has-dev: EXTRAS = dev
$(VENV)/.has-bench: EXTRAS = bench
$(VENV)/.has-docs: EXTRAS = docs
$(VENV)/.has-ci: EXTRAS = test,dev
$(VENV)/.has-%: pyproject.toml | $(BIN)/python
	@echo "Installing ds-broadcaster[$(EXTRAS)] into $(VENV)"
	@$(INSTALLER) --quiet --editable '.[$(EXTRAS)]' $(if $(DJANGO),'$(DJANGO)')
	@touch $@ $(if $(filter ci,$*),$(VENV)/.has-test $(VENV)/.has-dev)

# Ends well without a network too: the demo then takes the client from its CDN.
$(CLIENT) $(OLDEST_CLIENT): cookbook/fetch_client.py | $(BIN)/python
	@$(BIN)/python cookbook/fetch_client.py $(@F)
