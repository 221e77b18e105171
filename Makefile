# Two commands: `make audit` runs the main job on the embedded demo, `make test` passes the tests. Each makes .venv when it
# is missing, from the pinned versions in constraints.txt, and installs again only when those or setup.py changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# ONNX Runtime for the GPU where an NVIDIA device is there, else for the CPU; both install into one folder
RUNTIME ?= $(if $(wildcard /dev/nvidia0),gpu,cpu)
OUT ?= build
PINS := setup.py pyproject.toml constraints.txt Makefile

.DEFAULT_GOAL := help
.PHONY: help audit test check demo-bundle fashion benchmark clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

audit: $(VENV)/.audit ## draw the demo catalogue and explain its pairs; no torch, no GPU
	@$(BIN)/python -m benchmarks.demo_audit $(OUT)/demo

test: $(VENV)/.test ## all tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.test ## format, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

demo-bundle: $(VENV)/.test ## train the embedded demo bundles again, from nothing
	$(BIN)/python -m benchmarks.demo_bundle $(OUT)/demo-bundle

fashion: $(VENV)/.test ## train, export, pair, audit and query real photographs (see docs/fashion.md)
	$(BIN)/python -m benchmarks.fashion $(OUT)/fashion

benchmark: $(VENV)/.test ## the cost of explaining against the cost of bare forward passes
	$(BIN)/python -m benchmarks.overhead

clean: ## remove what the other targets made, but .venv
	rm -rf $(OUT)

# Pillow comes last and on its own: see "Pillow" in README.md
define install
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'pillow==13.0.0'
	touch $@
endef

$(VENV)/.audit: $(PINS)
	$(call install,$(RUNTIME),sql)

$(VENV)/.test: $(PINS)
	$(call install,$(RUNTIME),sql,onnx,export,s3,gs,dev)
	touch $(VENV)/.audit
