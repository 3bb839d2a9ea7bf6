# `make` alone lists the targets. Each sets itself up: all it takes is Python 3.11 or later, or uv.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Of the versions around it, the first in which Delta's log can be listed; npm picks an older one by itself.
AZURITE_VERSION := 3.37.0
AZURITE := .cache/azurite/.ready-$(AZURITE_VERSION)
CLUSTER_READY := $(VENV)/.cluster-ready
BENCH_VENV := bench/.cache/peers-venv
BENCH_READY := $(BENCH_VENV)/.ready

# `make demo ARGS="--hours 6"` hands options on to a command.
ARGS ?=
# `make test TEST_ARGS="-k delete"` hands options on to pytest.
TEST_ARGS ?=
# The Python to set up with; without it the first that is new enough.
PYTHON ?=

# Two processes more than cores, since many tests wait for servers; on a large machine more than eight only wait for
# one another. Tests that share a server stay in one.
PYTEST := $(BIN)/pytest -n $$(( $$(getconf _NPROCESSORS_ONLN) + 2 )) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# Where it is set, as in many containers, each of the tests' processes would compile Dagster and the tests anew.
unexport PYTHONDONTWRITEBYTECODE
# Of what Dagster's commands would tell its makers, nothing leaves this machine.
export DAGSTER_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help demo dev test test-deep azurite spark cluster bench bench-full check format lint types definitions docs docs-check notebooks screenshots clean clean-demo
.NOTPARALLEL: # the tests come last in `check`, so that their result is the last thing to be read

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## Bring a day of a made-up DICOM service into Delta tables, and query them
	@$(BIN)/dicom-assets demo $(ARGS)

dev: $(READY) ## Run a made-up DICOM service that keeps changing, and Dagster on it, until Ctrl-C
	@$(BIN)/dicom-assets dev $(ARGS)

test: $(READY) azurite spark ## Run all tests but the deep ones
	@$(PYTEST) $(TEST_ARGS)

test-deep: $(READY) azurite spark cluster ## Run the deep tests too: thousands of examples of the law (minutes)
	@$(PYTEST) -m "deep or not deep" $(TEST_ARGS)

azurite: ## Fetch the storage emulator that some tests need, with npm; without it they are skipped
	@test -e $(AZURITE) || { \
		echo "Fetching Azurite $(AZURITE_VERSION) into .cache/azurite (once, a minute) …"; \
		rm -rf .cache/azurite && mkdir -p .cache/azurite && \
		npm install --prefix .cache/azurite --no-save --no-audit --no-fund --omit=dev --loglevel=error \
			azurite@$(AZURITE_VERSION) > .cache/azurite/npm.log 2>&1 && touch $(AZURITE); \
	} || echo "make: no Azurite, see .cache/azurite/npm.log (is npm missing, or its registry?). Its tests are skipped." >&2

spark: $(READY) ## Fetch Apache Spark 4.2 and 3.5 with Delta, for Java 17 or 21; without it the tests that need it are skipped
	@if command -v java > /dev/null; then $(BIN)/python -m dicom_assets_tests.spark.fetch; \
		else echo "There is no java." >&2; false; fi || echo "make: no Apache Spark. Its tests are skipped." >&2

cluster: $(CLUSTER_READY) ## Install what a cluster of this machine takes, beside Postgres and Redis, for the deep tests

bench: $(BENCH_READY) ## Measure small hours, this project beside others (five minutes)
	@$(BIN)/python -m bench.run --changes 5000 $(ARGS)
	@$(BIN)/python -m bench.growth --rows 100000 500000 --scattered --changes 5000 --rounds 1
	@$(BIN)/python -m bench.month --days 2 --changes-per-hour 200
	@$(BIN)/python -m bench.deep --depths 10000 50000
	@$(BIN)/python -m bench.headers

bench-full: $(BENCH_READY) $(CLUSTER_READY) ## Measure everything, and write docs/benchmarks.md and docs/capacity.md (three hours)
	@$(BIN)/python -m bench.run --rounds 5 --publish
	@$(BIN)/python -m bench.orchestration --publish
	@$(BIN)/python -m bench.growth --rows 100000 1000000 5000000 20000000 --scattered 100000 1000000 5000000 --publish
	@$(BIN)/python -m bench.engines --rows 100000 1000000 5000000 20000000 --scattered 100000 1000000 5000000 --publish
	@$(BIN)/python -m bench.capacity --rows 100000 1000000 5000000 20000000 --publish
	@$(BIN)/python -m bench.month --publish
	@$(BIN)/python -m bench.year --publish
	@$(BIN)/python -m bench.deep --publish
	@$(BIN)/python -m bench.million --publish
	@$(BIN)/python -m bench.headers --publish
	@$(BIN)/python -m bench.fan_out --kill --publish
	@$(BIN)/python -m bench.report

