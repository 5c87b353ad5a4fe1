# make demo | test | test-slow | bench | lint | clean
#
# Everything runs in .venv, made on first use with the first Python >= 3.11 found. VENV=path uses another environment:
# nothing is installed into it while it holds all that pyproject.toml asks for.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PY := $(VENV)/bin/python
# The stamp stands for a finished installation; it is removed before one starts.
READY := $(if $(filter .venv,$(VENV)),.venv/ready,build/ready-$(subst /,-,$(VENV)))
DEMO_STEPS ?= 500

# The checkout itself is what runs, whether or not Isobit is installed in the environment.
export PYTHONPATH := $(CURDIR)
# The networks of the tests and of the demo are too small for a second thread to pay, and on a busy machine it costs.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-slow bench figures-quick lint clean

help:
	@echo 'make demo    train a small CNN on handwritten digits, compile it to 4 bits, prove parity (minutes)'
	@echo 'make test    run the test suite, and check style and types'
	@echo 'make test-slow   run the tests that take more than ten seconds each'
	@echo 'make bench   measure accuracy, size and speed again (hours)'
	@echo 'make figures-quick   measure again what takes minutes, and write every figure of README and docs'
	@echo 'make lint    check style and types'
	@echo 'make clean   remove what make built, .venv included'

demo: $(READY)
	$(PY) tools/make_checkpoints.py --out build/demo
	$(PY) compile.py build/demo/digits.pth --arch tools/digits_model.py:DigitsNet --recipe qdrop_w4a8 --target onnx \
	    --calib-data build/demo/calib.npz --eval-data build/demo/val.npz \
	    --set method.steps=$(DEMO_STEPS) --out artifacts/digits-demo --overwrite
	$(PY) artifacts/digits-demo/run.py

# Tests first: a line that is too long must not hide what is broken. The checks say nothing, or that nothing is found.
# Two processes of one thread each: files stay whole, because what they share is made once a file.
test: export OMP_NUM_THREADS := 1
test: $(READY)
	$(PY) -m pytest -q -m 'not slow' --numprocesses 2 --dist loadfile $(PYTEST_ARGS)
	@$(PY) -m ruff check --quiet .
	@$(PY) tools/check/types.py

test-slow: export OMP_NUM_THREADS := 1
test-slow: $(READY)
	$(PY) -m pytest -q -m slow --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

bench: $(READY)
	$(PY) tools/bench/bench.py $(BENCH_ARGS)
	$(PY) tools/bench/modules.py $(MODULE_BENCH_ARGS)

# Needs the networks and data of `--data`; figures that take hours stay, with their age beside them.
figures-quick: $(READY)
	$(PY) tools/figures/figures.py --quick

lint: $(READY)
	@$(PY) -m ruff check --quiet .
	@$(PY) tools/check/types.py

clean:
	rm -rf .venv build artifacts *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml tools/environment.sh
	@bash tools/environment.sh '$(VENV)' '$@'
