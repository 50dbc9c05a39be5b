"""llama.cpp's server out of xllamacpp's wheel, for machines without a compiler: GGUF, port, then the adapters."""

from __future__ import annotations

import signal
import sys

from bench.peers.engines import CONTEXT, SEQUENCES, THREADS


def main(model: str, port: str, *adapters: str) -> None:
    from xllamacpp import CommonAdapterLoraInfo, CommonParams, Server

    params = CommonParams()
    params.model.path, params.hostnames, params.port = model, ["127.0.0.1"], int(port)
    params.n_parallel, params.n_ctx, params.cpuparams.n_threads = SEQUENCES, SEQUENCES * CONTEXT, THREADS
    params.lora_init_without_apply = True
    params.lora_adapters = [lora(CommonAdapterLoraInfo(), adapter) for adapter in adapters]
    server = Server(params)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


def lora(info: object, path: str) -> object:
    info.path, info.scale = path, 0.0  # type: ignore[attr-defined]
    return info


if __name__ == "__main__":
    main(*sys.argv[1:])
