"""What an executor promises besides its numbers: base rows untouched, adapters that come and go, models it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adreg.errors import AdregError, FormatError, UnsupportedError
from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.serve.executor import Segment
from adreg.serve.general.calibration import Calibration
from adreg.serve.general.executor import load_general
from adreg.serve.general.ops import available
from tests.serve.general.worlds import World, prompts

PROMPTS = prompts(4, seed=5)


def test_base_rows_are_bitwise_untouched_by_adapters_beside_them(llama: World) -> None:
    executor = llama.executor(dtype="bfloat16")
    slots = llama.attach(executor)

    def base_row(*others: int | None) -> NDArray[np.float32]:
        tokens = [(PROMPTS[0], None), *zip(PROMPTS[1:], others, strict=True)]
        return executor.step([Segment(executor.memory(64), 0, prompt, slot, 1) for prompt, slot in tokens])[:1]

    bare = base_row(None, None, None)
    for op in available():
        executor._ops = Calibration(dict.fromkeys(executor._ops.table, op))
        assert np.array_equal(bare, base_row(slots["plain"], slots["dora"], slots["dora-ends"]))
        assert np.array_equal(bare, base_row(slots["embedding"], slots["head"], slots["plain"]))


def test_adapters_come_and_go_and_leave_nothing(llama: World) -> None:
    executor = llama.executor()
    hooks = [module._forward_hooks for module in executor.model.modules()]
    plain = executor.prepare("plain", open_adapter(llama.adapters["plain"]))
    expected = [tensor.clone() for tensor in plain.tensors]
    before = executor.step([Segment(executor.memory(64), 0, PROMPTS[0], None, 1)])
    seen = []
    for _ in range(3):
        slot = executor.attach(plain)
        seen.append(executor.step([Segment(executor.memory(64), 0, PROMPTS[0], slot, 1)]))
        executor.detach(slot)
        assert all(map(torch.equal, plain.tensors, expected))
        assert not any(hooks)
    assert np.array_equal(seen[0], seen[2]) and not np.allclose(seen[0], before)
    assert np.array_equal(before, executor.step([Segment(executor.memory(64), 0, PROMPTS[0], None, 1)]))


def test_only_what_an_adapter_targets_has_a_hook(llama: World) -> None:
    executor = llama.executor()
    llama.attach(executor, "layer")
    hooked = {name for name, module in executor.model.named_modules() if module._forward_hooks}
    assert hooked == {"model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"}


def test_a_resident_adapter_costs_its_own_bytes_and_a_quarter_at_most(llama: World) -> None:
    executor = llama.executor(dtype="bfloat16")
    executor.slots = 16
    adapter = open_adapter(llama.adapters["plain"])
    own = 2 * adapter.parameters
    for count in range(1, 17):
        prepared = executor.prepare("plain", adapter)
        assert prepared.nbytes == own
        executor.attach(prepared)
        held = sum(stack.nbytes for bank in executor._banks.values() for stack in bank.stacks)
        assert held + sum(tensor.nbytes for tensor in prepared.tensors) <= 1.3 * count * own
    with pytest.raises(AdregError, match="all 16 slots"):
        executor.attach(executor.prepare("plain", adapter))


def test_memory_is_what_it_says_and_copies_are_whole(llama: World) -> None:
    executor = llama.executor(dtype="bfloat16")
    one, other = executor.memory(50), executor.memory(90)
    tokens = (PROMPTS[0] * 9)[:40]
    executor.step([Segment(one, 0, tokens, None, 0)])
    block = executor.copy_out(one, 0, 32)
    assert block.nbytes == 32 * executor.bytes_per_token
    executor.copy_in(other, 0, block)
    assert np.array_equal(executor.copy_out(other, 0, 32), block)
    rows = [executor.step([Segment(memory, 32, tokens[32:], None, 1)]) for memory in (one, other)]
    assert np.array_equal(rows[0], rows[1])


def test_values_that_overflow_once_scaled_are_refused(llama: World, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(llama.adapters["plain"], tmp_path / "large")
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    weights[name] = torch.full_like(weights[name], 3e38)
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(FormatError, match="infinite in float32"):
        llama.executor().prepare("large", open_adapter(folder))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 2}),
    ],
)
def test_a_model_that_attends_otherwise_is_refused_by_name(tmp_path: Path, kind: str, settings: dict[str, int]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, vocab_size=256, max_position_embeddings=64, **settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match=f"the architecture {kind.title()}ForCausalLM"):
        load_general(open_checkpoint(tmp_path), 1, dtype="float32", device="cpu")
