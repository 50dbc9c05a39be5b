"""What the audit learns from the registry: copies, parents that are gone, and cycles."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adreg.audit.run import judge
from adreg.references import parse_reference
from adreg.registry.push import plan_push


@pytest.fixture
def base(registry, tiny_llama):
    return registry.bases.add(str(tiny_llama), "tiny")


def push(registry, folder, name, base):
    return registry.adapters.push(plan_push(folder), name, None, base).version


def found(registry, reference):
    version = registry.adapters.resolve(parse_reference(reference))
    findings = judge(registry.adapters.subject(version, None)).findings
    return {(finding.rule, finding.severity.label, finding.where) for finding in findings if finding.rule.startswith("D-")}


def test_copies_are_known_turned_renamed_or_saved_again(registry, base, llama_adapter, other_adapter, tmp_path):
    turned = shutil.copytree(llama_adapter, tmp_path / "turned")
    path = turned / "adapter_model.safetensors"
    tensors = load_file(path)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    save_file({name: turn @ value if "lora_A" in name else value @ turn.T for name, value in tensors.items()}, path)
    push(registry, llama_adapter, "voice", base)
    push(registry, other_adapter, "other", base)
    push(registry, turned, "turned", base)
    push(registry, llama_adapter, "twin", base)
    again = shutil.copytree(llama_adapter, tmp_path / "again")
    save_file(load_file(path := again / "adapter_model.safetensors"), path, {"note": "saved again"})
    push(registry, again, "again", base)
    assert found(registry, "other") == set()
    copies = ("voice:1", "twin:1", "again:1")
    assert found(registry, "turned") == {("D-DUP-2", "warn", copy) for copy in copies}
    others = {("D-DUP-2", "info", "again:1"), ("D-DUP-2", "warn", "turned:1")}
    assert found(registry, "twin") == {("D-DUP-1", "info", "voice:1"), *others}


def test_a_parent_that_is_gone_is_told_and_one_that_is_there_is_not(registry, base, llama_adapter, other_adapter, tmp_path):
    parent = push(registry, llama_adapter, "voice", base)
    child = shutil.copytree(other_adapter, tmp_path / "child")
    parents = [
        {"digest": parent.digest, "reference": "voice:1", "relation": "continued"},
        {"digest": "sha256:" + "0" * 64, "reference": "gone:1", "relation": "merged"},
    ]
    (child / "adreg.json").write_text(json.dumps({"parents": parents}))
    push(registry, child, "child", base)
    assert found(registry, "child") == {("D-LIN-1", "warn", "gone:1")}


def test_a_version_among_its_own_ancestors_is_a_cycle(registry, base, llama_adapter, other_adapter):
    one, two = (push(registry, folder, name, base) for folder, name in ((llama_adapter, "one"), (other_adapter, "two")))
    for child, parent in ((one, two), (two, one)):
        values = [child.id, parent.digest, parent.reference, "continued"]
        registry.db.execute("insert into parent values (?, ?, ?, ?)", values)
    assert ("D-LIN-1", "err", "two:1") in found(registry, "one")
