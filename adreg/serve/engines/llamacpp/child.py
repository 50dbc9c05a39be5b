"""llama.cpp's server out of xllamacpp's wheel, until SIGTERM. Run as a script; imports nothing of adreg.

Its one argument is a JSON object with the fields of `Served`; the key is taken from the environment. What is set here is
what `recipe.py` says to a `llama-server`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

ENDS = {signal.SIGTERM, signal.SIGINT}


def main(served: dict[str, Any]) -> None:
    # blocked before llama.cpp starts its threads, or one of them would take the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    import xllamacpp

    server = xllamacpp.Server(parameters(xllamacpp, served))
    signal.sigwait(ENDS)
    del server


def parameters(xllamacpp: Any, served: dict[str, Any]) -> Any:
    """llama.cpp's parameters for `served`."""
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = served["model"], {served["alias"]}
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], served["port"], [os.environ["LLAMA_API_KEY"]]
    params.n_parallel, params.n_ctx = served["slots"], served["slots"] * served["context"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = served["threads"]
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in served["adapters"]]
    params.lora_init_without_apply = True
    params.cache_ram_mib, params.cache_idle_slots, params.slot_prompt_similarity, params.n_cache_reuse = 0, False, 0.0, 0
    params.kv_unified, params.ctx_shift = False, False
    params.endpoint_slots, params.ui, params.prefill_assistant, params.offline = False, False, False, True
    params.warmup, params.verbosity = False, 1
    if served["invariant"]:
        params.n_ubatch = 1
    params.use_jinja, params.reasoning_format = True, xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    return params


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
