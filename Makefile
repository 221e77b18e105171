# Two commands: `make audit` runs the main job on the embedded demo, `make test` passes the tests. Each makes .venv when it
# is missing, from the pinned versions in constraints.txt, and installs again only when those or setup.py changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# ONNX Runtime for the GPU where an NVIDIA device is there, else for the CPU; both install into one folder
RUNTIME ?= $(if $(wildcard /dev/nvidia0),gpu,cpu)
OUT ?= build
DATA ?= ../shared/data/fashion-products
PINS := setup.py pyproject.toml constraints.txt Makefile

.DEFAULT_GOAL := help
.PHONY: help audit test test-slow check demo-bundle fashion sane sane-search evaluation benchmark clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

audit: $(VENV)/.audit ## explain a drawn catalogue's recommendations; no torch, no GPU
	@test -e $(OUT)/demo/catalogue.csv || $(BIN)/whymatch demo $(OUT)/demo
	@$(BIN)/whymatch audit --manifest $(OUT)/demo/pairs.csv --catalogue $(OUT)/demo/catalogue.csv \
		--bundle $(OUT)/demo/bundles/category --out $(OUT)/audit
	@echo
	@echo 'Your own catalogue and model:'
	@echo '  .venv/bin/pip install onnx'
	@echo '  .venv/bin/whymatch bundle --help                     # model.onnx and its preprocessing -> bundle'
	@echo '  .venv/bin/whymatch audit --manifest pairs.csv --bundle bundle --out tables     # columns: query, reference'

test: $(VENV)/.test ## the tests but the slow ones; under ten minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-slow: $(VENV)/.test ## the slow tests: trainings and studies from nothing
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

check: $(VENV)/.test ## format, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

demo-bundle: $(VENV)/.test ## train the embedded demo bundles again, from nothing, and compare
	rm -rf $(OUT)/demo-bundle
	examples/demo/train.sh $(OUT)/demo-bundle
	$(BIN)/python -m benchmarks.audits.demo_bundles $(OUT)/demo-bundle

fashion: $(VENV)/.test ## real photographs: train, export, pair, audit, query (DATA is the folder of products.csv)
	examples/fashion/run.sh $(DATA) $(OUT)/fashion

sane: $(VENV)/.test ## the tables of docs/sane.md, from nothing: real photographs (DATA), then drawn garments; steps are kept
	$(BIN)/python -m benchmarks.sane.real --catalogue $(DATA)/products.csv --out $(OUT)/sane/real
	$(BIN)/python -m benchmarks.sane.garments --out $(OUT)/sane/garments

sane-search: $(VENV)/.test ## search anew for what make sane reads from docs/benchmarks/sane-search.json
	$(BIN)/python -m benchmarks.sane.real --catalogue $(DATA)/products.csv --out $(OUT)/sane/real --search

evaluation: $(VENV)/.test ## docs/benchmarks/evaluation.md: are the maps of make fashion's bundle any good? Steps are kept
	test -e $(OUT)/fashion/bundle/bundle.json || examples/fashion/run.sh $(DATA) $(OUT)/fashion
	$(BIN)/python -m benchmarks.evaluation.maps --catalogue $(DATA)/products.csv --bundle $(OUT)/fashion/bundle --out $(OUT)/evaluation

benchmark: $(VENV)/.test ## the cost of explaining against the cost of bare forward passes
	$(BIN)/python -m benchmarks.cost.overhead

clean: ## remove what the other targets made, but .venv
	rm -rf $(OUT)

# Pillow comes last and on its own: see "Pillow" in README.md
define install
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'pillow==13.0.0'
	touch $@
endef

$(VENV)/.audit: EXTRAS = $(RUNTIME),sql
$(VENV)/.audit: $(PINS)
	$(install)

$(VENV)/.test: EXTRAS = $(RUNTIME),sql,onnx,export,priors,lime,s3,gs,dev
$(VENV)/.test: $(PINS)
	$(install)
	touch $(VENV)/.audit
