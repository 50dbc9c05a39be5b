"""From a base's folder to an engine that can be started: chooses what runs the model, and shares out the memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from adreg.errors import MissingExtra, UsageError
from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint
from adreg.formats.strictjson import read_object
from adreg.formats.text.tokenizer import TokenizerFiles
from adreg.serve.engine.engine import Engine, Parts
from adreg.serve.engine.memory import MemoryBudget, free_memory
from adreg.serve.engine.orders import Orders
from adreg.serve.engine.pace import Pace
from adreg.serve.engine.prefix import PrefixStore
from adreg.serve.executor import BLOCK, Executor
from adreg.serve.generation import Limits
from adreg.serve.models.catalog import Catalog
from adreg.serve.models.defaults import sampling_defaults
from adreg.serve.pool.pool import AdapterPool, Source
from adreg.serve.sampling.grammar import Grammars
from adreg.serve.text.tokenizer import Tokenizer, Tokenizers
from adreg.serve.watch import Watch

KV_SHARE, PREFIX_SHARE, ADAPTER_SHARE = 0.5, 0.1, 0.2
"""Of the memory that is free once the base is loaded."""
LOGIT_BYTES = 64 << 20
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class EngineSettings:
    """How a base is served. None is what fits the machine and the model.

    `executor` auto is the native one where it can run the base, else the general one. `dtype` auto is bfloat16 where the
    hardware computes it and float32 elsewhere. `batch_invariant` makes every answer bit for bit that of a request alone,
    which the native executor always does. `slots` is how many adapters are resident; `host_bytes` hold adapters too.
    """

    executor: Literal["auto", "native", "general"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    batch_invariant: bool = False
    context: int | None = None
    max_running: int = 32
    max_waiting: int = 256
    slots: int = 16
    kv_bytes: int | None = None
    prefix_bytes: int | None = None
    host_bytes: int | None = None
    itl_target_ms: float = 50.0


def load_engine(
    base: Path,
    catalog: Catalog,
    source: Source,
    settings: EngineSettings = EngineSettings(),
    *,
    pinned: Collection[str] = (),
    tried: Collection[str] = (),
    own_tokenizer: Callable[[str], TokenizerFiles | None] = lambda digest: None,
    watch: Watch | None = None,
) -> Engine:
    """An engine for the base in the folder `base`, not yet started.

    `source` gives the name and the adapter of a digest, `own_tokenizer` the tokenizer files beside it; `pinned` digests
    stay resident, `tried` ones are loaded before the engine starts, so that what cannot be served is refused before anybody
    asks for it. Raises what `source`, `open_checkpoint` and the executors raise, `MissingExtra`, `UsageError` for settings.
    """
    checkpoint = open_checkpoint(base)
    tokenizers = Tokenizers(checkpoint.folder, own_tokenizer)
    executor = load_executor(checkpoint, settings)
    free = free_memory()
    memory = MemoryBudget(_bytes(settings.kv_bytes, KV_SHARE, _free_for_keys(settings, executor, free)))
    context = min(executor.context, settings.context or executor.context, memory.total // executor.bytes_per_token)
    if context < 2:
        raise UsageError(f"{memory.total} bytes for keys and values hold no request; a token takes {executor.bytes_per_token}")
    domain = (next(iter(catalog)).base_digest, type(executor).__name__, settings.dtype, str(executor.bytes_per_token))
    ends = _ends(checkpoint, tokenizers.base)
    watch, orders = watch or Watch(), Orders()
    pool = AdapterPool(executor, source, _bytes(settings.host_bytes, ADAPTER_SHARE, free), pinned, watch, orders.wake)
    for digest in tried:
        pool.preload(digest)
    return Engine(
        Parts(
            executor=executor,
            catalog=catalog,
            tokenizers=tokenizers,
            grammars=Grammars(tokenizers.base.definition, executor.vocabulary, ends),
            pool=pool,
            prefixes=PrefixStore(executor, domain, _bytes(settings.prefix_bytes, PREFIX_SHARE, free)),
            orders=orders,
            memory=memory,
            pace=Pace(settings.itl_target_ms / 1000),
            limits=Limits(settings.max_running, settings.max_waiting, context, executor.vocabulary),
            prompt_rows=max(BLOCK, LOGIT_BYTES // (4 * executor.vocabulary)),
            ends=ends,
            watch=watch,
            defaults=sampling_defaults(checkpoint.folder),
        )
    )


def load_executor(checkpoint: Checkpoint, settings: EngineSettings) -> Executor:
    """The executor that `settings` ask for, with the base's weights. The native one needs no torch."""
    if why_general(checkpoint, settings) is None:
        from adreg.serve.native.executor import NativeExecutor

        native_dtype = _native_dtype() if settings.dtype == "auto" else settings.dtype
        return NativeExecutor(checkpoint, native_dtype, settings.slots, settings.context, settings.threads)
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtra(package, "serve")
    import torch

    from adreg.serve.general.executor import load_general

    if settings.threads:
        torch.set_num_threads(settings.threads)
    exact = settings.batch_invariant
    return load_general(checkpoint, settings.slots, exact=exact, dtype=settings.dtype, device=settings.device)


def why_general(checkpoint: Checkpoint, settings: EngineSettings) -> str | None:
    """Why the general executor runs the base, in words; None where the native one does."""
    if settings.executor != "auto":
        return "as asked for" if settings.executor == "general" else None
    if settings.device == "cuda" or (settings.device == "auto" and Path("/dev/nvidiactl").exists()):
        return "on a GPU"
    from adreg.serve.native.executor import obstacle

    return obstacle(checkpoint)


def _native_dtype() -> Literal["bfloat16", "float32"]:
    """bfloat16 where this processor multiplies it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16", "bf16"} & set(flags) else "float32"


def _free_for_keys(settings: EngineSettings, executor: Executor, free: int) -> int:
    """Free memory where the executor keeps keys and values."""
    device = getattr(getattr(executor, "model", None), "device", None)
    if device is None or device.type != "cuda":
        return free
    import torch

    left: int = torch.cuda.mem_get_info(device)[0]
    return left


def _bytes(wanted: int | None, share: float, free: int) -> int:
    return int(free * share) if wanted is None else wanted


def _ends(checkpoint: Checkpoint, tokenizer: Tokenizer) -> frozenset[int]:
    """Every id that one of the base's files calls the end."""
    configs = [checkpoint.config, checkpoint.config.get("text_config")]
    if (checkpoint.folder / GENERATION_CONFIG).is_file():
        configs.append(read_object(checkpoint.folder / GENERATION_CONFIG, "B-CFG-0"))
    named = [tokenizer.eos, *(config.get("eos_token_id") for config in configs if isinstance(config, dict))]
    return frozenset(one for entry in named for one in _ids(entry))


def _ids(entry: Any) -> Iterator[int]:
    for one in entry if isinstance(entry, list) else [entry]:
        if isinstance(one, int):
            yield one
