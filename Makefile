# make demo   train a scorer, train EDSR against it, evaluate, enhance a photo      (about 6 minutes)
# make test   ruff, mypy, pytest
# make lint   ruff and mypy alone
# Each sets up .venv by itself. PYTHON=python3.12 picks the interpreter (3.11 or newer).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
RUN := $(BIN)/python run.py

.PHONY: demo test lint install clean
.DEFAULT_GOAL := install

install: .venv/installed

# The stamp is written last: an interrupted installation starts over where pip left off.
.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv was found" \
	  "(on Debian: apt-get install python3-venv); name one with make PYTHON=..."; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --progress-bar off --editable '.[dev]'
	@touch $@

SCORER := outputs/sample_nima/default/checkpoints/best.ckpt
ENHANCER := outputs/sample_edsr/scorer.checkpoint-best_demo

# Ordinary commands, one after the other; a second run finds what the first one finished.
demo: install
	$(RUN) experiment=sample_nima stale=rerun
	$(RUN) experiment=sample_edsr stale=rerun
	@echo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv outputs .mypy_cache .ruff_cache .pytest_cache *.egg-info build
