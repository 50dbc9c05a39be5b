"""The options of `adreg serve`: their types and what each says of itself. Knows no server."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adreg.cli.common import complete_reference


class EngineName(StrEnum):
    """Whose engine runs the model."""

    ADREG = "adreg"
    VLLM = "vllm"
    LLAMACPP = "llama.cpp"


class ExecutorName(StrEnum):
    """What runs the model."""

    AUTO = "auto"
    NATIVE = "native"
    GENERAL = "general"


class Dtype(StrEnum):
    """In what numbers."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Device(StrEnum):
    """Where."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Refs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[REF]...", help="Only these. Default: all of the base.", autocompletion=complete_reference),
]
Host = Annotated[str, typer.Option("--host", help="Address to listen on; one that others can reach needs a key.")]
Port = Annotated[int, typer.Option("--port", "-p", help="Port; 0 takes a free one.", min=0, max=65535)]
KeyFile = Annotated[Path | None, typer.Option("--api-key-file", help="One key, or a .toml of them. Default: adreg key ls.")]
Slots = Annotated[
    int, typer.Option("--max-adapters", help="Adapters resident at a time; others wait or are swapped in.", min=1)
]
PinOption = Annotated[list[str], typer.Option("--pin", metavar="REF", help="Keep it resident, from the start.")]
EngineOption = Annotated[EngineName, typer.Option("--engine", help="vllm and llama.cpp run behind adreg's gateway.")]
VllmOption = Annotated[Path | None, typer.Option("--vllm", metavar="PATH", help="The vllm to run. Default: ADREG_VLLM, PATH.")]
VllmArgs = Annotated[list[str], typer.Option("--vllm-arg", metavar="FLAG", help="Its own: --vllm-arg=--tensor-parallel-size=2")]
LlamaServerOption = Annotated[
    Path | None, typer.Option("--llama-server", metavar="PATH", help="The one to run. Default: on PATH, else xllamacpp's.")
]
QuantOption = Annotated[str | None, typer.Option("--quant", help="llama.cpp's type of the base's weights. Default: q8_0.")]
Executing = Annotated[ExecutorName, typer.Option("--executor", help="native is for CPUs and the Llama family.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="auto is bfloat16 where the hardware computes it.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto is the GPU where there is one.")]
Context = Annotated[
    int | None,
    typer.Option("--context", help="Tokens of prompt and answer. Default: the model's; llama.cpp: 4096 at most.", min=2),
]
Running = Annotated[int, typer.Option("--max-running", help="Requests that generate at a time.", min=1)]
Waiting = Annotated[int, typer.Option("--max-waiting", help="Requests that queue; more are told to come back.", min=0)]
KvMemory = Annotated[str | None, typer.Option("--kv-memory", metavar="SIZE", help="For keys and values, such as 2GB.")]
PrefixMemory = Annotated[str | None, typer.Option("--prefix-memory", metavar="SIZE", help="For cached prefixes; 0MB is none.")]
Itl = Annotated[float, typer.Option("--itl-target", help="Milliseconds between tokens that long prompts leave others.", min=1)]
Invariant = Annotated[bool, typer.Option("--batch-invariant", help="Answers bit for bit as if asked alone; slower on a GPU.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Processors that compute. Default: all.", min=1)]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds a request may take in all.", min=0.1)]
VllmMetrics = Annotated[bool, typer.Option("--vllm-metrics", help="Tell the metrics under vLLM's names too.")]
AccessLog = Annotated[bool, typer.Option("--access-log", help="A line of JSON on stderr for every request.")]
