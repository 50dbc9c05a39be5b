"""From a folder to an engine: which executor runs it, what ends a text, how memory bounds the context, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adreg.errors import ContextTooLong, FormatError, UnsupportedError, UsageError
from adreg.formats.bases.checkpoint import open_checkpoint
from adreg.serve.generation import Generation
from adreg.serve.loading import EngineSettings, load_executor, why_general
from tests.serve.conftest import World


def test_the_ends_of_a_text_are_read_from_every_file_that_names_them(llama: World, tmp_path: Path) -> None:
    base = shutil.copytree(llama.base, tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 17]}))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "eos_token_id": 3}))
    engine = World(base, {}).engine()
    assert engine._ends == {0, 2, 3, 17}
    engine.close()


def test_a_base_that_lacks_weights_or_needs_code_is_refused(llama: World, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    base = shutil.copytree(llama.base, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    for executor in ("general", "native"):
        with pytest.raises(FormatError, match=r"model.layers.1.mlp.up_proj.weight"):
            World(base, {}).engine(executor=executor)
    config = json.loads((base / "config.json").read_text())
    for changes in ({"model_type": "other"}, {"model_type": "other", "auto_map": {"AutoConfig": "code.Config"}}):
        (base / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UnsupportedError, match=r"the architecture LlamaForCausalLM \(other\)"):
            World(base, {}).engine(executor="auto")


def test_auto_is_native_where_that_can_run_the_base_and_general_elsewhere(llama: World, gpt2: World) -> None:
    auto = EngineSettings(device="cpu")
    assert why_general(open_checkpoint(llama.base), auto) is None
    assert type(load_executor(open_checkpoint(llama.base), auto)).__name__ == "NativeExecutor"
    assert why_general(open_checkpoint(gpt2.base), auto)
    assert type(load_executor(open_checkpoint(gpt2.base), auto)).__name__ == "GeneralExecutor"


def test_the_context_is_no_longer_than_memory_holds(llama: World) -> None:
    token = load_executor(open_checkpoint(llama.base), EngineSettings(executor="native", dtype="float32")).bytes_per_token
    engine = llama.engine(executor="native", kv_bytes=100 * token + 1)
    assert engine.limits.context == 100
    with pytest.raises(ContextTooLong):
        engine.submit(Generation((1,) * 91, None, 10), lambda event: None)
    engine.close()
    with pytest.raises(UsageError, match="hold no request"):
        llama.engine(executor="native", kv_bytes=token)


def test_the_native_engine_is_ready_without_torch(llama: World) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.serve.conftest import Shelf, World\n"
        f"engine = World(Path({str(llama.base)!r}), {{}}).engine(executor='native')\n"
        "engine.start(); engine.close()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'torch is imported'"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
