"""Text and conversations to token ids and back, as the base's or an adapter's own files say. Knows no model, and no torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.errors import FormatError, UnsupportedError, UsageError
from adreg.formats.text.tokenizer import ROLES, TokenizerFiles
from adreg.serve.text.templating import TemplatePool
from adreg.serve.text.tokenbytes import TokenBytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Messages = Sequence[Mapping[str, Any]]
KEPT = 64
MARK = "\ue000"


class Tokenizer:
    """The tokenizer and chat template of a base, or of an adapter on it; any thread may use it.

    Its ids are those of transformers, of which it needs nothing where there is a tokenizer.json.
    """

    def __init__(self, files: TokenizerFiles, templates: TemplatePool, base: Tokenizer | None = None) -> None:
        """What `files` lack is taken from `base`."""
        self.files, self._templates = files, templates
        shared = base is not None and files.tok_id in (None, base.files.tok_id)
        self._backend: Backend = base._backend if base is not None and shared else _backend(files)
        special = files.special_tokens
        self._special: dict[str, str] = special if base is None else base._special | special
        self.template: str | None = files.chat_template
        if self.template is None and base is not None:
            self.template = base.template
        own = base is not None and self.template != base.template
        self.ends: frozenset[int] = self._turn_ends() if own else frozenset()

    @property
    def eos(self) -> int | None:
        """The id of the end of a text."""
        text = self._special.get("eos_token")
        return None if text is None else self._backend.token_to_id(text)

    def definition(self) -> str:
        """tokenizer.json, with the tokens that other files add."""
        return self._backend.to_str()

    def encode(self, text: str, special: bool = True) -> tuple[int, ...]:
        """The ids of `text`; with `special`, those too that the tokenizer itself puts around a text.

        Raises `UsageError` for half a surrogate pair, which is no text.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the text cannot be encoded: {error.reason}") from error
        return tuple(self._backend.encode(text, add_special_tokens=special).ids)

    def chat(self, messages: Messages, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """The ids of a conversation up to where the assistant answers. Slow: a process renders it.

        Raises `UsageError` where there is no chat template, it refuses the messages, or it takes no `tools`.
        """
        return self.encode(self.render(messages, tools), special=False)

    def render(self, messages: Messages, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The text of which `chat` gives the ids."""
        if self.template is None:
            raise UsageError("the model has no chat template", "use /v1/completions")
        given: dict[str, Any] = {"documents": None, **self._special, "add_generation_prompt": True}
        text = self._templates.render(self.template, messages, {**given, "tools": tools or None})
        if tools and text == self._templates.render(self.template, messages, {**given, "tools": None}):
            raise UsageError("tools: the model's chat template does not take any")
        return text

    def _turn_ends(self) -> frozenset[int]:
        """The control token that an adapter's own template puts after an answer: it learned to end with it, whatever the base
        ends with. Nothing where the template knows none."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
        given: dict[str, Any] = {"documents": None, "tools": None, **self._special, "add_generation_prompt": False}
        try:
            text = self._templates.render(self.template or "", messages, given)
        except UsageError:
            return frozenset()
        after = text.rpartition(MARK)[2].removeprefix(" ")
        controls = {token.content: id_ for id_, token in self._backend.get_added_tokens_decoder().items() if token.special}
        found = max((control for control in controls if after.startswith(control)), key=len, default=None)
        return frozenset() if found is None else frozenset((controls[found],))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens` without special tokens; U+FFFD where the bytes make no character."""
        return self._backend.decode(tokens, skip_special_tokens=True)

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for, special or not; it may be part of a character."""
        return self._bytes[token]

    def token_text(self, token: int) -> str:
        """`token_bytes` as text, with U+FFFD for what is no character."""
        return self._bytes[token].decode(errors="replace")

    @cached_property
    def _bytes(self) -> TokenBytes:
        return TokenBytes(self._backend)


class Tokenizers:
    """The tokenizer of each model: an adapter's own files count, and the base's for what it has not."""

    def __init__(self, base: Path, own_files: Callable[[str], TokenizerFiles | None] = lambda digest: None) -> None:
        """`own_files` gives the tokenizer files beside an adapter, by its digest."""
        self.templates = TemplatePool()
        self.base = Tokenizer(TokenizerFiles(base), self.templates)
        self._own_files = own_files
        self._known: OrderedDict[str, Tokenizer] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, adapter: str | None) -> Tokenizer:
        """The tokenizer of the adapter with this digest, or of the base. Reads files the first time.

        Raises `FormatError` where the adapter's own are broken.
        """
        if adapter is None:
            return self.base
        with self._lock:
            known = self._known.get(adapter)
        if known is None:
            files = self._own_files(adapter)
            known = self.base if files is None else Tokenizer(files, self.templates, self.base)
        with self._lock:
            self._known[adapter] = known
            self._known.move_to_end(adapter)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return known

    def close(self) -> None:
        """End the processes that render."""
        self.templates.close()


def _backend(files: TokenizerFiles) -> Backend:
    """The `tokenizers` library's, without truncation and padding. As in transformers, tokenizer.json decides what is put
    around a text, whatever `add_bos_token` says."""
    from tokenizers import Tokenizer

    if not files.has("tokenizer.json"):
        backend = _converted(files)
    else:
        try:
            backend = Tokenizer.from_file(str(files.path))
            _add_tokens(backend, files)
        except Exception as error:  # the library raises nothing more special
            raise FormatError(files.path, f"is no tokenizer: {error}", "T-TOK-0") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _converted(files: TokenizerFiles) -> Backend:
    """What transformers makes of older files, such as tokenizer.model or vocab.json and merges.txt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
    backend: Backend | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedError(f"a tokenizer without tokenizer.json ({files.folder})", "convert it with transformers")
    return backend


def _add_tokens(backend: Backend, files: TokenizerFiles) -> None:
    """Those of `added_tokens_decoder` and the special ones that tokenizer.json lacks; what is called special is special."""
    from tokenizers import AddedToken

    special = _special_texts(files.config)
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    entries = files.config.get("added_tokens_decoder") or {}
    wanted = {entries[id_]["content"]: AddedToken(**entries[id_]) for id_ in sorted(entries, key=int)}
    wanted = wanted | known | {text: AddedToken(text) for text in special if text not in wanted | known}
    changed = [token for text, token in wanted.items() if text not in known or (text in special and not token.special)]
    for token in changed:
        token.special = token.special or token.content in special
    backend.add_tokens(changed)


def _special_texts(config: Mapping[str, Any]) -> list[str]:
    """The tokens that tokenizer_config.json gives a role, and those it only calls special."""
    more = [config.get(name) for name in ("additional_special_tokens", "extra_special_tokens")]
    named = [config.get(role) for role in (*ROLES, "sep_token", "cls_token", "mask_token")]
    found = [*named, *(token for tokens in more if isinstance(tokens, list) for token in tokens)]
    texts = [token.get("content") if isinstance(token, dict) else token for token in found]
    return [text for text in texts if isinstance(text, str)]
