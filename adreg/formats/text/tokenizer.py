"""The tokenizer and chat template files of a folder, and their ids. Knows files and hashes, not tokenisation.

`tok_id` is what decides the ids of a text, `vocab_id` which token each id means; `tpl_id` is the text of the chat
template, `tpl_sem` what it renders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from blake3 import blake3

from adreg.errors import FormatError
from adreg.formats.canonical import canonical_pieces
from adreg.formats.strictjson import JsonObject, read_object
from adreg.formats.text.templates import template_meaning

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
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
TOKENIZER_LIMIT, CONFIG_LIMIT, TEMPLATE_LIMIT = 200_000_000, 20_000_000, 1_000_000
ADDED_FLAGS = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class TokenizerFiles:
    """The files in `folder` that make a tokenizer, or `files` by name wherever they lie; any of them may be missing.

    `template` is taken in place of the chat template in the files.
    """

    folder: Path
    files: Mapping[str, Path] | None = field(default=None, kw_only=True)
    template: str | None = field(default=None, kw_only=True)

    def place(self, name: str) -> Path:
        """Where the file `name` is, or would be."""
        return self.folder / name if self.files is None else self.files.get(name, self.folder / name)

    def has(self, name: str) -> bool:
        return (self.files is None or name in self.files) and self.place(name).is_file()

    def present(self) -> list[Path]:
        """The files that exist, to be carried along with a merged model or an adapter."""
        return [self.place(name) for name in FILES if self.has(name)]

    def with_template(self, text: str) -> TokenizerFiles:
        """The same files with the chat template `text` in place of theirs."""
        changed = replace(self, template=text)
        changed.__dict__.update({name: self.__dict__[name] for name in ("definition", "config") if name in self.__dict__})
        return changed

    @property
    def path(self) -> Path:
        """Where tokenizer.json is, or would be."""
        return self.place("tokenizer.json")

    @cached_property
    def definition(self) -> JsonObject | None:
        """tokenizer.json, or None."""
        return read_object(self.path, "T-TOK-0", TOKENIZER_LIMIT) if self.has("tokenizer.json") else None

    @cached_property
    def config(self) -> JsonObject:
        """tokenizer_config.json, or an empty object."""
        name = "tokenizer_config.json"
        return read_object(self.place(name), "T-TOK-0", CONFIG_LIMIT) if self.has(name) else {}

    @property
    def template_path(self) -> Path:
        """The file that the chat template would be in."""
        return self.place("chat_template.jinja" if self.has("chat_template.jinja") else "tokenizer_config.json")

    @cached_property
    def chat_template(self) -> str | None:
        """The default chat template: the one given, chat_template.jinja, then tokenizer_config.json, else None."""
        if self.template is not None:
            return self.template
        path = self.template_path
        if self.has("chat_template.jinja"):
            return _read_template(path)
        named = self.config.get("chat_template")
        if isinstance(named, list):
            entries = [entry for entry in named if isinstance(entry, dict)]
            named = {str(entry.get("name")): entry.get("template") for entry in entries}.get("default")
        if isinstance(named, str) and len(named) > TEMPLATE_LIMIT:
            raise FormatError(path, f"its chat template is longer than {TEMPLATE_LIMIT} characters", "T-TPL-1")
        return named if isinstance(named, str) else None

    def special_token(self, role: str) -> str | None:
        """The text of `bos_token`, `eos_token`, `pad_token` or `unk_token`."""
        value = self.config.get(role)
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) else None

    @property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens that a chat template may name, by role."""
        return {role: text for role in ROLES if (text := self.special_token(role)) is not None}

    @property
    def tok_id(self) -> str | None:
        """Hash of what decides the token ids of a text; None without tokenizer.json."""
        return None if self.token_ids is None else self.token_ids[0]

    @property
    def vocab_id(self) -> str | None:
        """Hash of which token each id means, added ones included; None without tokenizer.json."""
        return None if self.token_ids is None else self.token_ids[1]

    @cached_property
    def token_ids(self) -> tuple[str | None, str | None] | None:
        """`tok_id` and `vocab_id`, or None without tokenizer.json."""
        try:
            found = self.definition
            return None if found is None else (tokenizer_id(found), vocabulary_id(found))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise FormatError(self.path, f"is no tokenizer: {error!r}", "T-TOK-0") from error

    @cached_property
    def tpl_id(self) -> str | None:
        """Hash of the chat template with LF line ends and no trailing white space; None without one."""
        if self.chat_template is None:
            return None
        text = self.chat_template.replace("\r\n", "\n").replace("\r", "\n").rstrip()
        return "b3:" + blake3(b"adreg.tpl.v1\0" + text.encode()).hexdigest()

    @cached_property
    def tpl_sem(self) -> str | None:
        """Hash of what the chat template renders; None without one."""
        return None if self.chat_template is None else template_meaning(self.chat_template, self.special_tokens)


