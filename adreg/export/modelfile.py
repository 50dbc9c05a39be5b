"""The Ollama Modelfile beside a GGUF file: stop texts, system prompt, and a Go template where a right one is known.

The chat template is recognised by what it renders, not by its text. One that is not recognised is left to the Jinja
template inside the GGUF file, which Ollama runs by itself. Format: https://docs.ollama.com/modelfile
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from adreg.errors import UsageError
from adreg.export.plan import MergePlan
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.strictjson import read_object
from adreg.formats.text.chat_template import Message, compile_template

CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
PROBE: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello,\nyou!"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Good bye."},
]


def modelfile(plan: MergePlan) -> str:
    """The Modelfile for the GGUF file of `plan`."""
    lines = [f"FROM ./{plan.path.name}"]
    lines += [f"PARAMETER stop {_quoted(text)}" for text in stop_texts(plan.request.base)]
    template = plan.chat_template
    system = plan.request.system
    if template is not None and is_chatml(template):
        lines.append(f"TEMPLATE {_block(CHATML)}")
        system = system or default_system(template)
    elif template is not None:
        lines.append("# No TEMPLATE: Ollama uses the Jinja chat template inside the GGUF file.")
    else:
        lines.append("# No TEMPLATE: the model has no chat template.")
    if system:
        lines.append(f"SYSTEM {_block(system)}")
    return "\n".join(lines) + "\n"


def stop_texts(base: Checkpoint) -> list[str]:
    """The texts of the end tokens that the tokenizer, the configuration and the generation settings name."""
    path = base.folder / "generation_config.json"
    generation = read_object(path, "B-CFG-0") if path.is_file() else {}
    ids = [*_as_list(generation.get("eos_token_id")), *_as_list(base.config.get("eos_token_id"))]
    added = {token["id"]: token["content"] for token in (base.tokenizer.definition or {}).get("added_tokens") or []}
    named = base.tokenizer.special_token("eos_token")
    return list(dict.fromkeys([*([named] if named else []), *(added[id_] for id_ in ids if id_ in added)]))


def is_chatml(template: str) -> bool:
    """Whether a conversation comes out of `template` exactly as ChatML, with and without a system message."""
    rendered, bare = _render(template, PROBE), _render(template, PROBE[1:])
    return rendered == _chatml(PROBE) and bare in (_chatml(PROBE[1:]), _with_default(template))


def default_system(template: str) -> str | None:
    """The system prompt that a ChatML template puts where the conversation has none, or None."""
    bare = _render(template, PROBE[1:])
    head, rest = "<|im_start|>system\n", "<|im_end|>\n" + _chatml(PROBE[1:])
    if bare is None or not bare.startswith(head) or not bare.endswith(rest):
        return None
    return bare.removeprefix(head).removesuffix(rest)


def _with_default(template: str) -> str | None:
    system = default_system(template)
    return None if system is None else _chatml([{"role": "system", "content": system}, *PROBE[1:]])


def _render(template: str, messages: Sequence[Message]) -> str | None:
    """The prompt for `messages`, or None where `template` refuses or cannot take them."""
    try:
        return compile_template(template).render(messages=list(messages), add_generation_prompt=True)
    except (TemplateError, TypeError):
        return None


def _chatml(messages: Sequence[Message]) -> str:
    turns = (f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    return "".join(turns) + "<|im_start|>assistant\n"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _quoted(text: str) -> str:
    return _block(text) if '"' in text or "\n" in text else f'"{text}"'


def _block(text: str) -> str:
    """`text` between triple quotes, the only form in which a Modelfile takes quotes and line ends."""
    if '"""' in text or text.startswith('"') or text.endswith('"'):
        raise UsageError("a Modelfile cannot hold a text with triple quotes, or with quotes at its ends", "reword it")
    return f'"""{text}"""'
