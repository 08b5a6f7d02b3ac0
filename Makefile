# `make help` lists what there is. Everything is installed into .venv and written to .assay, and nowhere else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# TORCH=installed leaves out torch and the CUDA libraries that it brings: they are in .venv already, or not wanted.
TORCH ?= locked
ifeq ($(TORCH),installed)
LOCKED := awk '/^[a-z]/ { cuda = /^(torch|torchvision|triton|nvidia-|cuda-)/ } !cuda' requirements.txt
else
LOCKED := cat requirements.txt
endif
CONTAINER ?= podman
.DEFAULT_GOAL := help
# Bytecode goes to .venv; without any, each of the many processes of the tests would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup demo test lint format bench image lock clean distclean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## install the locked environment into .venv

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "make: Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); give one with PYTHON=…" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCKED) | $(BIN)/uv pip install --python $(BIN)/python --require-hashes --no-deps --requirements -
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@echo 'import sys; sys.pycache_prefix = sys.prefix + "/.cache/bytecode"; import assay.home; assay.home.use_local_environment()' > \
		$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/assay-local.pth
	@touch $@

demo: setup ## synthetic concrete to a judged, registered model, served and asked over HTTP, in a few minutes on a CPU
	@$(BIN)/assay train configs/demo.yaml
	@rm -rf .assay/sample
	@$(BIN)/assay data sample 'synthetic://concrete?count=9&seed=2026' --to .assay/sample --count 2 > /dev/null
	@$(BIN)/assay predict .assay/sample/*/*.jpg --model demo@challenger
	@$(BIN)/assay rehearse demo@challenger --images 100
ifdef STAY
	@$(BIN)/assay serve demo@challenger
else
	@echo "serve it: .venv/bin/assay serve demo@challenger   (make demo STAY=1 goes on with that)"
endif

test: setup ## all tests that need no special machine
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: setup ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## let ruff mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## what we claim, against what people use today, side by side
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/preparation.py
	$(BIN)/python benchmarks/rows.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/gate.py
	$(BIN)/python benchmarks/judge.py
	$(BIN)/python benchmarks/ledger.py

image: ## an image that serves BUNDLE=.assay/bundles/…; DIGEST=… is checked if it is given
	$(CONTAINER) build $(if $(findstring podman,$(CONTAINER)),--format docker) -f serving/Dockerfile -t assay \
		--build-arg BUNDLE=$(BUNDLE) --build-arg BUNDLE_DIGEST=$(DIGEST) --build-arg COMMIT=$$(git rev-parse HEAD) .

lock: setup ## resolve the dependencies anew and write requirements.txt and serving/requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
		--extra train --extra pipelines --extra serve --extra dev pyproject.toml --output-file requirements.txt \
		--custom-compile-command "make lock"
	cp requirements.txt serving/requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--extra serve pyproject.toml --output-file serving/requirements.txt --custom-compile-command "make lock"

clean: ## remove what runs have written (.assay)
	rm -rf .assay

distclean: clean ## and the environment (.venv)
	rm -rf $(VENV)
