# Each target is enough alone on a fresh clone: it needs Python 3.11 to 3.13, make and a package index.
#
#   make test PYTHON=python3.12     choose the interpreter (only when .venv does not exist yet)
#   make test ARGS="-k stft"        pass arguments on to pytest
#   make demo ARGS="--seed 1"       or to the demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PLAIN := build/plain
ARGS ?=

.PHONY: help install demo test lint notebooks notebooks-write bench lock clean

help:
	@echo "make demo | test | lint | notebooks | notebooks-write | bench | lock | clean"

install: $(INSTALLED)

# The lock brings setuptools, so the project itself is built without another download.
$(INSTALLED): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("bayessep needs Python 3.11 to 3.13 and %s is %d.%d; name another one: make PYTHON=python3.12 ..." % (sys.executable, *v))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(INSTALLED)
	$(BIN)/bayessep demo -o demo $(ARGS)

# One process a core (a hyper-thread counts), but no more than memory allows on a large machine.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

# setuptools copies what it finds in build/lib into the install, stale files too: start from nothing.
lint: $(INSTALLED)
	$(BIN)/ruff check .
	rm -rf build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(PLAIN) .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

notebooks: $(INSTALLED)
	$(BIN)/python notebooks/execute.py --check

notebooks-write: $(INSTALLED)
	$(BIN)/python notebooks/execute.py

bench: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks $(ARGS)

# One lock for every supported Python: versions that differ carry an environment marker. Existing pins are kept;
# ARGS=--upgrade takes the newest of everything.
lock: $(INSTALLED)
	$(BIN)/uv pip compile pyproject.toml --extra dev --output-file requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
		--no-header --quiet $(ARGS)

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .ruff_cache .hypothesis
	find bayessep models inference tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
