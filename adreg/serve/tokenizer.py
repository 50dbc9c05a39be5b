"""The base's tokenizer and chat template. Knows text and token ids, not the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from adreg.errors import UsageError


class Tokenizer:
    """transformers' tokenizer of `folder`, used without truncation or padding, which makes it safe for threads."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()

    @property
    def eos(self) -> int | None:
        eos: int | None = self._tokenizer.eos_token_id
        return eos

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of `text`, with the special tokens that the tokenizer itself adds."""
        return tuple(self._tokenizer.encode(text))

    def chat(self, messages: Iterable[dict[str, str]]) -> tuple[int, ...]:
        """The ids of a conversation up to where the assistant answers. Raises `UsageError` where the template refuses."""
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise UsageError("the model has no chat template", "use /v1/completions")
        try:
            ids = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            raise UsageError(f"the chat template refuses these messages: {error}") from error
        return tuple(ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens` without special tokens; U+FFFD where the bytes make no character."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text
