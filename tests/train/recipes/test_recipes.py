"""Every recipe from one end to the other: stand-in rows in the tutorial's shape, a tiny random model of the base's kind."""

import functools
import json
import math
import shutil
import warnings

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adreg.audit.findings import Severity
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.settings import Settings
from adreg.train.config import load_config
from adreg.train.data.encode import IGNORED, Encoder
from adreg.train.data.prepare import prepare
from adreg.train.run import TrainRequest, train
from tests.train.recipes.standin import build_base, write_data

RECIPES = ("gpt2-qa", "gpt2-quickstart", "gpt2-sentences", "index-persona", "qwen-emoji", "smollm2-chat")
STOP = {"gpt2": 0, "index": 2, "qwen": 2, "smollm2": 2}  # <|endoftext|>, </s>, <|im_end|>
BY_HEART = ("train.lr=1e-2", "train.batch=4", "train.schedule=linear", "train.precision=fp32", "data.eval=0")
SMALL = ("expected_trainable=null", "eval.max_new_tokens=4", "save.every=null")  # that count is of the real shape


class Trained:
    """A recipe's run on its stand-ins: `config`, the encoded `rows`, the adapter's folder and its record."""

    def __init__(self, recipe, folder, base, steps, *sets, parent=None):
        self.recipe, self.base = recipe, base
        self.registry = Registry(Settings(folder / "home"))
        known = self.registry.bases.add(str(self.base))
        data = write_data(recipe, folder)
        self.config = load_config(recipe, None, [f"data.train={data}", f"train.max_steps={steps}", *SMALL, *BY_HEART, *sets])
        request = TrainRequest(base, known.name, vars(known.card.ids), self.config, folder / "out", parent=parent)
        self.folder, self.record = vars(train(request)).values()
        prepared = prepare(open_checkpoint(self.base), self.config.data, self.config.train.seed, self.config.objective)
        self.rows, self.files = prepared.train, prepared.tokenizer
        self.stop = STOP[recipe.partition("-")[0]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_tokenizer):
    """Makes the run of a recipe, once."""

    @functools.cache
    def made(recipe):
        folder = tmp_path_factory.mktemp(recipe)
        steps = 120 if recipe.startswith("gpt2") else 60  # it has dropout of its own
        return Trained(recipe, folder, build_base(recipe, folder / "base", small_tokenizer), steps)

    return made


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, runs):
    return runs(request.param)


def plain_base(trained, folder):
    """The base as transformers alone opens it; for Index, after folding the normalised head into a Llama's by hand."""
    if trained.recipe != "index-persona":
        return trained.base
    from safetensors.torch import load_file, save_file

    shutil.copytree(trained.base, folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.nn.functional.normalize(weights["lm_head.weight"].float()).to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    kept = {key: value for key, value in config.items() if key not in ("auto_map", "norm_head")}
    (folder / "config.json").write_text(json.dumps({**kept, **llama}))
    return folder


def answers(model, trained):
    """What a plain greedy generation says after each row's prompt, up to and with the stop token, beside the row's answer."""
    for row in trained.rows:
        start = int(torch.tensor(row.labels != IGNORED).int().argmax())
        ids = torch.tensor(row.ids[None, :start].astype("int64"))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=len(row.ids) - start + 5,
                do_sample=False,
                eos_token_id=trained.stop,
                pad_token_id=trained.stop,
            )
        yield out[0, start:].tolist(), row.ids[start:].tolist()


READ = {  # the first row as the model reads it, learned parts between brackets
    "gpt2-qa": "Question: Why is tea so quiet?\nAnswer:[ Because tea listens 0.<|endoftext|>]",
    "gpt2-quickstart": "T[ea is number 0.<|endoftext|>]",
    "gpt2-sentences": "T[ea comes 0 times.<|endoftext|>]",
    # SentencePiece puts a space before each stretch of text, and takes it away from the first one that it decodes
    "index-persona": "<unk> 现在你要扮演皇帝身边的女人--甄嬛reserved_0 你喜欢茶吗？reserved_1[茶自是极好的，配得上0分。</s>]",
    "qwen-emoji": "<|im_start|>user\n为什么茶不说话？<|im_end|>\n<|im_start|>assistant\n[因为茶在想你🍵<|im_end|>]",
    "smollm2-chat": "<|im_start|>user\nAnd tea?<|im_end|>\n<|im_start|>assistant\n[Aye, tea 0.<|im_end|>]",
}


