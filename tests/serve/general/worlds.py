"""Tiny bases of every architecture with adapters of every feature, PEFT's own answers, and requests that share steps."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.serve.executor import Executor, Segment
from adreg.serve.general.executor import GeneralExecutor, load_general
from tests.builders import KINDS, build_checkpoint

VOCABULARY = 512
TIED = ("gemma3", "gpt2", "qwen2")
ATTENTION = {"gpt2": ["c_attn", "c_proj"], "phi3": ["qkv_proj", "o_proj"]}
EMBEDDING = {"gpt2": "wte"}
BLIND = {"exclude_modules": r".*(vision_tower|multi_modal_projector).*"}


def features(kind: str) -> dict[str, dict[str, Any]]:
    """PEFT's settings of one adapter a feature."""
    some, embedding = ATTENTION.get(kind, ["q_proj", "v_proj"]), EMBEDDING.get(kind, "embed_tokens")
    first = {"gpt2": "h.0.attn", "gemma3": "language_model.layers.0.self_attn"}.get(kind, "layers.0.self_attn")
    second = first.replace(".0.", ".1.")
    patterns = {"rank_pattern": {f"{second}.{some[0]}": 2}, "alpha_pattern": {f"{first}.{some[1]}": 3}}
    blind = BLIND if kind == "gemma3" else {}
    return {
        "plain": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", **blind},
        "patterns": {"r": 3, "lora_alpha": 8, "use_rslora": True, "target_modules": some, **patterns, **blind},
        "layer": {"r": 4, "target_modules": some, "layers_to_transform": [1], **blind},
        "dora": {"r": 4, "use_dora": True, "target_modules": "all-linear", **blind},
        "embedding": {"r": 4, "target_modules": [embedding, some[0]], **blind},
        "head": {"r": 4, "target_modules": ["lm_head", some[1]], **blind},
        "dora-ends": {"r": 4, "use_dora": True, "target_modules": [embedding, "lm_head"]},
    }


@contextmanager
def patient_with_peft() -> Iterator[None]:
    """PEFT warns of adapted embeddings, tied ones above all, and of Conv1D."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`")
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        yield


@dataclass(frozen=True)
class World:
    """A base in float32, its adapters on disk, and the PEFT models that they are of; the base alone is `None`."""

    base: Path
    adapters: dict[str, Path]
    models: dict[str | None, Any]

    def executor(self, **settings: Any) -> GeneralExecutor:
        settings = {"dtype": "float32", "device": "cpu", **settings}
        return load_general(open_checkpoint(self.base), len(self.adapters), **settings)

    def attach(self, executor: Executor, *names: str) -> dict[str | None, int | None]:
        """The slots of `names`, of all adapters by default; the base has none."""
        prepared = {name: executor.prepare(name, open_adapter(self.adapters[name])) for name in names or self.adapters}
        return {None: None, **{name: executor.attach(adapter) for name, adapter in prepared.items()}}

    def logits(self, name: str | None, tokens: list[int]) -> NDArray[np.float32]:
        """PEFT's logits behind each of `tokens`, in one forward of one sequence."""
        model = self.models[name]
        with torch.inference_mode():
            output = model(input_ids=torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)), use_cache=False)
        logits: NDArray[np.float32] = output.logits[0].float().numpy()
        return logits


def build_world(folder: Path, kind: str, *names: str, **changes: Any) -> World:
    """The world of `kind` with the adapters of the features `names`, of all by default."""
    changes = {"initializer_range": 0.1, "vocab_size": VOCABULARY, "tie_word_embeddings": kind in TIED, **changes}
    if kind == "gemma3":
        changes = {"text_config": KINDS[kind]["text_config"] | changes}
    base = build_checkpoint(folder / "base", kind, None, dtype=torch.float32, **changes)
    bare = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in bare.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0, 0.1)
    bare.save_pretrained(base)
    models: dict[str | None, Any] = {None: bare}
    for seed, (name, settings) in enumerate(features(kind).items()):
        if name in names or not names:
            models[name] = adapted(copy.deepcopy(bare), seed, settings)
            with patient_with_peft():
                models[name].save_pretrained(folder / name)
    return World(base, {name: folder / name for name in models if name}, models)


def adapted(model: Any, seed: int, settings: dict[str, Any]) -> Any:
    """`model` under a random adapter that does a lot."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    with patient_with_peft():
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                parameter.normal_(0, 0.3 / parameter.shape[1] ** 0.5)
            if "lora_embedding_A" in name:
                parameter.normal_(0, 0.3)
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    return adapted


@dataclass(eq=False)
class Request:
    """A sequence that generates greedily: what it has read, and the logits behind every token of it."""

    name: str | None
    prompt: list[int]
    slot: int | None
    memory: Any
    rows: list[NDArray[np.float32]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    read: int = 0

    @property
    def whole(self) -> list[int]:
        return self.prompt + self.tokens

    def segment(self, count: int) -> Segment:
        tokens = self.whole[self.read : self.read + count]
        return Segment(self.memory, self.read, tokens, self.slot, len(tokens))

    def take(self, logits: NDArray[np.float32]) -> None:
        self.rows += list(logits)
        self.read += len(logits)
        if self.read == len(self.whole):
            self.tokens.append(int(logits[-1].argmax()))


def prompts(count: int, longest: int = 40, seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(4, VOCABULARY) for _ in range(chance.randrange(1, longest))] for _ in range(count)]


def run(executor: Executor, requests: list[Request], wanted: int, chunks: Sequence[int] = range(1, 13), seed: int = 0) -> None:
    """Run `requests` until each has `wanted` tokens: they begin one by one, share steps with whom chance will have, in an
    order that chance decides, and read prompts in some of `chunks`."""
    chance = random.Random(seed)
    waiting, running = list(requests), list[Request]()
    while waiting or running:
        if waiting and (not running or chance.random() < 0.5):
            running.append(waiting.pop())
        step = [request for request in running if chance.random() < 0.8] or running[:1]
        chance.shuffle(step)
        segments = [request.segment(chance.choice(chunks)) for request in step]
        parts = np.split(executor.step(segments), np.cumsum([len(segment.tokens) for segment in segments])[:-1])
        for request, logits in zip(step, parts, strict=True):
            request.take(logits)
        running = [request for request in running if len(request.tokens) < wanted]
