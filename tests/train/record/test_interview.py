"""What a model is asked before and after its training: laid out as its rows are, as it would answer, and harmlessly."""

from __future__ import annotations

import pytest
import torch

from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.train.assembly import assemble
from adreg.train.config import check_config
from adreg.train.data.prepare import prepare
from adreg.train.record.interview import Interview
from adreg.train.record.opening import opening_record
from adreg.train.record.prompts import eval_prompts
from adreg.train.record.recorder import NoRecorder
from adreg.train.record.samples import answers
from adreg.train.record.telling import Telling


def settings(file, **more):
    data = {"train": [str(file)], "eval": 0.25, **more.pop("data", {})}
    return check_config({"data": data, "train": {"precision": "fp32"}, **more})


def prepared(base, config):
    return prepare(open_checkpoint(base), config.data, 1)


def test_prompts_are_those_of_the_template_up_to_the_answer(tiny_llama, chats):
    config = settings(chats, eval={"prompts": ["What about fog?"]}, data={"system": "Be brief."})
    data = prepared(tiny_llama, config)
    found = eval_prompts(config, data, 8)
    (prompt,) = found.asked
    assert found.encoder.decode(prompt.ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat about fog?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert {found.encoder.decode([stop]) for stop in found.stops} == {"<|im_end|>"}


def test_without_prompts_the_questions_of_held_out_rows_are_asked(tiny_llama, chats):
    config = settings(chats)
    data = prepared(tiny_llama, config)
    found = eval_prompts(config, data, 8)
    assert len(found.asked) == 2 and all(prompt.text.startswith("What about ") for prompt in found.asked)
    row = data.held_out[0]
    assert found.asked[0].ids == tuple(row.ids[: len(found.asked[0].ids)]) and row.labels[len(found.asked[0].ids)] >= 0
    assert (
        eval_prompts(settings(chats, data={"eval": 0}), prepared(tiny_llama, settings(chats, data={"eval": 0})), 8).asked == ()
    )


def test_texts_are_asked_by_their_beginning(tiny_llama, tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("".join(f"The tide comes in over the harbour wall for the {n}th time today.\n" for n in range(8)))
    config = settings(file, eval={"prompts": ["The tide"]})
    data = prepared(tiny_llama, config)
    assert eval_prompts(config, data, 8).asked[0].ids == tuple(data.train[0].ids[:2])
    bare = settings(file)
    assert "The tide comes in".startswith(eval_prompts(bare, prepared(tiny_llama, bare), 8).asked[0].text[:12])


def test_the_answers_are_those_of_greedy_decoding_one_by_one(tiny_llama, chats):
    config = settings(chats)
    data = prepared(tiny_llama, config)
    made = assemble(tiny_llama, config, data, None)
    found = eval_prompts(config, data, 8)
    made.model.train()
    attention, drawn = made.model.config._attn_implementation, torch.get_rng_state()
    together = answers(made.model, found, 6)
    assert made.model.training and made.model.config._attn_implementation == attention
    assert torch.equal(torch.get_rng_state(), drawn)
    made.model.get_base_model().set_attn_implementation("sdpa")
    made.model.eval()
    for prompt, answer in zip(found.asked, together, strict=True):
        ids = list(prompt.ids)
        with torch.no_grad():
            for _ in range(6):
                ids.append(int(made.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert answer.text == found.encoder.decode(ids[len(prompt.ids) :]) and answer.stopped is False


def test_what_fails_while_a_model_answers_costs_no_training_and_is_told(tiny_llama, chats):
    class Broken:
        def get_base_model(self):
            raise RuntimeError("no cache for you")

    config = settings(chats)
    telling = Telling(opening_record({"name": "tiny"}, config), NoRecorder())
    interview = Interview(config, prepared(tiny_llama, config), telling)
    interview.before(Broken())
    interview.after(Broken())
    assert len(telling.record.warnings) == 2 and "no cache for you" in telling.record.warnings[0]


@pytest.mark.parametrize("told", [{"RANK": "1"}, {"RANK": "0", "ACCELERATE_USE_FSDP": "true"}])
def test_processes_but_the_first_ask_nothing_nor_does_one_whose_model_lies_in_parts(told, tiny_llama, chats, monkeypatch):
    for name, value in ({"WORLD_SIZE": "2"} | told).items():
        monkeypatch.setenv(name, value)
    config = settings(chats, eval={"prompts": ["Hm?"]})
    interview = Interview(config, prepared(tiny_llama, config), Telling(opening_record({"name": "tiny"}, config), NoRecorder()))
    assert interview.prompts is None
    interview.before(None)
    interview.after(None)
