"""One step of one sequence through the model: its unseen tokens in, its next token out. Owns the KV caches.

Each sequence has its own cache and its own forward, so whoever else is served cannot change its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adreg.serve.lora import AdapterPool
from adreg.serve.sampling import Sampler
from adreg.serve.sequence import Sequence

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class Slot:
    """What a running sequence holds: keys and values of all it has read, and its sampler."""

    cache: DynamicCache
    sampler: Sampler


class Runner:
    """Runs steps of `model` with the adapters of `pool`; for one thread."""

    def __init__(self, model: PreTrainedModel, pool: AdapterPool) -> None:
        self.model, self.pool = model, pool
        self._slots: dict[Sequence, Slot] = {}

    @property
    def slots(self) -> int:
        """How many sequences hold a cache."""
        return len(self._slots)

    def step(self, sequence: Sequence) -> int:
        """The next token of `sequence`, after reading its unseen ones."""
        slot = self._slots.get(sequence) or self._open(sequence)
        logits = self.logits(sequence.unseen, sequence.asked.adapter, slot.cache)
        return slot.sampler.choose(logits)

    def logits(self, tokens: tuple[int, ...], adapter: str | None, cache: DynamicCache) -> torch.Tensor:
        """Logits (vocabulary,) in float32 on the CPU after `tokens`, which `cache` then holds too."""
        import torch

        ids = torch.tensor([tokens], device=self.model.device)
        with torch.inference_mode(), self.pool.using(adapter):
            output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            last: torch.Tensor = output.logits[0, -1].float().cpu()
        return last

    def release(self, sequence: Sequence) -> None:
        """Free what `sequence` holds."""
        self._slots.pop(sequence, None)

    def _open(self, sequence: Sequence) -> Slot:
        from transformers import DynamicCache

        slot = Slot(DynamicCache(config=self.model.config), Sampler(sequence.asked.sampling))
        self._slots[sequence] = slot
        return slot
