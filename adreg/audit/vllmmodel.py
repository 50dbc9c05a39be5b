"""Which of an adapter's modules vLLM would apply: what its loader asks of their names and shapes, simulated. Runs no vLLM.

Source, of the 0.32 line: vllm/lora/lora_model.py (`check_unexpected_modules`: the last part of a name must be that of a
module it wraps, or it refuses), lora/model_manager.py (`activate_adapter`: weights are looked up by the full path; others
stay unused, without a word), lora/layers/logits_processor.py; docs/models/supported_models.md for `WITHOUT_LORA`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adreg.audit.basecard import BaseCard
from adreg.audit.weights import WRAPPED, ending
from adreg.formats.adapters.family import EMBEDDINGS, OUTPUT_HEADS, Parts
from adreg.formats.canonical import canonical_name

NAMES = """
    AXK1ForCausalLM ArcticForCausalLM BailingMoeV2_5ForCausalLM BailingMoeV3ForCausalLM BloomForCausalLM DbrxForCausalLM
    DeepseekV4ForCausalLM ExaoneMoeForCausalLM FalconForCausalLM FalconMambaForCausalLM FlexOlmoForCausalLM GPT2LMHeadModel
    GPTJForCausalLM GPTNeoXForCausalLM Gemma3nForCausalLM HrmTextForCausalLM IQuestCoderForCausalLM
    IQuestLoopCoderForCausalLM Jais2ForCausalLM KimiLinearForCausalLM MPTForCausalLM Mamba2ForCausalLM MambaForCausalLM
    MellumForCausalLM MiMoV2FlashForCausalLM MiMoV2ForCausalLM MiniMaxM3SparseForCausalLM OlmoeForCausalLM OrionForCausalLM
    RWForCausalLM Rnj1ForCausalLM SarvamMLAForCausalLM StableLMEpochForCausalLM StableLmForCausalLM Step3p5ForCausalLM
    Zamba2ForCausalLM
"""
WITHOUT_LORA = frozenset(NAMES.split())
EMBEDDING = "embed_tokens"
LARGEST_VOCABULARY = 258_048
EXPERTS = ".experts"
BACKBONE = "model."


@dataclass(frozen=True)
class Outcome:
    """The adapter's modules by what vLLM does with them: `applied`; `ignored`, without a word; and `refused` with the
    reason, one of which is enough for it to refuse the whole adapter."""

    applied: tuple[str, ...]
    ignored: tuple[str, ...]
    refused: Mapping[str, str]


def simulate(modules: Mapping[str, Parts], base: BaseCard | None) -> Outcome:
    """What vLLM would do with LoRA `modules` (names as in PEFT, without `base_model.model.`) on `base`; without a base
    only what the names alone decide."""
    names = {name.removesuffix(WRAPPED): parts for name, parts in modules.items()}
    if base is None:
        refused = {name: why for name, parts in names.items() if (why := _embedding_fault(name, parts))}
        return Outcome(tuple(name for name in names if name not in refused), (), refused)
    model = _Model(base)
    refused = {name: why for name, parts in names.items() if (why := model.fault(name, parts))}
    ignored = tuple(name for name in names if name not in refused and not model.has(name))
    return Outcome(tuple(name for name in names if name not in refused and name not in ignored), ignored, refused)


class _Model:
    """The modules that vLLM builds for a base and wraps: those of its checkpoint with a weight matrix, fused ones in the
    place of their parts, under the checkpoint's own paths."""

    def __init__(self, base: BaseCard) -> None:
        self.base = base
        self.paths = frozenset(_wrapped(base))
        self.ends = {ending(path) for path in self.paths}
        self.bare = not any(path.startswith(BACKBONE) for path in self.paths)

    def fault(self, name: str, parts: Parts) -> str:
        """Why vLLM refuses a module of this name, or an empty string."""
        end, head = ending(name), ending(name) in OUTPUT_HEADS
        if self.base.architecture in WITHOUT_LORA:
            return f"it has no LoRA layers for {self.base.architecture}"
        if fault := _embedding_fault(name, parts):
            return fault
        if head and self.vocabulary > LARGEST_VOCABULARY:
            return f"it adapts output heads of {LARGEST_VOCABULARY:,} tokens at most"
        return "" if head or EXPERTS in name or end in self.ends else f"it wraps no module called {end}"

    def has(self, name: str) -> bool:
        """Whether the full path is one of the model's. A checkpoint of the bare backbone does not say where that lies."""
        tied_head = self.base.tied and ending(name) in OUTPUT_HEADS
        if tied_head or (self.bare and canonical_name(name) in map(canonical_name, self.paths)):
            return True
        return name in self.paths or (EXPERTS in name and name.partition(EXPERTS)[0] + EXPERTS in self.paths)

    @property
    def vocabulary(self) -> int:
        tables = (shape[0] for name, shape in self.base.shapes.items() if ending(name.removesuffix(".weight")) in EMBEDDINGS)
        return max(tables, default=0)


def _wrapped(base: BaseCard) -> Iterator[str]:
    """The paths of modules with a weight matrix, and of the experts' parents."""
    for name, shape in base.shapes.items():
        if EXPERTS in name:
            yield name.partition(EXPERTS)[0] + EXPERTS
        elif name.endswith(".weight") and len(shape) == 2:
            yield name.removesuffix(".weight")


def _embedding_fault(name: str, parts: Parts) -> str:
    return f"of embeddings it wraps {EMBEDDING} only" if "embedding_A" in parts and ending(name) != EMBEDDING else ""
