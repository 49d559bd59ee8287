# SPDX-License-Identifier: Apache-2.0
# Every command people and CI use. `make lab` and `make test` install what they need first; nothing asks a question.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
BPF_SOURCES := $(wildcard agent/datapath/bpf/*.c agent/datapath/bpf/*.h agent/datapath/bpf/*/*.h agent/datapath/bpf/build.sh)
PACKAGES := $(patsubst %/__init__.py,%,$(wildcard */__init__.py))
SCENARIO ?=
SUITE ?=

.DEFAULT_GOAL := help
.PHONY: help setup bpf lab clean-lab docs images check check-types check-structure test e2e bench simulate clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install everything on a bare Debian 12: packages, virtual environment, BPF objects
	@$(MAKE) --no-print-directory build/.packages
	@$(MAKE) --no-print-directory build/.venv build/.bpf

build/.packages: scripts/install-packages.sh
	@mkdir -p build
	scripts/install-packages.sh
	@touch $@

# Bytecode is written here, since some environments keep programs from it and each start of an agent then costs a quarter more.
# Needs Python with its venv module, and neither apt nor root: `make check` and the tests that need no root do with it
build/.venv: pyproject.toml
	@mkdir -p build
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lab,dev]'
	$(BIN)/python -m compileall -q -j 2 $(PACKAGES)
	@touch $@

bpf: build/.bpf
build/.bpf: $(BPF_SOURCES) build/.packages
	agent/datapath/bpf/build.sh
	@touch $@

lab: setup ## two connected clusters on this machine and the whole Cluster Mesh walkthrough; leaves the lab up
	$(BIN)/python -m lab down
	$(BIN)/python -m lab up
	$(BIN)/python -m lab walkthrough

clean-lab: ## remove every lab of this machine, also those of test runs: processes, namespaces, mounts, maps, state
	$(BIN)/python -m lab clean

docs: build/.venv ## the documentation as a site under build/site; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

images: build/.venv ## the images of the programs, and a lab that runs them: settings in deploy/images/build.sh --help
	deploy/images/build.sh
	$(BIN)/python -m pytest -q e2e/test_images.py

check: build/.venv ## format, lint, types, import contracts, architecture; needs neither apt nor root
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target check-types check-structure

check-types: build/.venv
	$(BIN)/mypy

check-structure: build/.venv
	$(BIN)/lint-imports --no-cache --config pyproject.toml
	$(BIN)/python -m pytest -q tests/unit/architecture
	@$(MAKE) --no-print-directory docs

test: setup ## all tests that CI runs, except the lab scenarios
	$(BIN)/python -m pytest -q --durations=10 -n 2 --no-loadscope-reorder -m 'not lab'

e2e: setup ## lab scenarios: make e2e [SCENARIO=name]
	$(BIN)/python -m pytest -q --durations=10 -n 2 --no-loadscope-reorder e2e $(if $(SCENARIO),-k $(SCENARIO))

bench: setup ## figures as JSON under build/bench: make bench [SUITE=slice|wire|policy|loadbalancer|datapath|command|observe|l7]
	$(BIN)/python -m tests.bench $(SUITE)

simulate: setup ## histories of a mesh in one process: make simulate [WORLD=small-3x2] [SEED=1] [COUNT=100] [STEPS=40] [RESUME=file]
	$(BIN)/python -m tests.simulation --world $(or $(WORLD),small) --seed $(or $(SEED),1) --count $(or $(COUNT),100) --steps $(or $(STEPS),40) \
	  $(if $(RESUME),--resume $(RESUME))

clean: ## remove what make built
	rm -rf build $(VENV) .mypy_cache .ruff_cache
	find . -name '*.bpf.o' -delete
