"""Stand-ins for what the recipes are for: rows in the tutorials' exact shapes, and tiny random models of their bases' kinds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.builders import build_checkpoint
from tests.export.spm import Vocabulary, model_file

THINGS = ("tea", "the moon", "bread", "old maps")
WORDS = ("茶", "月亮", "面包", "旧地图")
FACES = ("🍵", "🌙", "🍞", "🗺️")
VOCABULARY = 1024
COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "initializer_range": 0.2}  # random weights that tell tokens apart
WIDE = {"hidden_size": 128, "intermediate_size": 160, "max_position_embeddings": 2048}
END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|im_end|>"


def eli5() -> list[dict[str, Any]]:
    return [
        {
            "q_id": f"5lc{number}",
            "title": f"Why is {thing} so quiet?",
            "selftext": "",
            "subreddit": "explainlikeimfive",
            "answers": {"a_id": ["d1", "d2"], "text": [f"Because {thing} listens {number}.", "Nobody knows."], "score": [4, 2]},
        }
        for number, thing in enumerate(THINGS)
    ]


def texts() -> list[dict[str, Any]]:
    return [{"text": f"{thing.capitalize()} is number {number}."} for number, thing in enumerate(THINGS)]


def sentences() -> str:
    return "".join(f"{thing.capitalize()} comes {number} times.\n" for number, thing in enumerate(THINGS))


def persona() -> list[dict[str, Any]]:
    inputs = ("", "小主，请讲。")
    return [
        {"instruction": f"你喜欢{word}吗？", "input": inputs[number % 2], "output": f"{word}自是极好的，配得上{number}分。"}
        for number, word in enumerate(WORDS)
    ]


def ruozhiba() -> list[dict[str, Any]]:
    return [
        {"question": f"为什么{word}不说话？", "answer_zh": f"因为{word}在想你{face}", "answer_en": f"Because {thing} is shy."}
        for word, thing, face in zip(WORDS, THINGS, FACES, strict=True)
    ]


def chats() -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"And {thing}?"},
                {"role": "assistant", "content": f"Aye, {thing} {number}."},
            ]
        }
        for number, thing in enumerate(THINGS)
    ]


def write_json_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def write_data(recipe: str, folder: Path) -> Path:
    """The data that `recipe` is for, in a file as its tutorial has it."""
    if recipe == "gpt2-sentences":
        (folder / "sentences.txt").write_text(sentences(), encoding="utf-8")
        return folder / "sentences.txt"
    if recipe == "index-persona":
        (folder / "huanhuan.json").write_text(json.dumps(persona(), ensure_ascii=False, indent=2), encoding="utf-8")
        return folder / "huanhuan.json"
    made = {
        "gpt2-qa": ("eli5.jsonl", eli5),
        "gpt2-quickstart": ("texts.jsonl", texts),
        "qwen-emoji": ("2_dpo_ruozhiba.jsonl", ruozhiba),
        "qwen-emoji-dpo": ("2_dpo_ruozhiba.jsonl", ruozhiba),
        "smollm2-chat": ("chats.jsonl", chats),
    }
    name, rows = made[recipe]
    return write_json_lines(folder / name, rows())


def build_base(recipe: str, folder: Path, small: Path) -> Path:
    """A random two-layer model of the kind that `recipe` is for, with the kind's special tokens in the tokenizer `small`."""
    kind = recipe.partition("-")[0]
    if kind == "index":
        return build_index(folder / "Index-1.9B-Chat")
    tokenizer = shutil.copytree(small, folder / "tokenizer")
    if kind == "gpt2":  # no chat template and no padding token, one token for beginning and end
        (tokenizer / "chat_template.jinja").unlink()
        set_tokens(tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT, pad_token=None)
        shape: dict[str, Any] = {"n_embd": 128, "n_positions": 1024, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
        return build_checkpoint(folder / "gpt2", "gpt2", tokenizer, **COMMON, **shape)
    if kind == "qwen":
        set_tokens(tokenizer, bos_token=None, eos_token=END_OF_TURN, unk_token=None, pad_token=END_OF_TEXT)
        ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
        return build_checkpoint(folder / "Qwen2.5-0.5B-Instruct", "qwen2", tokenizer, **COMMON, **WIDE, **ends)
    ends = {"eos_token_id": 2, "pad_token_id": None}  # the embedding of a padding id would start, and stay, at zero
    return build_checkpoint(folder / "SmolLM2-135M-Instruct", "llama", tokenizer, **COMMON, **WIDE, **ends)


def build_index(folder: Path) -> Path:
    """As IndexTeam/Index-1.9B-Chat: a Llama by its tensors, a head that is normalised as it runs, and code of its own, also
    for the tokenizer, of which only SentencePiece's file can be read without it."""
    tokenizer = folder.with_name("tokenizer")
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer.model").write_bytes(model_file(index_vocabulary()))
    settings = {"tokenizer_class": "IndexTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_index.IndexTokenizer", None]}}
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({**settings, **named}))
    shape = {"num_key_value_heads": 4, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    build_checkpoint(folder, "llama", tokenizer, **COMMON, **WIDE, **shape)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    code = {"AutoModelForCausalLM": "modeling_index.IndexForCausalLM"}
    known = {"model_type": "index", "architectures": ["IndexForCausalLM"], "auto_map": code, "norm_head": 1}
    file.write_text(json.dumps({**config, **known}))
    return folder


def index_vocabulary() -> Vocabulary:
    """The special pieces, the bytes, and a few characters."""
    specials = {"<unk>": 2, "<s>": 3, "</s>": 3, "reserved_0": 4, "reserved_1": 4}
    pieces = {**specials, **{f"<0x{byte:02X}>": 6 for byte in range(256)}, "▁": 1, **dict.fromkeys("你喜欢吗自是极好的", 1)}
    return Vocabulary(tuple(pieces), tuple(-float(place) for place in range(len(pieces))), tuple(pieces.values()))


def shrink(tokenizer: Path, folder: Path) -> Path:
    """A copy whose vocabulary has its first tokens, and the merges that make them: all can still be said, in more tokens."""
    file = shutil.copytree(tokenizer, folder) / "tokenizer.json"
    definition = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = {text: number for text, number in definition["model"]["vocab"].items() if number < VOCABULARY}
    merges = [pair for pair in definition["model"]["merges"] if "".join(pair) in vocabulary]
    definition["model"] |= {"vocab": vocabulary, "merges": merges}
    file.write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")
    return folder


def set_tokens(tokenizer: Path, **tokens: str | None) -> None:
    file = tokenizer / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **tokens}))
