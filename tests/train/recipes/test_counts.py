"""What the recipes say against the real shapes of their bases, on the meta device: no weights needed."""

from pathlib import Path

import pytest

from adreg.errors import ConflictError, NotFoundError
from adreg.train.config import load_config
from adreg.train.model.load import count_trainable
from adreg.train.recipes import copy_recipe, names, overview, recipe_text

PAGE = Path(__file__).parents[3] / "docs" / "train.md"
GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
INDEX = {
    "model_type": "index", "architectures": ["IndexForCausalLM"], "vocab_size": 65029, "hidden_size": 2048, "norm_head": 1,
    "intermediate_size": 5888, "num_hidden_layers": 36, "num_attention_heads": 16, "tie_word_embeddings": False,
}  # fmt: skip
QWEN = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
COUNTS = {  # recipe: base, trainable and total parameters
    "demo": (SMOLLM2, 2_442_240, 136_957_248),
    "gpt2-qa": (GPT2, 589_824, 125_029_632),
    "gpt2-quickstart": (GPT2, 294_912, 124_734_720),
    "gpt2-sentences": (GPT2, 589_824, 125_029_632),
    "index-persona": (INDEX, 11_575_296, 2_184_394_752),
    "qwen-emoji": (QWEN, 1_081_344, 495_114_112),
    "qwen-emoji-dpo": (QWEN, 1_081_344, 495_114_112),
    "smollm2-chat": (SMOLLM2, 2_442_240, 136_957_248),
}


def test_every_recipe_for_a_base_is_counted():
    assert set(COUNTS) | {"default"} == set(names())


@pytest.mark.parametrize("name", COUNTS)
def test_on_the_real_shape_a_recipe_trains_what_it_expects(name):
    shape, trainable, total = COUNTS[name]
    config = load_config(name)
    assert config.expected_trainable == trainable
    assert count_trainable(shape, config) == (trainable, total)


def test_the_overview_tells_base_rows_and_count():
    by_name = {recipe.name: recipe for recipe in overview()}
    assert list(by_name) == names()
    one = by_name["qwen-emoji-dpo"]
    assert (one.base, one.objective, one.trainable) == ("Qwen/Qwen2.5-0.5B-Instruct", "dpo", 1_081_344)
    assert one.form == "question / answer_zh / answer_en"
    assert by_name["default"].base is None and by_name["default"].form == "any"


def test_a_copy_is_the_recipe_and_goes_over_nothing(tmp_path):
    file = tmp_path / "mine.yaml"
    copy_recipe("qwen-emoji", file)
    assert file.read_text(encoding="utf-8") == recipe_text("qwen-emoji")
    assert load_config(file=file) == load_config("qwen-emoji")
    with pytest.raises(ConflictError, match="already exists"):
        copy_recipe("qwen-emoji", file)
    with pytest.raises(NotFoundError):
        copy_recipe("qwen-emojis", tmp_path / "other.yaml")


def test_the_page_tells_every_recipe_with_its_base_and_count():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for recipe in (one for one in overview() if one.base and one.trainable):
        told = (f"`{recipe.name}`", f"{recipe.trainable:,}", str(recipe.base))
        assert [row for row in rows if all(words in row for words in told)]
