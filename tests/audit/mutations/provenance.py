"""Mutations that rules of adreg/audit/rules/provenance.py and backdoor.py's S-BKD must find."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from adreg.audit.subject import Subject
from tests.audit.clean import Clean
from tests.audit.mutations import CONFIG, WEIGHTS, Array, Mutation, lora, tensors
from tests.audit.mutations.base import with_card
from tests.audit.mutations.file import removed, write

RECORD = "adreg.json"
SEEN = frozenset({"S-SIG-1"})
STRAY = frozenset({"Q-NRM-1", "Q-NRM-2", "Q-INT-1", "Q-STD-1", "Q-KRT-1", "Q-RNK-1", "Q-RNK-2"})


def signed(*names: str, broken: str = "") -> Callable[[Path], None]:
    """Put a signature of `names` there, in the form of OpenSSF's model signing; `broken` has another digest."""

    def apply(folder: Path) -> None:
        digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names if name != "gone.txt"}
        digests |= {"gone.txt": "0" * 64} if "gone.txt" in names else {}
        digests |= {broken: "0" * 64} if broken else {}
        resources = [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()]
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "adapter", "digest": {"sha256": "0" * 64}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {"serialization": {"method": "files", "hash_type": "sha256"}, "resources": resources},
        }
        payload = base64.b64encode(json.dumps(statement).encode()).decode()
        envelope = {"payload": payload, "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": ""}]}
        bundle = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}
        (folder / "model.sig").write_text(json.dumps(bundle))

    return apply


def record(**changes: Any) -> Callable[[Path], None]:
    """Set fields of the record; None removes one."""

    def apply(folder: Path) -> None:
        found = {**json.loads((folder / RECORD).read_text()), **changes}
        (folder / RECORD).write_text(json.dumps({key: value for key, value in found.items() if value is not None}))

    return apply


def readme(text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "README.md").write_text(f"---\n{text}\n---\n# An adapter\n")

    return apply


def base(**changes: Any) -> Callable[[Subject], Subject]:
    return with_card(lambda card: replace(card, **changes))


def one_strong_direction(loaded: dict[str, Array]) -> None:
    name = next(name for name in sorted(loaded) if name.endswith("lora_A.weight"))
    loaded[name][0] *= 50


def many_modules(clean: Clean) -> bool:
    return clean.name in ("llama LoRA", "phi3 LoRA", "gpt2 LoRA")


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("S-SIG-1", signed(CONFIG, WEIGHTS), label="of these files"),
    Mutation("S-SIG-1", write(f"{WEIGHTS}.minisig", b"untrusted comment: signature"), label="minisign"),
    Mutation("S-SIG-2", signed(CONFIG, WEIGHTS, broken=WEIGHTS), SEEN, label="other weights"),
    Mutation("S-SIG-2", signed(CONFIG, WEIGHTS, "gone.txt"), SEEN, label="a file that is gone"),
    Mutation("S-SIG-2", signed(CONFIG), SEEN, label="the configuration only"),
    Mutation("S-PRV-1", removed(RECORD), label="none"),
    Mutation("S-PRV-1", write(RECORD, b"[1, 2"), label="broken"),
    Mutation("S-PRV-1", record(data=[{"path": "rows.jsonl"}]), label="no digest of the data"),
    Mutation("S-PRV-1", record(base=None), label="no base"),
    Mutation("S-PRV-2", record(config={"lora": {"r": 64, "alpha": 8}}), applies_to=lora, label="another rank"),
    Mutation("S-PRV-2", record(trainable=12_345_678), label="other parameters"),
    Mutation("S-LIC-1", readme("license: apache-2.0"), alter=base(license="llama3.2"), label="the base's own terms"),
    Mutation("S-LIC-1", readme("license: mit"), alter=base(license="cc-by-nc-4.0"), label="not for sale"),
    Mutation("S-LIC-1", readme("license: cc-by-nc-nd-4.0"), alter=base(license="cc-by-nc-nd-4.0"), label="nothing derived"),
    Mutation("S-LIC-1", readme("license: gpl-3.0"), alter=base(license="agpl-3.0"), label="copyleft"),
    Mutation("S-LIC-1", readme("library_name: peft"), alter=base(license="gemma"), label="none named"),
    Mutation("S-LIC-2", alter=base(gated=True), label="gated"),
    Mutation("S-BKD-1", tensors(one_strong_direction), STRAY, many_modules, label="one direction"),
)
