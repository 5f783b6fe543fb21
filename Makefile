# make demo   train EDSR against the scorer that ships, evaluate, enhance a photo     (about 4 minutes)
# make test   ruff, mypy, pytest
# make test-slurm the tests on a real SLURM, which wait for its queue most of the time (8 minutes)
# make lint   ruff and mypy alone
# make test-fast  the tests that take seconds each: no browser, no ranks, no cluster
# make coverage   the lines that those tests miss, also in htmlcov/
# make docs   the documentation site, with the API reference, in site/
# make bench  every benchmark in its short way, as one table in benchmarks/              (10 minutes)
# Each sets up .venv by itself, make demo without the extras and tools that the others need.
# PYTHON=python3.12 picks the interpreter (3.11 or newer).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
RUN := $(BIN)/python run.py

.PHONY: demo test test-fast test-slurm coverage lint docs bench install clean
.DEFAULT_GOAL := install

install: .venv/installed

# Stamps are written last: an interrupted installation starts over where pip left off.
INSTALL := $(BIN)/python -m pip install --constraint constraints.txt --editable

$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv was found" \
	  "(on Debian: apt-get install python3-venv); name one with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv --clear .venv

.venv/demo: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) .
	@touch $@

.venv/installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) '.[dev]'
	@touch .venv/demo $@

EDSR := outputs/sample_edsr/demo/checkpoints/best.ckpt
SHIPPED := weights/edsr_x2_gamma_0.safetensors
RESULTS := outputs/evaluate/demo

# Ordinary commands, one after the other. A second run finds what the first one finished, goes on
# where it was interrupted, and does again what has changed since.
demo: .venv/demo
	@echo "== 1/3 train EDSR with L2 + gamma * (K - mean score) against the scorer that ships"
	$(RUN) experiment=sample_edsr name=demo stale=rerun
	@echo "== 2/3 evaluate it beside bicubic and an EDSR that ships on photos that neither has seen"
	$(RUN) evaluate checkpoint=[$(EDSR),$(SHIPPED)] name=demo stale=rerun
	@echo "== 3/3 enhance a photo that it has not seen"
	$(RUN) enhance input=$(RESULTS)/images/coffee_lr.png checkpoint=$(EDSR) \
	  output=outputs/enhanced overwrite=true
	@echo "== done"
	@cat $(RESULTS)/table.txt
	@echo "before/after: $(RESULTS)/images/chelsea.png $(RESULTS)/images/coffee.png"
	@echo "enhanced:     outputs/enhanced/coffee_lr_x2.png"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks tests

# Two workers; one that is done takes tests from the end of the other's, so that modules stay together.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
FAST := -m "not slow and not ddp and not slurm and not browser and not gpu"

test: lint
	$(PYTEST) -m "not slurm"

test-slurm: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm

test-fast: install
	$(PYTEST) $(FAST)

coverage: install
	$(PYTEST) $(FAST) --cov --cov-report=term-missing:skip-covered --cov-report=html

docs: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/all.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info build site htmlcov .coverage
