"""The served numbers are PEFT's: logits within rounding, greedy tokens one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adreg.serve.sequence import Generation
from tests.serve.conftest import GREEDY, World, digest_of, generate

PROMPT = (1, 4093, 198, 5681, 30, 27543)


def peft_model(base: Path, adapter: Path | None) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    return PeftModel.from_pretrained(model, adapter).eval() if adapter else model


def worlds(request: pytest.FixtureRequest) -> list[tuple[World, str | None]]:
    llama, gpt2 = request.getfixturevalue("llama"), request.getfixturevalue("gpt2")
    return [(llama, None), *((llama, name) for name in llama.adapters), (gpt2, None), (gpt2, "conv")]


def test_logits_are_those_of_peft_within_1e_5(request: pytest.FixtureRequest) -> None:
    import torch
    from transformers import DynamicCache

    for world, name in worlds(request):
        runner = world.engine().runner
        reference = peft_model(world.base, world.adapters[name] if name else None)
        cache = DynamicCache(config=runner.model.config)
        digest = digest_of(name) if name else None
        got = [runner.logits(PROMPT[:4], digest, cache), runner.logits(PROMPT[4:5], digest, cache)]
        with torch.inference_mode():
            wanted = reference(input_ids=torch.tensor([PROMPT[:5]])).logits[0, 3:5].float()
        assert (torch.stack(got) - wanted).abs().max() <= 1e-5, name


def test_greedy_tokens_are_those_of_peft_one_by_one(request: pytest.FixtureRequest) -> None:
    import torch

    for world, name in worlds(request):
        reference = peft_model(world.base, world.adapters[name] if name else None)
        ids = reference.generate(input_ids=torch.tensor([PROMPT]), max_new_tokens=40, do_sample=False)[0].tolist()
        engine = world.engine()
        engine.start()
        (heard,) = generate(engine, Generation(PROMPT, digest_of(name) if name else None, 40, GREEDY))
        engine.close()
        assert heard.tokens == ids[len(PROMPT) :], name
        assert len(set(heard.tokens)) > 10, "a model that repeats itself proves nothing"


def test_after_an_adapters_step_the_base_is_bitwise_the_bare_model(llama: World) -> None:
    import torch
    from transformers import DynamicCache

    runner = llama.engine().runner
    bare = peft_model(llama.base, None)
    plain, adapted = (runner.logits(PROMPT, digest, DynamicCache(config=bare.config)) for digest in (None, digest_of("all")))
    with torch.inference_mode():
        wanted = bare(input_ids=torch.tensor([PROMPT]), logits_to_keep=1).logits[0, -1]
        between_steps = runner.model(input_ids=torch.tensor([PROMPT]), logits_to_keep=1).logits[0, -1]
    assert torch.equal(plain, wanted)
    assert torch.equal(between_steps, wanted)
    assert (adapted - wanted).abs().max() > 0.5


def test_bfloat16_adds_the_float32_update_as_peft_does(llama: World) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, DynamicCache

    runner = llama.engine(dtype="bfloat16").runner
    model = AutoModelForCausalLM.from_pretrained(llama.base, dtype=torch.bfloat16).eval()
    reference = PeftModel.from_pretrained(model, llama.adapters["all"]).eval()
    got = runner.logits(PROMPT, digest_of("all"), DynamicCache(config=runner.model.config))
    with torch.inference_mode():
        wanted = reference(input_ids=torch.tensor([PROMPT])).logits[0, -1].float()
        plain = runner.logits(PROMPT, None, DynamicCache(config=runner.model.config))
    assert (got - wanted).abs().max() <= 0.02 * (plain - wanted).abs().max()