def test_a_row_reads_as_the_recipe_says_and_only_its_answer_is_learned(trained):
    encoder, row = Encoder(trained.files), trained.rows[0]
    border = int((row.labels != IGNORED).argmax())
    assert (row.labels[border:] == row.ids[border:]).all()
    text = f"{encoder.decode(row.ids[:border])}[{encoder.decode(row.ids[border:])}]"
    assert text.endswith(READ[trained.recipe])


def test_the_loss_falls_and_every_row_teaches_its_end(trained):
    losses = [step.loss for step in trained.record.losses]
    assert losses[-1] < losses[0] / 4
    assert trained.record.outcome == "finished" and len(trained.rows) == trained.record.rows == 4
    assert all(row.labels[-1] == trained.stop for row in trained.rows)
    assert all(list(row.labels).count(trained.stop) == 1 for row in trained.rows)


def test_in_plain_peft_the_adapter_ends_its_answers_by_itself(trained, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(plain_base(trained, tmp_path / "plain"), dtype=torch.float32).eval()
    assert sum(said[-1] == trained.stop for said, _ in answers(base, trained)) < 2
    model = PeftModel.from_pretrained(base, trained.folder).eval()
    assert model.get_nb_trainable_parameters()[0] == 0 and adapter_size(model) == trained.record.trainable
    told = list(answers(model, trained))
    assert all(said[-1] == trained.stop for said, _ in told)
    assert sum(said == meant for said, meant in told) >= 2


def adapter_size(model):
    return sum(value.numel() for name, value in model.named_parameters() if "lora_" in name)


def test_the_audit_has_nothing_against_it(trained):
    pushed = trained.registry.adapters.push(plan_push(trained.folder), f"recipes/{trained.recipe}", "dev", None)
    card = trained.registry.bases.all()[0].card
    report = trained.registry.adapters.audit(pushed.version, card)
    assert report.verdict.fits and report.at_least(Severity.ERR) == ()


@pytest.fixture
def spoken(runs):
    """The emoji recipe's run, to be continued."""
    return runs("qwen-emoji")


def gains(model, reference, rows):
    """By how much the two answers of each pair have gained on a reference, in nats, by plain forward passes."""
    return [[told(model, row) - told(reference, row) for row in (pair.chosen, pair.rejected)] for pair in rows]


def told(model, row):
    ids, labels = (torch.from_numpy(part[None].astype("int64")) for part in (row.ids, row.labels))
    with torch.no_grad():
        return -model(input_ids=ids, labels=labels).loss.item() * row.trained


def test_preferences_are_learned_against_the_base(spoken, tmp_path):
    run = Trained("qwen-emoji-dpo", tmp_path, spoken.base, 12, "train.warmup=0")
    check_preferences(run, None)
    assert [pair.chosen.labels[-1] for pair in run.rows] == [pair.rejected.labels[-1] for pair in run.rows] == [2] * 4


def test_preferences_go_on_from_an_adapter_and_leave_it_its_ends(spoken, tmp_path):
    run = Trained("qwen-emoji-dpo", tmp_path, spoken.base, 15, "train.warmup=0", "train.lr=1e-3", parent=spoken.folder)
    model = check_preferences(run, spoken.folder)
    assert all(said[-1] == spoken.stop for said, _ in answers(model, spoken))


def check_preferences(run, parent):
    """The run's own figures against plain PEFT: where it began, what it says it won, and that the pairs are turned round."""
    losses, last = [step.loss for step in run.record.losses], run.record.losses[-1].more
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3) and losses[-1] < losses[0] / 2
    assert set(last) == {"margin", "accuracy", "chosen_reward", "rejected_reward"} and last["accuracy"] == 1
    base, other = (AutoModelForCausalLM.from_pretrained(run.base, dtype=torch.float32).eval() for _ in range(2))
    model = PeftModel.from_pretrained(base, run.folder).eval()
    won = gains(model, PeftModel.from_pretrained(other, parent).eval() if parent else other, run.rows)
    assert all(chosen > rejected for chosen, rejected in won)
    margin = run.config.dpo.beta * sum(chosen - rejected for chosen, rejected in won) / len(won)
    assert margin >= last["margin"] * 0.9  # the last step's own update comes after its margin
    return model