def stored_tokenizer(files: Mapping[str, Path]) -> TokenizerFiles | None:
    """The tokenizer among `files` by name, wherever they lie, or None where there is none."""
    own = {name: path for name, path in files.items() if name in FILES}
    return TokenizerFiles(next(iter(own.values())).parent, files=own) if own else None


def tokenizer_id(definition: JsonObject) -> str:
    """The id of a tokenizer.json: vocabulary, merges, added tokens and the four processing steps."""
    model = definition.get("model") or {}
    merges = model.get("merges") or []
    if set(map(type, merges)) == {list}:
        merges = list(map(" ".join, merges))
    added = [{flag: token.get(flag) for flag in ADDED_FLAGS} for token in definition.get("added_tokens") or []]
    content = {
        "model": {key: value for key, value in model.items() if key not in ("vocab", "merges")},
        "vocab": model.get("vocab"),
        "merges": merges,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        **{step: definition.get(step) for step in HASHED},
    }
    return _hash("adreg.tok.v1", content)


def vocabulary_id(definition: JsonObject) -> str:
    """The id of a tokenizer.json's vocabulary: ids in order and their tokens, as two lists. Raises `ValueError`.

    BPE, WordPiece and WordLevel map tokens to ids; Unigram lists tokens with their scores, in order of id.
    """
    pairs = sorted(_token_pairs(definition))
    ids, tokens = [id_ for id_, _ in pairs], [token for _, token in pairs]
    if set(map(type, ids)) - {int} or set(map(type, tokens)) - {str}:
        raise ValueError("its vocabulary is not made of ids and tokens")
    return _hash("adreg.vocab.v1", [ids, tokens])


def token_count(definition: JsonObject) -> int:
    """One more than the largest id of a tokenizer.json; 0 where there is none."""
    return max((id_ for id_, _ in _token_pairs(definition) if type(id_) is int), default=-1) + 1


def _token_pairs(definition: JsonObject) -> list[tuple[int, str]]:
    """Every id with its token, added ones included."""
    vocabulary = (definition.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, dict):
        pairs = list(zip(vocabulary.values(), vocabulary, strict=True))
    else:
        pairs = [(id_, token) for id_, (token, _) in enumerate(vocabulary)]
    added = {(token["id"], token["content"]) for token in definition.get("added_tokens") or []}
    return [*pairs, *added.difference(pairs)]


def _hash(domain: str, content: object) -> str:
    hasher = blake3(domain.encode() + b"\0")
    for piece in canonical_pieces(content):
        hasher.update(piece)
    return f"b3:{hasher.hexdigest()}"


def _read_template(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(TEMPLATE_LIMIT + 1)
    if len(text) > TEMPLATE_LIMIT:
        raise FormatError(path, f"is longer than {TEMPLATE_LIMIT} bytes", "T-TPL-1")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(path, f"is not UTF-8: {error}", "T-TPL-1") from error
