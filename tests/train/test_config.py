import pytest

from adreg.errors import NotFoundError, UsageError
from adreg.train.config import load_config, setting_names
from adreg.train.recipes import names


def test_every_packaged_recipe_is_a_valid_configuration():
    assert {"default", "demo", "smollm2-chat"} <= set(names())
    for name in names():
        assert load_config(name).description


def test_file_goes_over_recipe_and_set_over_both(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {lr: 3.0e-4, batch: 4}\ndata: {train: one.jsonl}\n")
    config = load_config("smollm2-chat", file, ["train.batch=2", "train.lr=1e-3"])
    assert (config.train.batch, config.train.lr, config.train.epochs, config.lora.r) == (2, 1e-3, 3, 8)
    assert [str(source.path) for source in config.data.train] == ["one.jsonl"]
    assert config.expected_trainable == 2442240


def test_a_changed_adapter_drops_the_count_that_the_recipe_expected():
    assert load_config("smollm2-chat", sets=["lora.r=4"]).expected_trainable is None


def test_alpha_is_twice_the_rank_unless_given():
    assert load_config(sets=["lora.r=4"]).lora.chosen_alpha == 8
    assert load_config(sets=["lora.alpha=4"]).lora.chosen_alpha == 4


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("lora.rank=4", "lora.r?"),
        ("lora.alhpa=4", "lora.alpha?"),
        ("learning_rate=1", "train.lr?"),
        ("epochs=3", "train.epochs?"),
        ("data.map.anwser=x", "data.map.answer?"),
        ("nonsense=1", ", ".join(setting_names())),
    ],
)
def test_an_unknown_setting_is_refused_with_the_one_that_was_meant(setting, hint):
    with pytest.raises(UsageError, match=f"no setting '{setting.partition('=')[0]}'") as caught:
        load_config(sets=[setting])
    assert caught.value.hint.endswith(hint)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lora.r=0", "lora.r is 0: .*greater than or equal to 1"),
        ("lora.r=yes", "lora.r is True: .*valid integer"),
        ("train.precision=fp16", "train.precision is 'fp16': .*'auto', 'bf16' or 'fp32'"),
        ("data.eval=2", "data.eval is 2: .*less than 1"),
        ("train.lr=.inf", "train.lr is inf"),
        ("lora.r", "sets nothing"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(setting, words):
    with pytest.raises(UsageError, match=words):
        load_config(sets=[setting])


def test_an_unknown_recipe_names_its_neighbour():
    with pytest.raises(NotFoundError) as caught:
        load_config("smollm-chat")
    assert "smollm2-chat" in caught.value.close
