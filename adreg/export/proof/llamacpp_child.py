"""Runs llama.cpp's server in a process of its own until standard input closes. Run as a script; imports nothing of adreg.

Arguments: the GGUF file, the number of tokens of context, the number of threads, and GGUF adapters, if any. Prints the
server's address on standard output, once; everything that llama.cpp prints goes to standard error.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    import xllamacpp

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx = sys.argv[1], int(sys.argv[2])
    params.n_parallel, params.n_gpu_layers, params.n_threads_http = 1, 0, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[3])
    # what is measured is the file: flash attention computes in float16 and costs up to 0.03 nats, a float16 cache 0.01
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.warmup, params.ui, params.cache_ram_mib, params.verbosity = False, False, 0, 1
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in sys.argv[4:]]
    server = xllamacpp.Server(params)
    print(server.listening_address, file=answers, flush=True)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()
