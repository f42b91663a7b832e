# Every target does its own set-up in .venv and is quick when repeated.
PYTHON ?= python3
JOBS ?= 2  # tests that run at the same time
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
BUILD_INPUTS := $(shell find csrc build_backend -type f -not -name '*.pyc') CMakeLists.txt setup.py pyproject.toml
CPP := $(shell find csrc tests/simt -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test fuzz simt simt-long kernels-report gpu lint format bench study doctor clean

demo: $(VENV)/installed
	$(BIN)/aoq demo

test: lint $(VENV)/vision/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

fuzz: $(VENV)/tools
	$(BIN)/python -m tests.fuzz

# The CUDA kernels on the CPU; the long form under the sanitizers and with many more schedules.
simt: $(VENV)/tools
	$(BIN)/python -m pytest tests/simt

simt-long: $(VENV)/tools
	AOQ_SIMT_SCHEDULES=200 $(BIN)/python -m pytest tests/simt
	$(BIN)/python -m tests.simt asan
	$(BIN)/python -m tests.simt tsan

# On a machine with an NVIDIA GPU, with the Python that PYTHON names, or else this project's where it is set up.
gpu:
	$(if $(filter file,$(origin PYTHON)),$(firstword $(wildcard $(BIN)/python) $(PYTHON)),$(PYTHON)) tools/gpu_gate.py

kernels-report: $(VENV)/installed
	$(BIN)/python tools/kernels_report.py

lint: $(VENV)/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(VENV)/tools
	$(BIN)/python benchmarks/run.py

study: $(VENV)/installed
	$(BIN)/python benchmarks/study/run.py

doctor: $(VENV)/installed
	$(BIN)/aoq doctor

clean:
	rm -rf $(VENV) build *.egg-info aoq_ext/libaoq.so .pytest_cache .ruff_cache .mypy_cache

$(VENV)/created: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) torch setuptools cmake ninja
	touch $@

# Without isolation, so that a changed kernel rebuilds in seconds; `pip install .` is one of the tests.
$(VENV)/installed: $(VENV)/created $(BUILD_INPUTS)
	$(PIP) --no-build-isolation --editable '.[train]'
	touch $@

# What tests, checks and benchmarks need beyond that.
$(VENV)/tools: constraints.txt pyproject.toml $(VENV)/installed
	$(PIP) 'aoq_ext[test]'
	touch $@

# The extra `vision`, for the tests alone: tests/vision_extra.py says why it is apart.
$(VENV)/vision/installed: constraints.txt pyproject.toml | $(VENV)/installed
	rm -rf $(@D)
	$(PIP) --prefix $(@D) 'aoq_ext[vision]'
	touch $@
