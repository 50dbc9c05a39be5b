"""Methods, parents and Index bases through the whole training, the registry and the audit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adreg.audit.findings import Severity
from adreg.audit.run import judge
from adreg.formats.adapters.adapter import WEIGHTS
from adreg.registry.lineage import lineage_of
from adreg.registry.push import folder_digest, plan_push
from adreg.registry.records import VersionRecord
from adreg.registry.registry import Registry
from adreg.settings import Settings
from adreg.train.config import TrainConfig, check_config
from adreg.train.data.prepare import prepare
from adreg.train.model.checks import checked_base
from adreg.train.record.opening import opening_record
from adreg.train.run import TrainRequest, TrainResult, train
from tests.builders import build_checkpoint
from tests.train.model.training import set_config

LOOP = {"lr": 3e-2, "schedule": "constant", "warmup": 0, "batch": 8, "max_steps": 4, "precision": "fp32"}
METHODS: dict[str, dict[str, Any]] = {
    "pissa": {"lora": {"init": "pissa", "r": 4}},
    "prefix": {"method": "prefix", "prompt": {"tokens": 4}},
    "prompt": {"method": "prompt", "prompt": {"tokens": 4}},
}
SLOWER: dict[str, dict[str, Any]] = {
    "ia3": {"method": "ia3"},
    "new": {"lora": {"new_tokens": ["<keeper>"]}},
    "eva": {"lora": {"init": "eva", "r": 4}},
    "dora": {"lora": {"dora": True, "dropout": 0.05}},
    "lora+": {"lora": {"lr_ratio": 4}, "train": {**LOOP, "lr": 2e-3}},
    "loha": {"method": "loha"},
    "lokr": {"method": "lokr"},
    "p-tuning": {"method": "p-tuning", "prompt": {"tokens": 4}},
}


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(Settings(home))


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """Its embedding has rows to spare."""
    folder = tmp_path_factory.mktemp("roomy") / "base"
    return build_checkpoint(folder, "llama", tokenizer_folder, vocab_size=49160, hidden_size=16, intermediate_size=32)


def configured(chats: Path, settings: dict[str, Any]) -> TrainConfig:
    return check_config({"data": {"train": [chats], "eval": 0.25}, "train": LOOP, **settings})


def plain_loss(base: Path, folder: Path, config: TrainConfig) -> float:
    """The loss of the held-out rows by PEFT alone, row by row, with the model's own labels."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder).eval()
    total = learned = 0.0
    for row in prepare(checked_base(base, "base", config), config.data, config.train.seed).held_out:
        ids, labels = (torch.tensor(one, dtype=torch.long)[None] for one in (row.ids, row.labels))
        with torch.no_grad():
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        total, learned = total + float(loss) * row.trained, learned + row.trained
    return total / learned


def run(
    registry: Registry, base: Path, chats: Path, output: Path, continues: VersionRecord | None = None, **settings: Any
) -> TrainResult:
    known = registry.bases.ensure(str(base))
    config = configured(chats, settings)
    ids, told, folder = asdict(known.card.ids), None, None
    if continues is not None:
        folder = output.parent / "parent"
        registry.adapters.pull(continues, folder)
        told = {"reference": continues.reference, "digest": continues.digest}
    record = opening_record({"name": known.name, **ids}, config, parent=told)
    return train(TrainRequest(known.folder, known.name, ids, config, output, parent=folder, record=record))


def pushed(registry: Registry, result: TrainResult) -> VersionRecord:
    return registry.adapters.push(plan_push(result.folder), "voice", None, None).version


def serious(registry: Registry, version: VersionRecord, target: str) -> set[str]:
    subject = registry.adapters.subject(version, registry.bases.all()[0].card, target)
    return {one.rule for one in judge(subject).findings if one.severity >= Severity.ERR}


@pytest.mark.parametrize("name", [*METHODS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)])
def test_it_learns_and_the_audit_finds_nothing(name: str, registry: Registry, roomy: Path, chats: Path, tmp_path: Path) -> None:
    settings = {**METHODS, **SLOWER}[name]
    result = run(registry, roomy, chats, tmp_path / "out", **settings)
    losses = [step.loss for step in result.record.losses]
    assert losses[-1] < losses[0]
    expected = plain_loss(roomy, result.folder, configured(chats, settings))
    assert result.record.eval.adapter == pytest.approx(expected, rel=1e-5)
    assert ("prompt" in settings) == (result.record.platform["attention"] not in ("adreg_rows", "sdpa"))
    version = pushed(registry, result)
    assert serious(registry, version, "peft") == set()
    unapplied = {"K-CFG-2"} if "prompt" in settings else set()  # adreg itself serves and merges no virtual tokens
    assert serious(registry, version, "adreg") == unapplied


def test_a_continued_adapter_names_its_parent_in_the_registry(
    registry: Registry, roomy: Path, chats: Path, tmp_path: Path
) -> None:
    folder = run(registry, roomy, chats, tmp_path / "first", lora={"r": 4}).folder
    first = registry.adapters.push(plan_push(folder), "voice", None, None).version
    assert folder_digest(folder) == first.digest
    result = run(registry, roomy, chats, tmp_path / "second", first, parent="voice:1")
    second = pushed(registry, result)
    (parent,) = registry.adapters.parents(second)
    assert (parent.digest, parent.reference, parent.relation) == (first.digest, "voice:1", "continued")
    edges = {(edge.source, edge.target, edge.relation) for edge in lineage_of(registry, second).edges.values()}
    assert (first.digest, second.digest, "continued") in edges
    assert json.loads((result.folder / "adapter_config.json").read_text())["r"] == 4
    assert serious(registry, second, "adreg") == set()


def test_an_index_base_is_registered_trained_on_and_audited(
    registry: Registry, tokenizer_folder: Path, chats: Path, tmp_path: Path
) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 32, "tie_word_embeddings": False}
    base = build_checkpoint(tmp_path / "index", "llama", tokenizer_folder, **shape)
    set_config(base / "config.json", model_type="index", architectures=["IndexForCausalLM"], norm_head=1)
    result = run(registry, base, chats, tmp_path / "out", lora={"r": 4})
    assert result.record.losses[-1].loss < result.record.losses[0].loss
    version = pushed(registry, result)
    assert version.base == "index" and serious(registry, version, "adreg") == set()
    raw = json.loads((result.folder / "adapter_config.json").read_text())
    assert raw["base_model_name_or_path"] == "index" and raw["auto_mapping"] is None


def test_a_resumed_run_takes_the_same_part_out_of_the_base_again(
    registry: Registry, roomy: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adreg.train.run.prune", lambda *_: None)  # keeps the checkpoints of a finished run
    known = registry.bases.ensure(str(roomy))
    config = configured(chats, {"lora": {"init": "pissa", "r": 4}, "save": {"every": 2, "keep": 9}})
    whole = TrainRequest(known.folder, known.name, asdict(known.card.ids), config, tmp_path / "whole", tmp_path / "run")
    first = train(whole).folder
    checkpoint = next(path for path in (tmp_path / "run").iterdir() if path.name.endswith("-2"))
    resumed = train(replace(whole, output=tmp_path / "resumed", resume_from=checkpoint)).folder
    assert (resumed / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()
