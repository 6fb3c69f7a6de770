PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two test processes with one thread each: more threads would only wait for one another.
WORKERS ?= 2
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/installed ## create .venv and install decoct with pinned versions (PYTHON=python3.12 picks another)

$(VENV)/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: venv ## distil the embedded sample end to end and show what came out
	$(BIN)/python scripts/demo.py

test: venv ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) $(PYTEST_ARGS)

lint: venv ## check style, formatting and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# Full measurements: make bench DATASET=uoft-cs/cifar10 TEACHER=runs/teacher
bench: venv ## run the benchmarks with DATASET= and TEACHER=, and write benchmarks/results/
	@test -n "$(DATASET)" -a -n "$(TEACHER)" || { echo "Name both: make bench DATASET=... TEACHER=..."; exit 2; }
	$(BIN)/python benchmarks/attribution.py --dataset "$(DATASET)" --teacher "$(TEACHER)"
	$(BIN)/python benchmarks/utility.py --dataset "$(DATASET)" --teacher "$(TEACHER)"
	$(BIN)/python benchmarks/memory.py --dataset "$(DATASET)" --teacher "$(TEACHER)"
	$(BIN)/python benchmarks/grids.py cifar10_final --dataset "$(DATASET)" --teacher "$(TEACHER)" --seeds 0 1 2 --ipc 1 10 50
	$(BIN)/python benchmarks/readme.py

clean: ## remove .venv, caches and build products
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
