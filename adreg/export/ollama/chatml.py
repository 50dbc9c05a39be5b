"""ChatML, the chat template that adreg can write in Go. A Jinja template is recognised by what it renders, not by its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adreg.formats.text.chat_template import Message
from adreg.formats.text.templates import renderings

GO_TEMPLATE = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
PROBE: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello,\nyou!"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Good bye."},
]


@dataclass(frozen=True)
class ChatMl:
    """A template that renders as ChatML does; `system` is the prompt that it puts where a conversation has none."""

    system: str | None


def chatml_of(template: str) -> ChatMl | None:
    """What `template` is as ChatML; None where a conversation comes out otherwise, with or without a system message."""
    asked = ({"messages": messages, "add_generation_prompt": True} for messages in (PROBE, PROBE[1:]))
    whole, bare = renderings(template, list(asked))
    if whole != _chatml(PROBE) or bare is None or "strftime_now" in template:
        return None
    if bare == _chatml(PROBE[1:]):
        return ChatMl(None)
    head, rest = "<|im_start|>system\n", "<|im_end|>\n" + _chatml(PROBE[1:])
    known = bare.startswith(head) and bare.endswith(rest)
    return ChatMl(bare.removeprefix(head).removesuffix(rest)) if known else None


def _chatml(messages: Sequence[Message]) -> str:
    turns = (f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    return "".join(turns) + "<|im_start|>assistant\n"
