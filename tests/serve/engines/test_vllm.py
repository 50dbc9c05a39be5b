"""vLLM's flags come from the registry, and a vLLM that could not keep what adreg promises is refused by name."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from adreg.cli.serving import make_offer
from adreg.errors import AuditRefused, BadReference, ConflictError, UnsupportedError, UsageError
from adreg.formats.adapters.adapter import open_adapter
from adreg.references import parse_reference
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.serve.engines.vllm import RANKS, VllmWish, plan_vllm, rank_for
from adreg.serve.engines.vllmcpu import zero_adapter
from adreg.serve.engines.vllmdialect import VllmDialect
from adreg.serve.engines.vllmprogram import find_vllm, looked_at, python_of
from adreg.serve.models.catalog import ServedModel
from adreg.serve.models.permitted import PermittedModels
from adreg.serve.models.registered import RegisteredModels
from adreg.settings import Settings
from tests.registry.small import small_adapter, small_base, tensors_of


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    found = Registry(Settings(home))
    found.bases.add(str(small_base(tmp_path / "tiny")), "tiny")
    return found


def push(registry: Registry, folder: Path, name: str, rank: int, **changes: Any) -> None:
    small_adapter(folder, tensors=tensors_of(rank, rank), r=rank, **changes)
    registry.adapters.push(plan_push(folder), name, None, registry.bases.get("tiny"))


def flags(registry: Registry, **wish: Any) -> dict[str, str]:
    record = registry.bases.get("tiny")
    plan = plan_vllm(record, RegisteredModels(make_offer(registry, record, (), (), "vllm")), VllmWish(**wish))
    words = plan.command(Path("/opt/vllm"), 4711)
    assert words[:3] == ("/opt/vllm", "serve", str(record.folder))
    return {flag: value for flag, value in zip(words, (*words[1:], ""), strict=True) if flag.startswith("--")}


@pytest.mark.parametrize(("ranks", "told"), [((), 16), ((1,), 1), ((2, 8), 8), ((9,), 16), ((257,), 320), ((8, 600), 8)])
def test_the_rank_is_the_smallest_of_vllm_s_that_holds_all(ranks: tuple[int, ...], told: int) -> None:
    assert rank_for(ranks) == told and told in RANKS


def test_room_is_made_for_what_the_registry_holds(registry: Registry, tmp_path: Path) -> None:
    assert flags(registry).items() >= {"--max-lora-rank": "16", "--max-loras": "4", "--max-cpu-loras": "4"}.items()
    for number, rank in enumerate((2, 4, 6, 10, 3, 5)):
        push(registry, tmp_path / str(number), f"voice{number}", rank)
    told = flags(registry, context=512, kv_bytes=1 << 20, dtype="float32", arguments=("--tensor-parallel-size=2",))
    wanted = {"--max-lora-rank": "16", "--max-loras": "6", "--max-cpu-loras": "6", "--api-server-count": "1", "--port": "4711"}
    asked = {"--max-model-len": "512", "--kv-cache-memory-bytes": "1048576", "--dtype": "float32", "--host": "127.0.0.1"}
    assert told.items() >= {**wanted, **asked, "--served-model-name": "tiny"}.items() and "--tensor-parallel-size=2" in told
    assert flags(registry, slots=2).items() >= {"--max-loras": "2", "--max-cpu-loras": "6"}.items()
    assert "--max-model-len" not in flags(registry)


def test_what_the_engine_has_no_room_for_and_what_it_cannot_apply_is_refused(registry: Registry, tmp_path: Path) -> None:
    push(registry, tmp_path / "plain", "plain", 4)
    push(registry, tmp_path / "dora", "dora", 4, use_dora=True)
    push(registry, tmp_path / "large", "large", 12)
    record = registry.bases.get("tiny")
    models = PermittedModels(RegisteredModels(make_offer(registry, record, (), (), "vllm")), 8)
    assert models.resolve("plain").reference == "plain:1" and models.resolve("tiny").adapter is None
    with pytest.raises(AuditRefused, match="X-ENG-2"):
        models.resolve("dora")
    with pytest.raises(ConflictError, match="rank 12; vllm was started with room for rank 8"):
        models.resolve("large")
    with pytest.raises(AuditRefused, match="X-ENG-2"):
        make_offer(registry, record, ["dora"], (), "vllm")
    make_offer(registry, record, ["dora"], ["K-CFG-8"])


def test_a_base_that_vllm_adapts_nothing_of_is_refused(registry: Registry, tmp_path: Path) -> None:
    folder = small_base(tmp_path / "gpt2")
    (folder / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')
    with pytest.raises(UnsupportedError, match="GPT2LMHeadModel with LoRA in vLLM"):
        plan_vllm(registry.bases.add(str(folder), "gpt2"), (), VllmWish())


@pytest.mark.parametrize("flag", ["--api-key=x", "--host", "--max_lora_rank=512", "--lora-config.max_loras", "--lora-modules"])
def test_flags_that_adreg_sets_are_not_taken_from_the_user(registry: Registry, flag: str) -> None:
    models: list[ServedModel] = []
    with pytest.raises(UsageError, match="adreg sets vLLM's --"):
        plan_vllm(registry.bases.get("tiny"), models, VllmWish(arguments=(flag,)))


def test_vllm_is_told_the_gateway_s_own_offer_and_no_secret_of_others(registry: Registry, tmp_path: Path) -> None:
    push(registry, tmp_path / "plain", "plain", 4)
    record = registry.bases.get("tiny")
    offer = make_offer(registry, record, ["plain:1"], (), "vllm")
    plan = plan_vllm(record, RegisteredModels(offer), VllmWish())
    ours = {"PATH": "/bin", "VLLM_PLUGINS": "theirs", "VLLM_LORA_RESOLVER_CACHE_DIR": "/tmp", "ADREG_VLLM_MUTABLE": "1"}
    assert plan.environment(offer, "s3cret", ours) == {
        "PATH": "/bin", "VLLM_PLUGINS": "theirs,adreg_lora_resolver", "VLLM_API_KEY": "s3cret",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "ADREG_VLLM_REGISTRY": "local", "ADREG_VLLM_MAX_LORA_RANK": "8",
        "ADREG_VLLM_ADAPTERS": "plain:1", "ADREG_VLLM_ALLOW": "", "ADREG_HOME": str(registry.settings.home),
    }  # fmt: skip
    assert "VLLM_PLUGINS" not in plan.environment(offer, "s3cret", {})


def test_a_vllm_whose_environment_lacks_the_plugin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vllm"
    program.write_text(f"#!{sys.executable}\n")
    with pytest.raises(UsageError, match="is no program that can be run"):
        find_vllm(program)
    program.chmod(0o755)
    monkeypatch.setenv("ADREG_VLLM", str(program))
    assert find_vllm(None) == find_vllm(program) == program and python_of(program) == Path(sys.executable)
    program.write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match="no Python is found"):
        python_of(program)
    (tmp_path / "python").symlink_to("/usr/bin/env")
    with pytest.raises(UsageError, match="cannot be asked what is installed"):
        looked_at(program, os.environ)


def test_on_a_cpu_the_base_is_an_adapter_of_zeros_with_a_slot_of_its_own(registry: Registry, tmp_path: Path) -> None:
    push(registry, tmp_path / "plain", "plain", 4)
    record = registry.bases.get("tiny")
    folder = zero_adapter(registry.settings.home, record.card)
    plan = plan_vllm(record, RegisteredModels(make_offer(registry, record, (), (), "vllm")), VllmWish(), folder)
    words = plan.command(Path("vllm"), 1)
    told = {flag: words[words.index(flag) + 1] for flag in ("--lora-modules", "--max-loras", "--max-cpu-loras")}
    assert told == {"--lora-modules": f"tiny@base={folder}", "--max-loras": "5", "--max-cpu-loras": "5"}
    adapter = open_adapter(folder)
    assert [(one.name, one.rank) for one in adapter.modules] == [("model.layers.0.self_attn.q_proj", 1)]
    assert not any(half.float32().any() for one in adapter.modules for half in (one.a, one.b))
    with pytest.raises(BadReference):
        parse_reference(plan.base_name)


def test_an_adapter_with_its_own_template_is_not_asked_to_chat_and_one_with_its_own_tokens_not_at_all(
    registry: Registry, tmp_path: Path, tokenizer_folder: Path
) -> None:
    base = small_base(tmp_path / "talking")
    shutil.copytree(tokenizer_folder, base, dirs_exist_ok=True)
    record = registry.bases.add(str(base), "talking")
    changes = {
        "same": ("nothing.txt", ""),
        "polite": ("chat_template.jinja", "{{ messages }}"),
        "foreign": ("tokenizer.json", None),
    }
    for seed, (name, (file, text)) in enumerate(changes.items()):
        folder = small_adapter(tmp_path / name, seed)
        shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)
        words = (folder / "tokenizer.json").read_text().replace('"Ġthe"', '"Ġteh"') if text is None else text
        (folder / file).write_text(words)
        registry.adapters.push(plan_push(folder), name, None, record)
    catalog = PermittedModels(RegisteredModels(make_offer(registry, record, (), (), "vllm")))
    dialect = VllmDialect("talking@base", catalog.own_templates)
    chat, prompt = {"model": "x", "messages": []}, {"model": "x", "prompt": "Hello"}
    same, polite = catalog.resolve("same"), catalog.resolve("polite")
    assert dialect.address(chat, same)["model"] == f"same@{same.adapter}"
    assert dialect.address(prompt, polite)["model"] == f"polite@{polite.adapter}"
    assert dialect.address(chat, catalog.resolve("talking"))["model"] == "talking@base"
    with pytest.raises(ConflictError, match="polite:1 was trained with a chat template of its own"):
        dialect.address(chat, polite)
    with pytest.raises(ConflictError, match="T-TOK-5"):
        catalog.resolve("foreign")
