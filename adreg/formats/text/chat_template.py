"""Renders a chat template in a sandbox, to the same text as transformers. Knows Jinja and messages, not tokens.

Templates come with models and are not trusted: the environment is Jinja's immutable sandbox, without loaders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from adreg.errors import FormatError, UsageError
from adreg.formats.text.tokenizer import TokenizerFiles

Message = Mapping[str, Any]
GENERATED = "\ue002\ue003"


def render_chat(
    tokenizer: TokenizerFiles, messages: Sequence[Message], add_generation_prompt: bool = False, **variables: Any
) -> str:
    """The text of `messages` by the chat template of `tokenizer`; `variables` are handed to the template too.

    Raises `UsageError` when there is no template or the template refuses the messages, `FormatError` when it is no Jinja.
    """
    if tokenizer.chat_template is None:
        raise UsageError(f"{tokenizer.folder} has no chat template", "use a base that was trained for chat")
    given = {"tools": None, "documents": None, **tokenizer.special_tokens, **variables}
    try:
        template = compile_template(tokenizer.chat_template)
        return template.render(messages=list(messages), add_generation_prompt=add_generation_prompt, **given)
    except TemplateSyntaxError as error:
        raise FormatError(tokenizer.folder, f"its chat template is no Jinja: {error}", "T-TPL-1") from error
    except (TemplateError, TypeError) as error:
        raise UsageError(f"the chat template refuses these messages: {error}") from error


@lru_cache(maxsize=16)
def compile_template(text: str, marked: bool = False) -> Template:
    """`text` compiled in the sandbox, with what chat templates may call: raise_exception, strftime_now, tojson.

    `marked` writes `GENERATED` around what its `{% generation %}` tags enclose.
    """
    tag = _MarkedGenerationTag if marked else _GenerationTag
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[tag, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _make_dict,
        "namespace": _PlainNamespace,
    }
    return environment.from_string(text)


class _GenerationTag(Extension):
    """`{% generation %}` marks the model's own words for trainers; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja reads it from the class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _MarkedGenerationTag(_GenerationTag):
    """Its body between the two characters of `GENERATED`."""

    def parse(self, parser: Parser) -> list[nodes.Node]:
        before, after = (nodes.Output([nodes.TemplateData(mark)]) for mark in GENERATED)
        return [before, *super().parse(parser), after]


class _PlainNamespace(Namespace):
    """Jinja's namespace without underscore attributes, which reach into Python."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a chat template may not store {name!r}")
        super().__setitem__(name, value)


def _make_dict(*pairs: Any, **entries: Any) -> dict[Any, Any]:
    """`dict` as a function: the class itself would give templates its methods."""
    return dict(*pairs, **entries)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
