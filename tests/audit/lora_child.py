"""Real llama.cpp with one LoRA on a base, as a script: the likeliest tokens after every prefix of some ids.

Arguments: the base, the LoRA or an empty text, the token ids with commas, how many tokens to tell. Prints one JSON
list with a mapping of log probabilities a prefix. What llama.cpp says goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from urllib.parse import urlsplit


def main() -> None:
    import xllamacpp

    from adreg.export.proof.llamacpp import LlamaCpp

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    base, lora, ids = sys.argv[1], sys.argv[2], [int(text) for text in sys.argv[3].split(",")]
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers, params.n_threads_http = base, 64, 1, 0, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.warmup, params.ui, params.cache_ram_mib, params.verbosity = False, False, 0, 1
    if lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
    server = xllamacpp.Server(params)
    address = urlsplit(server.listening_address)
    model = LlamaCpp(str(address.hostname), int(address.port or 0))
    # backwards, so that no prompt continues another: an activated LoRA's first tokens may be in the cache without it
    found = [model.next_tokens(ids[:length], int(sys.argv[4]), ids[0]) for length in range(len(ids), 0, -1)]
    json.dump(found[::-1], answers)
    answers.close()
    del server


if __name__ == "__main__":
    main()
