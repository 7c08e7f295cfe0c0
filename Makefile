# `make run` does the main job on the embedded default, `make test` runs the tests. Both set up a
# virtual environment of their own first; nothing but Python 3.10+ and make is needed.

PYTHON ?= python3
VENV ?= .venv
# Pinned and installed first, so that no other package draws in another build of it.
TORCH ?= torch==2.13.0
RUN ?= runs/commands
# Processes that run the tests. Tests of speed allow for each other.
JOBS ?= 2
BIN := $(VENV)/bin

# Engines that CANAO is measured against, each in an environment of its own.
BENCH := build/bench
PEERS := ort openvino mnn litert
WORK ?= build/bench/work
MRPC ?=
BENCH_OPTIONS ?=
SPEED = $(BIN)/python benchmarks/speed.py

.PHONY: help run test test-thorough test-opencl-intel replay lint bench bench-int8 table2 footprint bench-setup setup setup-dev clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: setup ## search, distil, compile and certify on the embedded spoken commands; then label three
	$(BIN)/canao demo --out $(RUN)

# Neighbours in a file share models, builds and fixtures: a process keeps them together.
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test: setup-dev ## run the tests
	$(PYTEST)

test-thorough: setup-dev ## run the tests with all combinations of what they vary
	$(PYTEST) -m ''

# OpenCL of Intel's for CPUs: 800 MB, so that no other target asks for it.
INTEL := build/intel-opencl

test-opencl-intel: setup-dev $(INTEL)/.ready ## run the tests on OpenCL on Intel's runtime for CPUs
	OCL_ICD_VENDORS=$(abspath $(INTEL)) LD_LIBRARY_PATH=$(abspath $(INTEL))/lib \
	    $(PYTEST) -m '' tests/opencl

$(INTEL)/.ready:
	$(PYTHON) -m venv $(INTEL)
	$(INTEL)/bin/python -m pip install --quiet --disable-pip-version-check \
	    intel-opencl-rt==2026.2.0 intel-cmplr-lib-rt==2026.2.0
	echo $(abspath $(INTEL))/lib/libintelocl.so > $(INTEL)/intel.icd
	@touch $@

replay: setup-dev ## which generated C a change changed: hashes against tests/replay.json
	$(BIN)/python -m tests.replay $(if $(UPDATE),--update)

lint: setup-dev ## style, the direction of imports, types
	$(BIN)/ruff check src tests tools benchmarks examples
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: bench-setup ## measure CANAO against its peers (hours), write benchmarks/speed.md
	$(SPEED) --work $(WORK) $(BENCH_OPTIONS)
	$(SPEED) --work $(WORK) --families --threads 1
	$(SPEED) --work $(WORK) --roofline --threads 1
	$(if $(MRPC),$(SPEED) --work $(WORK) --mrpc $(MRPC) --threads 1)
	$(if $(MRPC),$(SPEED) --work $(WORK) --mrpc $(MRPC) --threads 2 --stream)
	$(SPEED) --table

bench-int8: bench-setup ## measure CANAO and its peers in int8 and bfloat16, write benchmarks/int8.md
	$(SPEED) --work $(WORK) --precision int8 $(BENCH_OPTIONS)
	$(SPEED) --work $(WORK) --precision bf16 $(BENCH_OPTIONS)
	$(SPEED) --precision int8 --table

table2: bench-setup ## measure the paper's Table 2 on this machine, write benchmarks/table2.md
	$(BIN)/python benchmarks/gpu.py --device opencl --if-there --models distilbert,bert-base,deep-narrow
	$(BIN)/python benchmarks/table2.py --work $(WORK) --layers --table $(BENCH_OPTIONS)

footprint: setup ## measure loading, first inference, memory and compiling, write benchmarks/footprint.md
	$(BIN)/python benchmarks/footprint.py

bench-setup: $(VENV)/.ready-bench $(PEERS:%=$(BENCH)/%/.ready) ## the peers' environments

setup: $(VENV)/.ready

setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "canao: error: $(PYTHON) is older than 3.10; name a newer one: make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,dev]'
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready benchmarks/peers/canao.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/canao.txt
	@touch $@

$(BENCH)/%/.ready: benchmarks/peers/%.txt
	$(PYTHON) -m venv $(BENCH)/$*
	$(if $(filter litert,$*),$(BENCH)/$*/bin/python -m pip install --quiet \
	    --disable-pip-version-check $(TORCH))
	$(BENCH)/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean: ## remove the environment and runs, not the build cache
	rm -rf $(VENV) runs build
