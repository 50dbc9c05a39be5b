"""Whole trainings of tiny models: against a padded loop by hand, against PEFT, and against themselves."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from adreg.errors import AdregError, ConflictError, DataError, UsageError
from adreg.formats.adapters.adapter import open_adapter
from adreg.train.data.encode import IGNORED
from adreg.train.loop.job import Job
from adreg.train.loop.trainer import run_loop
from adreg.train.model.fused import fuse
from adreg.train.model.load import load_model
from adreg.train.record.opening import published
from adreg.train.run import TrainRequest, train
from adreg.train.steps.batch import shared_prefix
from adreg.train.steps.layout import choose_layout
from adreg.train.steps.sft import SftObjective
from tests.builders import build_checkpoint
from tests.train.conftest import prepared, small_config

IDS = {"weights_id": "b3:00", "tok_id": None}


def request(base, config, output):
    return TrainRequest(base, "org/tiny", IDS, config, output)


def padded_reference(model, examples, steps, lr):
    """The losses of the textbook loop: rows padded to one width, an attention mask, all logits, the model's own loss."""
    width = max(len(example.ids) for example in examples)
    ids, labels, mask = (torch.full((len(examples), width), fill) for fill in (0, IGNORED, 0))
    for place, example in enumerate(examples):
        length = len(example.ids)
        ids[place, :length] = torch.from_numpy(example.ids)
        labels[place, :length] = torch.from_numpy(example.labels)
        mask[place, :length] = 1
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_losses_of_every_step_are_those_of_a_padded_loop(request, chats, kind, monkeypatch):
    base, config = request.getfixturevalue(f"tiny_{kind}"), small_config(chats, max_steps=6)
    examples = prepared(base, config).train
    reference = load_model(base, config)
    silence_dropout(reference)
    expected = padded_reference(reference.train(), examples, 6, config.train.lr)
    model = load_model(base, config)
    silence_dropout(model)
    layout = choose_layout(model, examples)
    assert layout.attention == "adreg_rows" and layout.share and shared_prefix(examples) > 10
    assert fuse(model) > 0
    course = run_loop(model, SftObjective(layout), examples, config.train)
    losses = [step.loss for step in course.losses]
    assert losses == pytest.approx(expected, rel=2e-5)
    assert losses[-1] < losses[0] - 0.5
    assert course.tokens == 6 * sum(len(example.ids) for example in examples)


def looped(base, config, checkpointing=False):
    """The course of a run, and how often the first layer was computed."""
    examples, model, calls = prepared(base, config).train, load_model(base, config), []
    layout = choose_layout(model, examples)
    model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    return run_loop(model, SftObjective(layout), examples, config.train, Job(checkpointing=checkpointing)), len(calls)


def test_checkpointing_computes_layers_twice_and_the_same_losses(tiny_llama, chats):
    config = small_config(chats, max_steps=2)
    (once, calls), (twice, more) = looped(tiny_llama, config), looped(tiny_llama, config, checkpointing=True)
    assert more == 2 * calls > 0
    assert [step[:3] for step in once.losses] == [step[:3] for step in twice.losses]


