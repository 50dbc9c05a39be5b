"""Listings ask a fixed number of questions however long they are, and import nothing that they do not need."""

import subprocess
import sys

import pytest

from adreg.references import parse_reference
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.registry.versions import Wanted
from adreg.settings import Settings
from tests.registry.small import small_adapter

IMPORTS = """
import sys
from adreg.cli.app import main
sys.argv = ["adreg", *{words!r}]
try:
    main()
except SystemExit as end:
    assert not end.code
print(sorted({needless!r} & set(sys.modules)))
"""
NEEDLESS = {"sqlite_utils", "numpy", "rich.console", "rich.table", "rich.progress", "safetensors", "huggingface_hub", "fsspec",
            "adreg.audit.rules", "adreg.formats.bases.checkpoint", "adreg.cli.train", "adreg.cli.serve"}  # fmt: skip


def fill(registry, tmp_path, versions, names):
    for number in range(versions):
        for name in names:
            plan = plan_push(small_adapter(tmp_path / f"{name}-{number}", number))
            registry.adapters.push(plan, name, "prod", None)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """A small registry, and one with four times as many adapters of four times as many versions."""
    found = []
    for versions, names in ((1, ["a", "b"]), (4, list("abcdefgh"))):
        registry = Registry(Settings(tmp_path_factory.mktemp("home")))
        fill(registry, tmp_path_factory.mktemp("folders"), versions, names)
        found.append(registry)
    return found


QUESTIONS = {
    "ls": lambda adapters: adapters.listed(Wanted()),
    "ls NAME": lambda adapters: adapters.listed(Wanted("a")),
    "ls --json": lambda adapters: [version.as_json() for version in adapters.wanted(Wanted())],
    "show": lambda adapters: adapters.resolve(parse_reference("a")).as_json(),
    "alias ls": lambda adapters: adapters.aliases(),
    "log": lambda adapters: adapters.log("a"),
    "search": lambda adapters: adapters.search("a"),
}


@pytest.mark.parametrize("command", QUESTIONS)
def test_no_listing_asks_once_for_each_row(sizes, command):
    asked, rows = [], []
    for registry in sizes:
        statements: list[str] = []
        registry.db.conn.set_trace_callback(statements.append)
        rows.append(len(QUESTIONS[command](registry.adapters)))
        registry.db.conn.set_trace_callback(None)
        asked.append(sum(not statement.startswith("--") for statement in statements))  # those are FTS5's own
    assert asked[0] == asked[1] <= 5
    assert rows[0] < rows[1] or command in ("show", "search")


@pytest.mark.parametrize("words", [["ls"], ["show", "a"], ["alias", "ls"], ["log", "a"], ["search", "a"]])
def test_a_listing_imports_nothing_that_it_does_not_need(registry, tmp_path, words):
    fill(registry, tmp_path, 1, ["a"])
    code = IMPORTS.format(words=words, needless=NEEDLESS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
