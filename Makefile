# `make` alone lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install install-newest install-oldest install-optional demo test test-fast test-all gpu-test browser coverage fuzz faults bench docs lint imports types clean
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv with the pinned versions of constraints.txt (PYTHON=python3.12 to choose)

$(STAMP): pyproject.toml constraints.txt
	$(CREATE_VENV)
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

install-newest: ## Create .venv with the newest versions that pyproject.toml allows (`make clean install` goes back)
	$(CREATE_VENV)
	$(BIN)/python -m pip install --upgrade --upgrade-strategy eager -e '.[dev]'
	$(BIN)/python -m pip list
	@touch $(STAMP)

# "name[extra]>=1.2" of pyproject.toml becomes the constraint "name==1.2"
install-oldest: ## Create .venv with the oldest versions that pyproject.toml allows, where it sets a limit
	$(CREATE_VENV)
	grep -oE '"[A-Za-z0-9_.-]+(\[[a-z]+\])? *>= *[0-9.]+' pyproject.toml | \
		sed -E 's/"//; s/\[.*\]//; s/ *>= */==/' | sort -u >$(VENV)/oldest.txt
	$(BIN)/python -m pip install -c $(VENV)/oldest.txt torch
	$(BIN)/python -m pip install -c $(VENV)/oldest.txt -e '.[dev]'
	$(BIN)/python -m pip list
	@touch $(STAMP)

install-optional: install ## Also install the libraries of docs/other_libraries.md, whose examples are skipped without them
	$(BIN)/python -m pip install -c constraints.txt biotrainer onnx onnxruntime onnxscript sentence-transformers

define CREATE_VENV
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo >&2 "'$(PYTHON)' is missing or older than Python 3.11: try 'make install PYTHON=python3.12'."; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' || \
	{ echo >&2 "'$(PYTHON)' lacks the venv module: install it (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }
$(PYTHON) -m venv $(VENV)
endef

# accelerate warns about every value that is left to it, and sets one CPU thread unless told; --quiet keeps its own
# traceback away from a demo that reports its failure. One process needs one GPU, so it sees one.
demo: install ## Train a small encoder against a noiser on the example proteins (on a GPU where there is one)
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0} $(BIN)/accelerate launch --quiet \
		--num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process "$$($(BIN)/python -c 'import torch; print(torch.get_num_threads())')" \
		examples/run_adv_mlm.py examples/recipes/demo.yaml

# two processes with one thread each: torch's own threads would get into each other's way
test: install ## Run the tests: every behaviour, in one case of each kind
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: install ## Run the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not exhaustive"

test-all: install ## Run all cases of all tests (twice as long)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m ""

gpu-test: install ## Run the tests that mean something on a GPU only (without one, each says that it is skipped)
	$(BIN)/python -m pytest -m gpu -rs tests/gpu

# where it is not permitted, the tests that need a browser say that they are skipped
browser: ## Install Chromium for the tests of the page, if there is no browser and apt-get may install one
	@for name in chromium chromium-browser google-chrome; do command -v $$name && exit 0; done; \
	if [ "$$(id -u)" = 0 ]; then as_root=""; else as_root="sudo -n"; fi; \
	quick="-o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o Acquire::Retries=1"; \
	{ $$as_root apt-get $$quick update -q && \
		$$as_root env DEBIAN_FRONTEND=noninteractive apt-get $$quick install -q -y --no-install-recommends chromium; } || \
		echo "Chromium could not be installed: the tests of the page are skipped."

coverage: install ## Run all tests and show which lines they reach (also coverage.xml)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=term --cov-report=xml

fuzz: install ## Read 28,000 mutated files, random tables, options and output folders (FUZZ_EXAMPLES of each; FUZZ_SEED repeats)
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-2000} $(BIN)/python -m pytest -q tests/data/test_fuzzing.py tests/downstream/test_table_fuzzing.py \
		tests/inference/test_mutations.py tests/recipes/test_fuzzing.py

# each process has one thread, as in the tests; FAULTS takes options: FAULTS="--seed 1 --only kills"
faults: install ## Kill small real runs, fill their disk, and compare what goes on from there (some minutes; faults.json)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.run_faults $(FAULTS)

bench: install ## Measure speed beside peers, on an idle machine (half an hour; benchmarks/RESULTS.md)
	$(BIN)/python -m benchmarks all --json benchmarks/results.json --markdown benchmarks/RESULTS.md

docs: install ## Build the site of docs/ into site/, without the network; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open site/index.html"

lint: install ## Check style, format, types, and that folders import only from folders listed before them (docs/design.md)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

imports: install ## Check that each folder imports only from folders listed before it (docs/design.md)
	$(BIN)/lint-imports

types: install ## Check types with mypy
	$(BIN)/mypy

clean: ## Remove .venv, caches and build products (runs/ stays)
	rm -rf $(VENV) build dist site *.egg-info .coverage .coverage.* coverage.xml .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
