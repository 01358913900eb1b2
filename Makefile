# Everything a newcomer, an operator or a developer runs. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RECIPE := recipes/smollm2-135m-int8.yaml
ENGINE := engines/smollm2-135m-int8
PROMPT ?= Explain in two sentences why the sky is blue.

.DEFAULT_GOAL := help
.PHONY: help serve demo test test-fast lint quantize accuracy bench storm lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

serve: $(ENGINE)  ## set everything up and serve the demo model on Triton, without GPU
	@$(BIN)/python -m python_backend serve

demo: $(ENGINE)  ## serve, stream one answer to the terminal, stop (PROMPT="..." to ask something else)
	@$(BIN)/python -m python_backend serve --exec "$(BIN)/python -m client --stats" "$(PROMPT)"

test: $(VENV)/dev $(ENGINE) lint  ## all checks and tests, on the real server with the real model
	@$(BIN)/python -m pytest

test-fast: $(VENV)/dev lint  ## checks, and the tests that start no server
	@$(BIN)/python -m pytest -m "not server"

lint: $(VENV)/dev  ## style, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

quantize: $(VENV)/quantize  ## install what calibrated formats need (PyTorch, transformers, ModelOpt)

accuracy: $(VENV)/dev  ## compare all formats on the demo model, for docs/accuracy.md
	@$(BIN)/python -m build_engines accuracy

bench: $(VENV)/dev $(ENGINE)  ## throughput and TTFT next to openvino-genai
	@$(BIN)/python -m perf bench

storm: $(VENV)/dev $(ENGINE)  ## five minutes of disconnecting clients against each front door
	@$(BIN)/python -m perf storm

lock: $(VENV)/dev  ## resolve pyproject.toml anew into requirements/
	@PATH=$(abspath $(BIN)):$$PATH ./requirements/lock.sh

clean:  ## remove what the targets above made
	rm -rf $(VENV) .cache engines checkpoints

$(ENGINE): $(VENV)/serve $(RECIPE) $(wildcard build_engines/*.py build_engines/*/*.py)
	@$(BIN)/python -m build_engines build $(RECIPE)
	@touch $(ENGINE)

# The locks are complete, so nothing is resolved at installation: --no-deps.
$(VENV)/serve: requirements/serve.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else f"Python {v[0]}.{v[1]} found; Slipstream needs 3.11 or 3.12: make PYTHON=python3.12 ...")'
	@echo "install dependencies into $(VENV) ..."
	@start=$$(date +%s) && { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } \
	  && $(PIP) --no-deps -r requirements/serve.txt && $(PIP) --no-deps --no-build-isolation --editable . \
	  && echo "install dependencies: $(VENV) $$(($$(date +%s) - start)) s"
	@touch $@

$(VENV)/quantize: $(VENV)/serve requirements/quantize.txt requirements/torch.txt
	@echo "install PyTorch, transformers and ModelOpt into $(VENV) ..."
	@$(PIP) --no-deps -r requirements/quantize.txt
	@$(PIP) -r requirements/torch.txt
	@touch $@

$(VENV)/dev: $(VENV)/serve requirements/dev.txt requirements/torch.txt
	@echo "install development tools into $(VENV) ..."
	@$(PIP) --no-deps -r requirements/dev.txt
	@$(PIP) -r requirements/torch.txt
	@touch $@
