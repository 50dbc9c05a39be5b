"""The plugin is what vLLM 0.32 expects of one: found by its entry point, registered once, silent where nobody set it up."""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adreg.serve.plugin.settings import REGISTRY
from tests.serve.plugin.conftest import Shelf, Vllm

STANDIN = Path(__file__).parent / "standin"
PEER = Path(__file__).parents[3] / ".venv" / "peers" / "vllm"
SILENT = """
import sys
from adreg.serve.plugin.register import register
register()
heavy = {"numpy", "torch", "sqlite3", "adreg.registry", "adreg.audit", "vllm"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_where_nothing_is_set_it_registers_nothing_and_imports_next_to_nothing(vllm: Vllm) -> None:
    vllm.load_plugins()
    assert vllm.names == []
    bare = {name: value for name, value in os.environ.items() if name != REGISTRY}
    told = subprocess.run([sys.executable, "-c", SILENT], env=bare, capture_output=True, text=True)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_loaded_twice_it_is_registered_once(vllm: Vllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REGISTRY, "local")
    vllm.load_plugins()
    first = vllm.resolvers.LoRAResolverRegistry.get_resolver("adreg")
    vllm.load_plugins()
    assert vllm.names == ["adreg"] and vllm.resolvers.LoRAResolverRegistry.get_resolver("adreg") is first


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (REGISTRY, "not a registry"),
        (REGISTRY, "http://user:secret@host"),
        ("ADREG_VLLM_MUTABLE", "yes"),
        ("ADREG_VLLM_MAX_LORA_RANK", "-1"),
        ("ADREG_VLLM_ADAPTERS", "../etc"),
        ("ADREG_VLLM_ALLOW", "B-ID-1"),
        ("ADREG_VLLM_ADAPTERS", "voice:1 at-a-remote"),
    ],
)
def test_a_variable_that_cannot_be_meant_is_named_and_vllm_starts_all_the_same(
    vllm: Vllm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str
) -> None:
    monkeypatch.setenv(REGISTRY, "https://example.org" if "remote" in value else "local")
    monkeypatch.setenv(variable, value)
    vllm.load_plugins()
    assert vllm.names == []
    (line,) = caplog.records
    assert line.levelno == logging.ERROR and "secret" not in line.getMessage()


def test_the_answer_is_a_request_for_the_folder_by_absolute_path(local: Vllm, shelf: Shelf) -> None:
    version = shelf.push("voice")
    name = f"voice@{version.digest}"
    found = local.resolve(shelf.base(), name)
    assert found is not None
    assert (found.lora_name, found.base_model_name, found.load_inplace) == (name, str(shelf.base()), False)
    assert Path(found.lora_path).is_absolute() and Path(found.lora_path).name == version.digest.removeprefix("sha256:")


def real_vllm() -> Path | None:
    """The folder of a vLLM on this machine: beside adreg, or that of `make peers`."""
    spec = importlib.util.find_spec("vllm")
    if spec and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return next(PEER.glob("lib/python3*/site-packages/vllm"), None)


def signatures(source: Path) -> dict[str, list[str]]:
    """By class, its fields and its methods' parameters and results, as written; private ones and properties are left out."""
    found = {}
    for one in ast.parse(source.read_text()).body:
        if isinstance(one, ast.ClassDef):
            fields = [f"{ast.unparse(x.target)}: {ast.unparse(x.annotation)}" for x in one.body if isinstance(x, ast.AnnAssign)]
            methods = [
                f"{type(x).__name__} {x.name}({ast.unparse(x.args)}) -> {x.returns and ast.unparse(x.returns)}"
                for x in one.body
                if isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef)
                and not x.name.startswith("_")
                and "property" not in map(ast.unparse, x.decorator_list)
            ]
            found[one.name] = [*fields, *methods]
    return found


@pytest.mark.skipif(real_vllm() is None, reason="no vLLM is installed here: make peers")
@pytest.mark.parametrize("module", ["request", "resolver"])
def test_the_stand_ins_have_the_signatures_of_the_real_vllm(module: str) -> None:
    folder = real_vllm()
    assert folder is not None
    ours = signatures(STANDIN / f"{module}.py")
    assert ours and ours == signatures(folder / "lora" / f"{module}.py")
