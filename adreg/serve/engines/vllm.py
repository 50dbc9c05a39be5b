"""How vLLM is started for a base and the adapters of a registry: its flags and its environment, computed. Starts nothing.

Source, of the 0.32 line: vllm/config/lora.py (ranks, slots), vllm/entrypoints/cli/serve.py (adapters that come while it
runs want one API server), vllm/envs.py.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adreg.audit.vllmmodel import WITHOUT_LORA
from adreg.errors import UnsupportedError, UsageError
from adreg.registry.records import BaseRecord
from adreg.serve.engines.vllmcpu import NAME as ZERO_NAME
from adreg.serve.models.catalog import ServedModel
from adreg.serve.models.offer import Offer
from adreg.serve.plugin.settings import ADAPTERS, ALLOW, LOCAL, MAX_RANK, REGISTRY

NAME, TARGET, PLUGIN = "vLLM", "vllm", "adreg_lora_resolver"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
DEFAULT_RANK, FEWEST_SLOTS, KEPT_EACH = 16, 4, 8
SET_HERE = """
    --model --host --port --uds --api-key --served-model-name --enable-lora --no-enable-lora --max-lora-rank --max-loras
    --max-cpu-loras --lora-modules --lora-config --api-server-count -asc --dtype --max-model-len --max-num-seqs
    --kv-cache-memory-bytes --config --headless --revision --quantization -q
"""
OURS = frozenset(SET_HERE.split())
"""Flags that adreg sets or has another word for; `--revision` and `--quantization` would make it another base."""


@dataclass(frozen=True)
class VllmWish:
    """What the user asked for: at most `slots` adapters in one batch, `running` requests at a time, prompt and answer of
    `context` tokens (None: the model's), `kv_bytes` for keys and values (None: as vLLM thinks), and flags of vLLM's own."""

    dtype: str = "auto"
    slots: int = 16
    running: int = 32
    context: int | None = None
    kv_bytes: int | None = None
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class VllmPlan:
    """A vLLM to be started: room for adapters of `rank`, `slots` of them in one batch and `kept` in memory.

    `zero` is the folder of an adapter that the base is asked for by (`vllmcpu.py`), None where it needs none.
    """

    base: BaseRecord
    wish: VllmWish
    rank: int
    slots: int
    kept: int
    zero: Path | None = None

    @property
    def base_name(self) -> str:
        """What the base is called there."""
        return ZERO_NAME.format(self.base.name) if self.zero else self.base.name

    def command(self, program: Path, port: int) -> tuple[str, ...]:
        """The command line of a vLLM that listens on this machine alone."""
        wish, own = self.wish, 1 if self.zero else 0
        settings: dict[str, object] = {
            "--served-model-name": self.base.name, "--host": "127.0.0.1", "--port": port, "--api-server-count": 1,
            "--max-lora-rank": self.rank, "--max-loras": self.slots + own, "--max-cpu-loras": self.kept + own,
            "--dtype": wish.dtype, "--lora-modules": f"{self.base_name}={self.zero}" if self.zero else None,
            "--max-num-seqs": wish.running, "--max-model-len": wish.context, "--kv-cache-memory-bytes": wish.kv_bytes,
        }  # fmt: skip
        words = [str(word) for flag, value in settings.items() if value is not None for word in (flag, value)]
        start = (str(program), "serve", str(self.base.folder), "--enable-lora", "--disable-uvicorn-access-log")
        return (*start, *words, *wish.arguments)

    def environment(self, offer: Offer, secret: str, ours: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Ours, and what vLLM and the plugin in it are told: the same offer as the gateway's, and the `secret` that opens it.

        vLLM's other resolvers are switched off: they know no bases.
        """
        kept = {name: value for name, value in ours.items() if not name.startswith(("VLLM_LORA_RESOLVER", "ADREG_VLLM_"))}
        if "VLLM_PLUGINS" in kept:
            kept["VLLM_PLUGINS"] = f"{kept['VLLM_PLUGINS']},{PLUGIN}"
        told = {
            "ADREG_HOME": str(offer.registries.settings.home), REGISTRY: LOCAL, MAX_RANK: str(self.rank),
            ADAPTERS: " ".join(map(str, offer.refs)), ALLOW: " ".join(sorted(offer.allow)),
            "VLLM_API_KEY": secret, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }  # fmt: skip
        return kept | told


def plan_vllm(base: BaseRecord, models: Iterable[ServedModel], wish: VllmWish, zero: Path | None = None) -> VllmPlan:
    """What vLLM is started with to serve `models` of `base`, and the adapter `zero` in its place.

    The rank is the smallest that vLLM has and that holds them all: it pads every adapter to it. Raises `UnsupportedError`
    for an architecture that vLLM adapts nothing of, and `UsageError` for arguments that adreg sets itself.
    """
    if base.card.architecture in WITHOUT_LORA:
        raise UnsupportedError(f"{base.card.architecture} with LoRA in vLLM", "adreg's own engine may: adreg serve")
    check_arguments(wish.arguments)
    ranks = {model.adapter: model.rank or 0 for model in models if model.adapter}
    slots = min(wish.slots, max(FEWEST_SLOTS, len(ranks)))
    return VllmPlan(base, wish, rank_for(ranks.values()), slots, max(slots, min(len(ranks), KEPT_EACH * slots)), zero)


def rank_for(ranks: Collection[int]) -> int:
    """The smallest rank that vLLM can be told and that holds `ranks`, its own default where there are none.

    What is beyond the largest is left out: the catalog refuses such an adapter by name.
    """
    largest = max((rank for rank in ranks if rank <= RANKS[-1]), default=0)
    return next(rank for rank in RANKS if rank >= (largest or DEFAULT_RANK))


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises `UsageError` for a flag that adreg sets."""
    for word in arguments:
        flag = word.partition("=")[0].partition(".")[0].replace("_", "-")
        if flag in OURS:
            raise UsageError(
                f"adreg sets vLLM's {flag} itself", "leave it out of --vllm-arg; adreg serve --help has what there is"
            )
