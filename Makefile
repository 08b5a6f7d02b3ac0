# `make help` lists what there is. Everything is installed into .venv and written to .assay; uv caches packages.
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
WORKERS ?= 2
.DEFAULT_GOAL := help
# Bytecode goes to .venv; without any, each of the many processes of the tests would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup demo test test-long test-cluster test-workflows e2e-kubeflow lint format bench image steps-image manifests lock clean distclean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

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
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not long and not cluster and not workflows and not kubeflow"

test-long: setup ## tests that start many services, build images and speak to a ZenML server
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder -m "long and not cluster and not kubeflow"

test-workflows: setup ## the workflows of .github, run by act on this machine
	$(BIN)/python -m pytest -m workflows

e2e-kubeflow: setup ## what Kubeflow is sent, run in containers by podman against a team's real services
	$(BIN)/python -m pytest -m kubeflow

test-cluster: setup ## tests on the Kubernetes cluster of KUBECONFIG (docs/promotion.md)
	$(BIN)/python -m pytest -m cluster

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
	$(BIN)/python benchmarks/serving.py

BUILD := $(CONTAINER) build $(if $(findstring podman,$(CONTAINER)),--format docker) --build-arg COMMIT=$$(git rev-parse HEAD)
define pushed
$(if $(PUSH),@$(CONTAINER) tag $(1) $(PUSH) && $(CONTAINER) push --quiet $(PUSH) >&2)
$(if $(PUSH),@$(CONTAINER) inspect --format '{{index .RepoDigests 0}}' $(PUSH))
endef

image: ## an image that serves BUNDLE=.assay/bundles/…; DIGEST=… is checked, PUSH=registry/name pushes, OPENVINO=yes adds it
	$(BUILD) -f serving/Dockerfile -t assay --build-arg BUNDLE=$(BUNDLE) --build-arg BUNDLE_DIGEST=$(DIGEST) \
		--build-arg OPENVINO=$(OPENVINO) .
	$(call pushed,assay)

steps-image: ## the image that the pipelines' steps run in on a cluster; PUSH=registry/name as above
	$(BUILD) -t assay-steps $(if $(TORCH_INDEX),--build-arg TORCH=cpu --build-arg TORCH_INDEX=$(TORCH_INDEX)) .
	$(call pushed,assay-steps)

CHECKOV := $(VENV)/.cache/checkov
manifests: $(CHECKOV)/.ready ## render every environment's manifests, and let kubernetes-validate and checkov judge them
	$(BIN)/python -m pytest tests/unit/serving/test_manifests.py tests/integration/test_manifests.py

# In an environment of its own: it pins what others need newer.
$(CHECKOV)/.ready: tests/requirements-checkov.txt | setup
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(CHECKOV)
	@$(BIN)/uv pip install --quiet --python $(CHECKOV)/bin/python --require-hashes --no-deps --requirements $<
	@touch $@

lock: setup ## resolve the dependencies anew and write all the requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --upgrade \
		--extra train --extra pipelines --extra serve --extra openvino --extra promote --extra kubeflow --extra dev pyproject.toml --output-file requirements.txt \
		--custom-compile-command "make lock"
	cp requirements.txt serving/requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--extra serve pyproject.toml --output-file serving/requirements.txt --custom-compile-command "make lock"
	awk '/^[a-z]/ { wanted = /^openvino/ } wanted' requirements.txt > serving/requirements-openvino.txt
	cp requirements.txt stacks/requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--extra train --extra pipelines --extra kubeflow pyproject.toml --output-file stacks/requirements.txt \
		--custom-compile-command "make lock"
	echo checkov | $(BIN)/uv pip compile - --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--output-file tests/requirements-checkov.txt --custom-compile-command "make lock"

clean: ## remove what runs have written (.assay), and end what serves from it
	@if test -d .assay -a -x $(BIN)/assay; then $(BIN)/assay stop; fi
	rm -rf .assay

distclean: clean ## and the environment (.venv)
	rm -rf $(VENV)
