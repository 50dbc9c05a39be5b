"""The served numbers are PEFT's: logits within rounding, greedy tokens one by one, on either executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from adreg.formats.adapters.adapter import open_adapter
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.serve.executor import Executor, Segment
from adreg.serve.generation import Generation
from adreg.serve.loading import EngineSettings, load_executor
from tests.serve.conftest import GREEDY, World, digest_of, generate

PROMPT = (1, 4093, 198, 5681, 30, 27543)
Kind = Literal["general", "native"]


def peft_model(base: Path, adapter: Path | None) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    return PeftModel.from_pretrained(model, adapter).eval() if adapter else model


def worlds(request: pytest.FixtureRequest) -> list[tuple[World, str | None, Kind]]:
    llama, gpt2 = request.getfixturevalue("llama"), request.getfixturevalue("gpt2")
    kinds: list[Kind] = ["general", "native"]
    llamas = [(llama, name, kind) for name in (None, *llama.adapters) for kind in kinds]
    return [*llamas, (gpt2, None, "general"), (gpt2, "conv", "general")]


def executor_of(world: World, kind: Kind, dtype: Literal["float32", "bfloat16"] = "float32") -> Executor:
    return load_executor(open_checkpoint(world.base), EngineSettings(executor=kind, dtype=dtype, batch_invariant=True))


def attached(executor: Executor, world: World, name: str | None) -> int | None:
    return None if name is None else executor.attach(executor.prepare(name, open_adapter(world.adapters[name])))


def logits(executor: Executor, slot: int | None, *steps: tuple[int, ...]) -> NDArray[np.float32]:
    """Those behind the last token of each of `steps`, which one sequence reads one after the other."""
    memory, start, rows = executor.memory(32), 0, []
    for tokens in steps:
        rows.append(executor.step([Segment(memory, start, tokens, slot, 1)]))
        start += len(tokens)
    return np.concatenate(rows)


def test_logits_are_those_of_peft_within_1e_5(request: pytest.FixtureRequest) -> None:
    import torch

    for world, name, kind in worlds(request):
        executor = executor_of(world, kind)
        reference = peft_model(world.base, world.adapters[name] if name else None)
        got = logits(executor, attached(executor, world, name), PROMPT[:4], PROMPT[4:5])
        with torch.inference_mode():
            wanted = reference(input_ids=torch.tensor([PROMPT[:5]])).logits[0, 3:5].float().numpy()
        assert np.abs(got - wanted).max() <= 1e-5, (name, kind)


def test_greedy_tokens_are_those_of_peft_one_by_one(request: pytest.FixtureRequest) -> None:
    import torch

    for world, name, kind in worlds(request):
        reference = peft_model(world.base, world.adapters[name] if name else None)
        ids = reference.generate(input_ids=torch.tensor([PROMPT]), max_new_tokens=40, do_sample=False)[0].tolist()
        engine = world.engine(executor=kind)
        engine.start()
        (heard,) = generate(engine, Generation(PROMPT, digest_of(name) if name else None, 40, GREEDY))
        engine.close()
        assert heard.tokens == ids[len(PROMPT) :], (name, kind)
        assert len(set(heard.tokens)) > 10, "a model that repeats itself proves nothing"


@pytest.mark.parametrize("kind", ["general", "native"])
def test_a_resident_adapter_changes_no_bit_of_the_base(llama: World, kind: Kind) -> None:
    executor = executor_of(llama, kind)
    before = logits(executor, None, PROMPT)
    slot = attached(executor, llama, "all")
    adapted, after = logits(executor, slot, PROMPT), logits(executor, None, PROMPT)
    assert np.array_equal(before, after)
    assert np.abs(adapted - after).max() > 0.5


@pytest.mark.parametrize("kind", ["general", "native"])
def test_bfloat16_adds_the_float32_update_as_peft_does(llama: World, kind: Kind) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    executor = executor_of(llama, kind, "bfloat16")
    model = AutoModelForCausalLM.from_pretrained(llama.base, dtype=torch.bfloat16).eval()
    reference = PeftModel.from_pretrained(model, llama.adapters["all"]).eval()
    plain = logits(executor, None, PROMPT)
    got = logits(executor, attached(executor, llama, "all"), PROMPT)
    with torch.inference_mode():
        wanted = reference(input_ids=torch.tensor([PROMPT])).logits[0, -1].float().numpy()
    assert np.abs(got - wanted).max() <= 0.02 * np.abs(plain - wanted).max()
