PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup serve demo test check models proto bench clean

# Two environments in one folder: one that can serve, and with the tools on top one that can develop and test.
$(VENV)/serve: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[cpu]'
	touch $@

$(VENV)/setup: $(VENV)/serve
	$(PIP) torch
	$(PIP) --editable '.[dev,report]'
	touch $@

setup: $(VENV)/setup

serve: $(VENV)/serve
	exec $(BIN)/serving run exported_models/digits

demo: $(VENV)/serve
	$(PIP) --editable '.[cpu,report]'
	$(BIN)/python -m loadtest.demo

# Tests that put servers under load, or hold their books against a clock, have both cores to themselves; the others share them.
ALONE = $(addprefix tests/serving/test_, bill.py farewell.py faults_under_load.py lifecycle.py overload.py reload.py soak.py) \
	tests/deploy/containers

test: check
ifdef PYTEST
	$(BIN)/python -m pytest $(PYTEST)
else
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(addprefix --ignore , $(ALONE))
	$(BIN)/python -m pytest $(ALONE)
endif

check: $(VENV)/setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

models: $(VENV)/setup
	$(BIN)/python -m ensembles.training.digits --to exported_models/digits --calibration $(VENV)/calibration.npz
	$(BIN)/ensembles plan exported_models/digits --data $(VENV)/calibration.npz --disagreement 0.05 --write

proto: $(VENV)/setup
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto --grpc_python_out=proto \
		proto/scrutin/v1/ensemble.proto

bench: $(VENV)/setup
	-$(BIN)/python -m benchmarks.run
	-$(BIN)/python -m benchmarks.policies
	-$(BIN)/python -m benchmarks.loadtest
	-$(BIN)/python -m benchmarks.scaling

clean:
	rm -rf $(VENV) .bench
