PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two test processes with one thread each: more threads would only wait for one another.
WORKERS ?= 2
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint docs wheel space bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/installed ## create .venv and install decoct with pinned versions (PYTHON=python3.12 picks another)

$(VENV)/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	@touch $@

demo: venv ## distil the embedded sample end to end and show what came out
	$(BIN)/python scripts/demo.py

test: venv ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) $(PYTEST_ARGS)

lint: venv ## check style, formatting and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: venv ## build the documentation into build/docs; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

# The wheel is installed into an environment of its own, which sees of .venv the packages that decoct stands on, but not
# decoct; what runs there is the wheel's, in a folder where the repository is not to be seen.
wheel: venv ## build dist/decoct-*.whl and run its first commands outside the repository
	rm -rf build/lib dist build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --no-deps dist/decoct-*.whl
	$(BIN)/python -c "import sys; print(*(path for path in sys.path if path.endswith('site-packages')), sep='\n')" \
		> "$$(echo build/wheel/venv/lib/python3.*/site-packages)/dependencies.pth"
	build/wheel/venv/bin/python -I -c "import decoct; assert 'build/wheel/venv' in decoct.__file__, decoct.__file__"
	decoct="$$PWD/build/wheel/venv/bin/decoct" && outside="$$(mktemp -d)" && cd "$$outside" && \
		"$$decoct" --version && "$$decoct" --help > help.txt && \
		"$$decoct" train-teacher --preset demo --model convnet3_w16 --train_split 'train[:1000]' \
			--epochs 1 --output_dir teacher && \
		"$$decoct" distill --preset demo --teacher teacher --allow_weak_teacher --dry_run && rm -rf "$$outside"

# Gradio takes an older Pillow than the one that decoct is measured with, so the explorer has an environment of its own,
# which sees the other packages of .venv.
space: venv ## test the explorer in a headless browser, in an environment with Gradio
	$(PYTHON) -m venv build/space/venv
	build/space/venv/bin/python -m pip install --quiet "$$(grep ^gradio constraints.txt)"
	build/space/venv/bin/python -m pip install --quiet --no-deps --editable .
	$(BIN)/python -c "import sys; print(*(path for path in sys.path if path.endswith('site-packages')), sep='\n')" \
		> "$$(echo build/space/venv/lib/python3.*/site-packages)/dependencies.pth"
	OMP_NUM_THREADS=1 build/space/venv/bin/python -m pytest tests/test_explorer.py

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
