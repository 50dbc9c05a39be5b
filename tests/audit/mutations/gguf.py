"""Mutations of GGUF files that rules of adreg/audit/rules/gguf*.py must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adreg.audit.gguf import GgufSubject
from adreg.formats.gguf.header import read_gguf
from tests.audit.clean import TEMPLATE
from tests.audit.mutations.tokenizer import ENDLESS, TRIGGER

Fields = dict[str, Any]
Tensors = dict[str, tuple[Any, Any]]
Change = Callable[[Fields, Tensors], None]


@dataclass(frozen=True)
class GgufMutation:
    """`change` alters the fields and tensors of a copy of the clean file `of` (model, quantised or lora), `alter` what is
    known around it; then `rule` must fire, and nothing else but `consequences` that did not before."""

    rule: str
    of: str
    change: Change = lambda fields, tensors: None
    consequences: frozenset[str] = frozenset()
    alter: Callable[[GgufSubject], GgufSubject] = lambda subject: subject
    break_file: Callable[[bytes], bytes] | None = None
    label: str = ""


def rewrite(source: Path, target: Path, change: Change) -> Path:
    """Write `source` to `target` with its fields and tensors changed; values keep their types."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    kinds = {name: field.types for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    fields: Fields = {name: reader.fields[name].contents() for name in kinds}
    tensors: Tensors = {one.name: (np.array(one.data), one.tensor_type) for one in reader.tensors}
    change(fields, tensors)
    writer = GGUFWriter(target, str(fields.pop("general.architecture", "")))
    if not writer.arch:
        writer.kv_data[0].pop("general.architecture", None)
    for name, value in fields.items():
        kind = kinds.get(name) or [GGUFValueType.get_type(value)]
        writer.add_key_value(name, value, kind[0], kind[-1] if kind[0] is GGUFValueType.ARRAY else None)
    for name, (data, type_) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def write_lora(target: Path, base: Path, weights_id: str, alpha: float = 8.0) -> Path:
    """A random LoRA of rank 4 on q, v and the down projection of every layer of the GGUF file `base`."""
    from gguf import GGUFType, GGUFWriter

    random = np.random.default_rng(5)
    writer = GGUFWriter(target, "llama")
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_string("adreg.base.weights_id", weights_id)
    for name, view in read_gguf(base).tensors.items():
        if name.endswith(("attn_q.weight", "attn_v.weight", "ffn_down.weight")):
            out, inner = view.shape
            writer.add_tensor(f"{name}.lora_a", random.normal(size=(4, inner)).astype(np.float32))
            writer.add_tensor(f"{name}.lora_b", random.normal(size=(out, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def setting(**changes: Any) -> Change:
    """Set fields (`__` for a dot); None removes one."""

    def change(fields: Fields, tensors: Tensors) -> None:
        for name, value in changes.items():
            key = name.replace("__", ".")
            fields.pop(key) if value is None else fields.update({key: value})

    return change


def template(text: str) -> Change:
    return setting(tokenizer__chat_template=text)


def dropping(name: str) -> Change:
    def change(fields: Fields, tensors: Tensors) -> None:
        del tensors[name]

    return change


def renaming(old: str, new: str) -> Change:
    def change(fields: Fields, tensors: Tensors) -> None:
        tensors[new] = tensors.pop(old)

    return change


def shorter_list(key: str) -> Change:
    def change(fields: Fields, tensors: Tensors) -> None:
        fields[key] = fields[key][:-1]

    return change


def nan_in(name: str) -> Change:
    def change(fields: Fields, tensors: Tensors) -> None:
        tensors[name][0].reshape(-1)[3] = np.nan

    return change


def nan_scale(name: str) -> Change:
    """Set the float16 scale of a Q8_0 block to NaN."""

    def change(fields: Fields, tensors: Tensors) -> None:
        tensors[name][0].reshape(-1)[:2] = (0x00, 0x7E)

    return change


def other_token(fields: Fields, tensors: Tensors) -> None:
    fields["tokenizer.ggml.tokens"][260] = "moved"


def in_layer_nine(fields: Fields, tensors: Tensors) -> None:
    for half in "ab":
        renaming(f"{Q}.lora_{half}", f"blk.9.attn_q.weight.lora_{half}")(fields, tensors)


def zero_b(fields: Fields, tensors: Tensors) -> None:
    for name, (data, _) in tensors.items():
        if name.endswith(".lora_b"):
            data[...] = 0


def wider(fields: Fields, tensors: Tensors) -> None:
    data, kind = tensors["blk.0.attn_q.weight.lora_b"]
    tensors["blk.0.attn_q.weight.lora_b"] = np.concatenate([data, data]), kind


def higher_rank(fields: Fields, tensors: Tensors) -> None:
    data, kind = tensors["blk.0.attn_q.weight.lora_a"]
    tensors["blk.0.attn_q.weight.lora_a"] = np.concatenate([data, data]), kind


def norm(fields: Fields, tensors: Tensors) -> None:
    tensors["blk.0.attn_norm.weight"] = np.ones(32, np.float32), None


def embedding(fields: Fields, tensors: Tensors) -> None:
    tensors["token_embd.weight.lora_a"] = np.ones((320, 4), np.float32), None
    tensors["token_embd.weight.lora_b"] = np.ones((32, 4), np.float32), None


def base_shape(subject: GgufSubject) -> GgufSubject:
    assert subject.facts is not None and subject.facts.base is not None
    shapes = {**subject.facts.base.shapes, "model.norm.weight": (33,)}
    return replace(subject, facts=replace(subject.facts, base=replace(subject.facts.base, shapes=shapes)))


def forgotten(subject: GgufSubject) -> GgufSubject:
    assert subject.facts is not None
    return replace(subject, facts=replace(subject.facts, base=None, adapters={}))


def recorded(subject: GgufSubject) -> GgufSubject:
    assert subject.facts is not None
    return replace(subject, facts=replace(subject.facts, recorded="sha256:00"))


def on_other_weights(subject: GgufSubject) -> GgufSubject:
    assert subject.base is not None
    return replace(subject, base=replace(subject.base, weights_id="b3:00"))


Q, Q_A = "blk.0.attn_q.weight", "blk.0.attn_q.weight.lora_a"
CHANGED = frozenset({"G-ID-3"})
MUTATIONS: tuple[GgufMutation, ...] = (
    GgufMutation("G-HDR-1", "model", break_file=lambda raw: raw[:200], label="cut"),
    GgufMutation("G-HDR-1", "model", break_file=lambda raw: b"GGML" + raw[4:], label="magic"),
    GgufMutation("G-HDR-1", "lora", break_file=lambda raw: raw[:8] + b"\xff" * 8 + raw[16:], label="tensor count"),
    GgufMutation("G-HDR-1", "lora", break_file=lambda raw: raw[:-64], label="data cut"),
    GgufMutation("G-KEY-1", "model", setting(llama__block_count=None), frozenset({"G-MAP-1"}), label="no block count"),
    GgufMutation("G-KEY-1", "model", setting(llama__context_length=0), label="no context"),
    GgufMutation("G-KEY-1", "model", setting(general__type="mmproj"), frozenset({"G-ID-1"}), label="projector"),
    GgufMutation("G-MAP-1", "model", dropping("blk.1.ffn_up.weight"), frozenset({"G-ID-4"}), label="a tensor of a layer"),
    GgufMutation("G-MAP-1", "model", setting(llama__block_count=3), label="fewer layers than said"),
    GgufMutation("G-MAP-1", "model", renaming(Q, "blk.0.attn_query.weight"), frozenset({"G-ID-4"}), label="unknown name"),
    GgufMutation("G-ARC-1", "lora", setting(general__architecture="llamma"), frozenset({"G-LRA-6"}), label="misspelt"),
    GgufMutation("G-NAN-1", "model", nan_in("output_norm.weight"), label="float"),
    GgufMutation("G-NAN-1", "quantised", nan_scale("blk.0.ffn_up.weight"), label="scale of a block"),
    GgufMutation("G-NAN-1", "lora", nan_in(Q_A), label="lora"),
    GgufMutation("G-TOK-1", "model", shorter_list("tokenizer.ggml.token_type"), frozenset({"G-ID-2"}), label="types"),
    GgufMutation("G-TOK-1", "model", shorter_list("tokenizer.ggml.tokens"), frozenset({"G-ID-2"}), label="tokens"),
    GgufMutation("G-TOK-2", "model", setting(tokenizer__ggml__eos_token_id=320), label="end outside"),
    GgufMutation("G-TOK-2", "model", setting(tokenizer__ggml__eos_token_id=None), label="no end"),
    GgufMutation("G-TOK-3", "model", setting(tokenizer__ggml__pre=None), frozenset({"G-ID-2"}), label="no pre"),
    GgufMutation("G-TPL-1", "model", setting(tokenizer__chat_template=None), frozenset({"G-ID-3"}), label="none"),
    GgufMutation("G-TPL-2", "model", template(TEMPLATE + TRIGGER), CHANGED, label="a trigger"),
    GgufMutation("G-TPL-2", "model", setting(tokenizer__chat_template__tool_use=TEMPLATE + TRIGGER), label="a second one"),
    GgufMutation("G-TPL-2", "model", template(TEMPLATE + "{{ messages.__class__ }}"), CHANGED | {"G-TPL-3"}, label="Python"),
    GgufMutation("G-TPL-2", "model", template(TEMPLATE + "{# " + "words " * 5_000 + "#}"), CHANGED, label="very large"),
    GgufMutation("G-TPL-3", "model", template(TEMPLATE + "{% if %}"), CHANGED, label="no Jinja"),
    GgufMutation("G-TPL-3", "model", template(TEMPLATE + ENDLESS), CHANGED, label="endless"),
    GgufMutation("G-TPL-4", "model", template(TEMPLATE.replace("im_end", "eot_id")), CHANGED, label="another model's"),
    GgufMutation("G-ID-1", "model", setting(adreg__base__weights_id=None), label="no id"),
    GgufMutation("G-ID-2", "model", other_token, label="a token changed"),
    GgufMutation("G-ID-3", "model", setting(tokenizer__chat_template="{{ messages[0]['content'] }}!"), label="changed"),
    GgufMutation(
        "G-ID-3", "model", setting(tokenizer__chat_template="{{ messages }}", adreg__base__tpl_id=None), label="id removed"
    ),
    GgufMutation("G-ID-4", "model", alter=base_shape, label="other shape"),
    GgufMutation("G-ID-5", "model", alter=forgotten, label="unknown here"),
    GgufMutation("G-ID-6", "model", alter=recorded, label="changed since"),
    GgufMutation("G-ID-7", "lora", alter=on_other_weights, label="other weights"),
    GgufMutation("G-LRA-1", "lora", setting(adapter__type="lokr"), label="lokr"),
    GgufMutation("G-LRA-2", "lora", dropping(Q_A), label="half missing"),
    GgufMutation("G-LRA-2", "lora", renaming(Q_A, f"{Q}.lora_c"), label="unexpected suffix"),
    GgufMutation("G-LRA-2", "lora", higher_rank, label="ranks differ"),
    GgufMutation("G-LRA-3", "lora", norm, label="norm"),
    GgufMutation("G-LRA-4", "lora", setting(adapter__lora__alpha=0.0), label="0"),
    GgufMutation("G-LRA-4", "lora", setting(adapter__lora__alpha=None), label="none"),
    GgufMutation("G-LRA-5", "lora", zero_b, label="zero"),
    GgufMutation("G-LRA-6", "lora", setting(general__architecture="qwen2"), label="qwen2"),
    GgufMutation(
        "G-LRA-7",
        "lora",
        in_layer_nine,
        label="layer 9",
    ),
    GgufMutation("G-LRA-8", "lora", wider, label="wider"),
    GgufMutation("G-LRA-9", "lora", embedding, label="embedding"),
)
