"""The tokenizer and chat template files of a folder, and their ids. Knows files and hashes, not tokenisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from blake3 import blake3

from adreg.formats.canonical import canonical_json
from adreg.formats.strictjson import JsonObject, read_object

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
HASHED = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
ADDED_FLAGS = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class TokenizerFiles:
    """The files in `folder` that make a tokenizer; any of them may be missing."""

    folder: Path

    def present(self) -> list[Path]:
        """The files that exist, to be carried along with a merged model or an adapter."""
        return [self.folder / name for name in FILES if (self.folder / name).is_file()]

    @cached_property
    def definition(self) -> JsonObject | None:
        """tokenizer.json, or None."""
        path = self.folder / "tokenizer.json"
        return read_object(path, "T-TOK-0", limit=200_000_000) if path.is_file() else None

    @cached_property
    def config(self) -> JsonObject:
        """tokenizer_config.json, or an empty object."""
        path = self.folder / "tokenizer_config.json"
        return read_object(path, "T-TOK-0", limit=20_000_000) if path.is_file() else {}

    @cached_property
    def chat_template(self) -> str | None:
        """The default chat template: chat_template.jinja first, then tokenizer_config.json, else None."""
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        named = self.config.get("chat_template")
        if isinstance(named, list):
            named = {entry["name"]: entry["template"] for entry in named}.get("default")
        return named if isinstance(named, str) else None

    def special_token(self, role: str) -> str | None:
        """The text of `bos_token`, `eos_token`, `pad_token` or `unk_token`."""
        value = self.config.get(role)
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) else None

    @cached_property
    def tok_id(self) -> str | None:
        """Hash of what decides the token ids of a text; None without tokenizer.json."""
        return None if self.definition is None else tokenizer_id(self.definition)

    @cached_property
    def tpl_id(self) -> str | None:
        """Hash of the chat template with LF line ends and no trailing white space; None without one."""
        if self.chat_template is None:
            return None
        text = self.chat_template.replace("\r\n", "\n").replace("\r", "\n").rstrip()
        return "b3:" + blake3(b"adreg.tpl.v1\0" + text.encode()).hexdigest()


def tokenizer_id(definition: JsonObject) -> str:
    """The id of a tokenizer.json: vocabulary, merges, added tokens and the four processing steps."""
    model = definition.get("model") or {}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
    added = [{flag: token.get(flag) for flag in ADDED_FLAGS} for token in definition.get("added_tokens") or []]
    content = {
        "model": {key: value for key, value in model.items() if key not in ("vocab", "merges")},
        "vocab": model.get("vocab"),
        "merges": merges,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        **{step: definition.get(step) for step in HASHED},
    }
    return "b3:" + blake3(b"adreg.tok.v1\0" + canonical_json(content)).hexdigest()
