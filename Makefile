# Everything a developer or CI runs. Needs python >= 3.11 with venv, and nothing else.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.setup-done
CODE := $(wildcard tq_admin tq_client tq_cluster tq_common tq_process tq_worker demo benchmarks chaos scripts tests deploy/rolling-restart hatch_build.py)
# Processes that run the tests. One more than there are cores: many tests wait for others.
TESTERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
# The first interpreter that is new enough; PYTHON=... overrides the choice.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help setup protos api-docs demo test test-fast test-compose chaos bench regression lint format types imports proto-check lock lock-check check clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: protos ## Create .venv, install the locked dependencies and the project (a second call is instant)

protos: $(STAMP) ## Generate the package tq from proto/
	@$(PY) scripts/generate_protos.py

api-docs: setup ## Write docs/api.md and docs/python-api.md from comments in proto/ and docstrings
	$(PY) scripts/api_reference.py
	$(PY) scripts/python_reference.py

demo: setup ## Three brokers, two workers, a real trace, three killed leaders, then the proof
	$(PY) -m demo

test: setup ## Run the tests, on every core (TESTERS=0: in one process)
	$(PY) -m pytest -n $(TESTERS) --dist loadgroup $(ARGS)

test-fast: setup ## Run the tests that take no brokers and no seconds: under 90 s, after each change
	$(PY) -m pytest -n $(TESTERS) --dist loadgroup -q -m "not cluster and not slow" $(ARGS)

test-compose: setup ## Run the cluster as containers, kill one and pause one (needs a Docker engine)
	scripts/test-compose -q $(ARGS)

chaos: setup ## Break clusters in every way once, and judge what they did (8 minutes; `python -m chaos list`)
	$(PY) -m chaos run --profile ci $(ARGS)

bench: setup ## Measure the figures that the README gives
	$(PY) -m benchmarks

regression: setup ## Compare the processor time a task with the merge base's (6 minutes)
	$(PY) -m benchmarks.regression $(ARGS)

lint: setup ## Ruff: rules and formatting; words to avoid
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	$(PY) scripts/check_words.py

format: setup ## Let ruff format the code and fix what it can
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

types: setup ## Mypy, strict
	$(PY) -m mypy $(CODE)

imports: setup ## Who may import whom
	$(VENV)/bin/lint-imports

proto-check: setup ## Lint the protos and look for breaking changes
	$(PY) scripts/check_protos.py

lock: setup ## Resolve the dependencies anew into requirements-dev.lock
	$(PY) scripts/lock.py

lock-check: setup ## The lock file belongs to the dependencies in pyproject.toml
	$(PY) scripts/lock.py --check

check: lint types imports proto-check lock-check ## All that CI runs but the tests

clean: ## Remove what make created
	rm -rf $(VENV) tq dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(STAMP): requirements-dev.lock pyproject.toml hatch_build.py
	@if ! $(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "tq needs python >= 3.11; found: $$($(or $(PYTHON),python3) --version 2>&1)." >&2; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv" >&2; \
			exit 1; }; \
		echo "creating $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV) || exit 1; fi
	@echo "installing the locked dependencies"
	@scripts/install-locked $(PY) requirements-dev.lock
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