# Tests check the definitions and the docs as `make definitions` and `make docs-check` do.
check: lint types azurite spark ## Do what CI does: format, lint, types, and all tests but the deep ones, with coverage
	@$(PYTEST) --cov --cov-report=term $(TEST_ARGS)
	@# Two gates, silent when they hold, so that the tests' own result stays the last line.
	@$(BIN)/coverage report --include='dicom_assets/core/*' --fail-under=100 > $(VENV)/core.txt || \
		{ cat $(VENV)/core.txt; echo "make check: the core's coverage, branches included, must be 100 %."; exit 1; }
	@$(BIN)/coverage report --omit='dicom_assets/core/*' --fail-under=90 > $(VENV)/rest.txt || \
		{ cat $(VENV)/rest.txt; echo "make check: coverage outside the core must be 90 % or more."; exit 1; }

format: $(READY) ## Format the code and mend what the linter can
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format .

lint: $(READY) ## Check format and style
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(READY) ## Check types
	@$(BIN)/mypy

definitions: $(READY) ## Let Dagster check the definitions
	@$(BIN)/dg check defs
	@PYTHONWARNINGS='ignore:Function `definitions_validate_command`' $(BIN)/dagster definitions validate --workspace workspace.yaml

docs: $(READY) ## Write the generated parts of the README and docs/
	@$(BIN)/python docs/generate.py

docs-check: $(READY) ## Check that the generated parts are fresh
	@$(BIN)/python docs/generate.py --check

notebooks: $(READY) ## Run the notebooks in examples/ on a made-up lakehouse, and save them with their pictures
	@$(BIN)/python -m examples.run

screenshots: $(READY) ## Take the pictures of Dagster's UI in docs/images anew (needs Chromium)
	@REQUIRE_BROWSER=1 $(BIN)/pytest dicom_assets_tests/ui
	@cp dicom_assets_tests/ui/.screenshots/asset-graph.png dicom_assets_tests/ui/.screenshots/failed-check.png docs/images

clean-demo: ## Delete what `make demo` and `make dev` keep: in ./data, and Dagster's history in ./.dagster
	@rm -rf data/service data/dicom data/dev data/lakehouse .dagster

clean: ## Delete the environment and all caches, not the demo
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage* .tmp_dagster_home_* dist .cache bench/.cache \
		dicom_assets_tests/ui/.screenshots

# Of others' tools nothing is in the project's own environment.
$(BENCH_READY): bench/peers/requirements.txt | $(READY)
	@echo "Setting up bench/.cache/peers-venv (once, a minute) …"
	@if command -v uv > /dev/null 2>&1; then \
		uv venv --quiet --clear --python $(BIN)/python $(BENCH_VENV) && \
		uv pip install --quiet --python $(BENCH_VENV)/bin/python --requirement $< && \
		uv pip install --quiet --python $(BIN)/python --editable '.[bench]'; \
	else \
		$(BIN)/python -m venv --clear $(BENCH_VENV) && \
		$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $< && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'; \
	fi
	@touch $@

# Of these nothing is needed on each change.
$(CLUSTER_READY): $(READY)
	@if command -v uv > /dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --editable '.[celery,cluster]'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[celery,cluster]'; \
	fi
	@touch $@

# Done again when pyproject.toml changes. A setup that is interrupted starts over. Without uv, pip fetches it, since that
# is ten times as fast as pip; where uv cannot do it (it does not read pip's configuration), pip does it itself.
$(READY): pyproject.toml
	@if command -v uv > /dev/null 2>&1; then \
		echo "Setting up $(VENV) with uv (once, about a minute) …"; \
		{ test -x $(BIN)/python || uv venv --quiet --python '>=3.11,<3.15' $(VENV); } && \
		uv pip install --quiet --python $(BIN)/python --editable '.[dev]'; \
	else \
		python=; \
		for candidate in $(PYTHON) python3 python3.11 python3.12 python3.13 python3.14 python; do \
			if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2> /dev/null; then \
				python=$$candidate; break; \
			fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "make: no Python 3.11 to 3.14 was found. Install one, or uv, or name it: make PYTHON=/path/to/python3.11" >&2; \
			exit 1; \
		fi; \
		echo "Setting up $(VENV) with $$($$python --version) (once, a minute or two) …"; \
		{ test -x $(BIN)/pip || $$python -m venv --clear $(VENV) || { \
			echo "make: $$python cannot make a virtual environment; on Debian and Ubuntu, install python3-venv." >&2; \
			exit 1; }; } && \
		$(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]' || \
			$(PIP) --no-compile --editable '.[dev]'; \
	fi
	@touch $@
