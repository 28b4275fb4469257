# Two commands do everything: `make demo` and `make test`. Both build and reuse .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2
# Workers share the cores: threads of PyTorch and BLAS that wait for each other would keep them busy. Files go in order,
# else those of few tests come last, and of these are the longest.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test test-slow check lint types bench clean

demo: $(VENV)/demo
	$(BIN)/qindex demo

test: $(VENV)/dev
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/dev
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow

check: lint types

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev
	$(BIN)/mypy

bench: $(VENV)/bench
	$(BIN)/python benchmarks/scan.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/ann.py
	$(BIN)/python benchmarks/lowbit.py
	$(BIN)/python benchmarks/rerank.py
	$(BIN)/python benchmarks/recurrent.py
	$(BIN)/python benchmarks/rag_storage.py
	$(BIN)/python benchmarks/mteb_tasks.py
	$(BIN)/python benchmarks/tune.py
	$(BIN)/python benchmarks/tables.py

# Each stamp is one `pip install` of the project with the extras it is named for.
$(VENV)/demo $(VENV)/dev $(VENV)/bench: $(VENV)/%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[$*]"
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qindex needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info qindex-demo
