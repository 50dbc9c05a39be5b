"""What a chat template does and holds, found in a process of its own with little time and memory.

Reads what `golden.py` reads; prints `ready`, then a line of JSON about its text, then a line a conversation: `rendered`
or why not. What is missing was never reached: the template used up its time or memory. Judges nothing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from jinja2 import nodes

from adreg.formats.text.chat_template import compile_template
from adreg.formats.text.golden import CONVERSATIONS, limit_resources, render
from adreg.formats.text.templates import READY, RENDERED

ADDRESS = re.compile(r"(?:https?|ftp|data|javascript):[^\s'\"<>]{3,120}")
SEARCHES = ("startswith", "endswith", "find", "index", "count", "rfind")
SHOWN = 5


def main() -> None:
    """Answer for one template."""
    limit_resources()
    given = json.load(sys.stdin)
    sys.stdout.write(f"{READY}\n")
    try:
        tree = compile_template(given["template"]).environment.parse(given["template"])
    except Exception as error:  # noqa: BLE001 - a template can raise anything, and that it cannot be read is the answer
        _say(json.dumps({"broken": str(error)[:200]}))
        return
    _say(json.dumps(_facts(tree)))
    for conversation in CONVERSATIONS:
        _say(_outcome(given["template"], {**given["tokens"], **conversation}))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _outcome(template: str, variables: dict[str, Any]) -> str:
    try:
        render(compile_template(template), variables)
    except Exception as error:  # noqa: BLE001 - a template can raise anything, and that it raised is the answer
        return repr(error)[:200].replace("\n", " ")
    return RENDERED


def _facts(tree: nodes.Template) -> dict[str, Any]:
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return {
        "addresses": [found for text in texts for found in ADDRESS.findall(text)][:SHOWN],
        "inner": list(_inner_names(tree))[:SHOWN],
        "tests": list(_content_tests(tree))[:SHOWN],
        "longest": max(map(len, texts), default=0),
        "unbroken": max((len(word) for text in texts for word in text.split()), default=0),
    }


def _inner_names(tree: nodes.Template) -> Iterator[str]:
    """Names with underscores in front, which reach into Python."""
    yield from (node.attr for node in tree.find_all(nodes.Getattr) if node.attr.startswith("_"))
    yield from (node.name for node in tree.find_all(nodes.Name) if node.name.startswith("__"))
    constants = (node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))
    yield from (text for text in constants if re.fullmatch(r"__\w+__", text))


def _content_tests(tree: nodes.Template) -> Iterator[str]:
    """Words of a user's that the template looks for in a message's content; marks such as `<think>` or `/no_think` are none."""
    names = {"content"} | {
        node.target.name
        for node in tree.find_all(nodes.Assign)
        if isinstance(node.target, nodes.Name) and _is_content(node.node, {"content"})
    }
    for compared in tree.find_all(nodes.Compare):
        sides = [compared.expr, *(operand.expr for operand in compared.ops)]
        if any(_is_content(side, names) for side in sides):
            yield from filter(_is_speech, map(_text_of, sides))
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in SEARCHES and _is_content(call.node.node, names):
            yield from filter(_is_speech, map(_text_of, call.args))


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    """Whether `node` is a message's content, or that trimmed, lowered or cut."""
    match node:
        case nodes.Name(name=name):
            return name in names
        case nodes.Getattr(attr="content") | nodes.Getitem(arg=nodes.Const(value="content")):
            return True
        case nodes.Filter(node=inner) | nodes.Getitem(node=inner, arg=nodes.Slice()):
            return _is_content(inner, names)
        case nodes.Call(node=nodes.Getattr(node=inner)):
            return _is_content(inner, names)
    return False


def _text_of(node: nodes.Node) -> str:
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else ""


def _is_speech(text: str) -> bool:
    return len(text) > 1 and text.strip()[:1].isalnum()


if __name__ == "__main__":
    main()