def test_a_packed_epoch_takes_every_row_in_as_few_steps_as_their_tokens_need(tiny_llama, chats):
    config = small_config(chats, packing=True, epochs=1, micro_tokens=150)
    lengths = [len(example.ids) for example in prepared(tiny_llama, config).train]
    course, passes = looped(tiny_llama, config)
    assert course.tokens == sum(lengths)
    assert len(course.losses) == passes and passes - -(-sum(lengths) // 150) in (0, 1)


def silence_dropout(model):
    """GPT-2 drops activations while it trains, each layout other ones."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attn_dropout"):
            module.attn_dropout.p = 0.0


@pytest.fixture(scope="module")
def trained(tiny_llama, tmp_path_factory):
    """A short run in the automatic precision, with two rows held out."""
    from tests.train.conftest import TOPICS, chat, write_rows

    folder = tmp_path_factory.mktemp("trained")
    rows = [chat(f"What about {topic}?", f"Aye, {topic}. Mind the rocks.") for topic in TOPICS]
    file = write_rows(folder / "chats.jsonl", rows)
    config = small_config(file, batch=4, epochs=6, precision="auto", schedule="cosine", warmup=0.1)
    config = config.model_copy(update={"data": config.data.model_copy(update={"eval": 0.25})})
    return config, train(request(tiny_llama, config, folder / "out"))


def test_the_adapter_is_plain_and_loads_in_peft_with_the_loss_that_was_recorded(trained, tiny_llama):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config, result = trained
    adapter = open_adapter(result.folder)
    assert len(adapter.modules) == 14 and not adapter.foreign and not adapter.features
    assert adapter.config.raw["base_model_name_or_path"] == "org/tiny"
    assert adapter.parameters == result.record.trainable
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), result.folder)
    losses = [plain_loss(model, example) for example in prepared(tiny_llama, config).held_out]
    mean = sum(loss for loss, _ in losses) / sum(count for _, count in losses)
    assert mean == pytest.approx(result.record.eval.adapter, rel=0.01)
    assert result.record.eval.adapter < result.record.eval.base - 0.5


def plain_loss(model, example):
    with torch.no_grad():
        out = model(input_ids=torch.tensor(example.ids[None]).long(), labels=torch.tensor(example.labels[None]).long())
    return out.loss.item() * example.trained, example.trained


def test_the_record_tells_the_whole_run(trained, tiny_llama):
    config, result = trained
    record = result.record
    stored = json.loads((result.folder / "adreg.json").read_text())
    assert stored == json.loads(json.dumps(published(asdict(record))))
    assert stored["base"] == {"name": "org/tiny", **IDS}
    assert [step["used"] for step in stored["data"]] == [8]
    assert (record.rows, record.eval.rows, record.steps, record.seed) == (6, 2, 12, 42)
    assert [step.step for step in record.losses] == list(range(1, 13))
    assert record.losses[-1].loss < record.losses[0].loss
    assert max(step.lr for step in record.losses) == config.train.lr
    assert record.trained_tokens == 6 * sum(example.trained for example in prepared(tiny_llama, config).train)
    assert record.outcome == "finished" and record.platform["attention"] == "adreg_rows"
    card = (result.folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\nbase_model: org/tiny\n")
    assert (result.folder / "chat_template.jinja").read_bytes() == (tiny_llama / "chat_template.jinja").read_bytes()


def test_nothing_of_this_machine_is_written_into_the_folder(trained, tiny_llama):
    _, result = trained
    for name in ("adapter_config.json", "README.md"):
        assert str(tiny_llama.parent) not in (result.folder / name).read_text()


def test_the_seed_decides_every_byte_of_the_adapter(tiny_llama, chats, tmp_path):
    def weights(seed, place):
        config = small_config(chats, seed=seed, max_steps=3, batch=3)
        folder = train(request(tiny_llama, config, tmp_path / place)).folder
        return (folder / "adapter_model.safetensors").read_bytes(), (folder / "adapter_config.json").read_bytes()

    first = weights(1, "first")
    assert first == weights(1, "again")
    assert first[0] != weights(2, "other")[0]


def test_a_run_that_fails_leaves_nothing_behind(tiny_llama, chats, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(ConflictError):
        train(request(tiny_llama, small_config(chats), tmp_path / "taken"))
    out = tmp_path / "new" / "out"
    chats.write_text(chats.read_text() + "{broken\n")
    with pytest.raises(DataError, match=r"chats\.jsonl:9: "):
        train(request(tiny_llama, small_config(chats), out))
    assert not out.parent.exists()


def test_a_loss_that_is_no_number_ends_the_run(tmp_path, tokenizer_folder, chats):
    from safetensors.torch import load_file, save_file

    base = build_checkpoint(tmp_path / "base", "llama", tokenizer_folder)
    weights = load_file(base / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] * torch.inf}, base / "model.safetensors")
    with pytest.raises(AdregError, match="training diverged at step 1: the loss is nan"):
        train(request(base, small_config(chats, max_steps=2), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_recipe_for_another_base_and_targets_it_lacks_are_refused(tiny_llama, chats, tmp_path):
    config = small_config(chats).model_copy(update={"expected_trainable": 2442240})
    with pytest.raises(UsageError, match="the recipe trains 2,442,240 parameters and this base would train"):
        train(request(tiny_llama, config, tmp_path / "out"))
    config = small_config(chats)
    config = config.model_copy(update={"lora": config.lora.model_copy(update={"targets": ["c_attn"]})})
    with pytest.raises(UsageError, match="this base has no 'c_attn'") as caught:
        train(request(tiny_llama, config, tmp_path / "out"))
    assert "q_proj" in caught.value.hint
