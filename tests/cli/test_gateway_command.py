"""`adreg gateway`: what cannot be meant is said before anything listens, and its help needs no server's library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from adreg.registry.registry import Registry
from adreg.settings import Settings
from tests.cli.conftest import Result
from tests.registry.small import small_base
from tests.serve.gateway.scripted import Scripted, listening, sends

Command = Callable[..., Result]
NOWHERE = ("--upstream", "http://127.0.0.1:9")


def test_what_cannot_be_meant_is_a_usage_error_with_a_way_out(adreg: Command, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("two words")
    wrong = {
        "Missing option '--upstream'": (),
        "is no URL of an upstream": ("--upstream", "localhost"),
        "holds a user or a password": ("--upstream", "http://user:secret@host"),
        "holds no key": (*NOWHERE, "--upstream-key-file", tmp_path / "key"),
        "no base to name": (*NOWHERE, "--no-registry", "--base", "tiny"),
        "can be reached from other machines": (*NOWHERE, "--no-registry", "--host", "0.0.0.0"),
        "no base is registered": NOWHERE,
    }
    for why, words in wrong.items():
        refused = adreg("gateway", *words)
        assert refused.code == 2 and why in refused.err and "secret" not in refused.err, (why, refused)
    assert adreg("gateway", *NOWHERE, "--base", "nobody").code == 3


def test_of_several_bases_that_one_is_meant_which_the_upstreams_list(adreg: Command, home: Path, tmp_path: Path) -> None:
    registry = Registry(Settings(home))
    for seed, name in enumerate(("one", "two")):
        registry.bases.add(str(small_base(tmp_path / name, seed=seed)), name)
    refused = adreg("gateway", *NOWHERE)
    assert refused.code == 2 and "2 bases are registered, and the upstreams name none of them" in refused.err
    assert "--base" in refused.err and "--no-registry" in refused.err
    with listening(Scripted(sends(b""), models=[{"id": "two"}])) as url, listening(Scripted(sends(b""))) as taken:
        busy = adreg("gateway", "--upstream", url, "--port", taken.rpartition(":")[2])
        assert busy.code == 4 and "Address already in use" in busy.err, "the base was clear, only the port is not free"


def test_its_help_imports_no_server() -> None:
    heavy = "{'torch', 'numpy', 'starlette', 'uvicorn', 'h11', 'anyio'}"
    look = f"import adreg.cli.gateway, sys; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True).stdout == "[]\n"
