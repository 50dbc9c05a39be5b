"""Hostile weights files and configurations, each made from a seed."""

# ruff: noqa: E501 - tables

from __future__ import annotations

import json
from random import Random
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2**31, 2**40, 2**53 + 1, 2**63, 2**64, 10**300, 0.5, 1e308, float("nan"), float("inf"), "", "a",
    "\x00", "\u202e", "../x", "x" * 600, "é" * 300, [], [[]], [0], [1, 2], [-1, 4], [0, 2**62], [True, 4], ["a"], [None] * 9, {},
    {"a": 1}, {"a": {"b": []}}, "F32", "F8_E5M2", "F4", "BOOL", "I64", "C64", "U8", "F7",
)  # fmt: skip
TEXTS = (
    "(a+)+$", "(.*)*x", ".*.*.*.*.*.*.*z", "(x+x+)+y", "[", "(?P<n>a)(?P=n)", "a{1000000}", "(a|a)*b", ".*q_proj", "(" * 200, "\\",
    "model.layers.0", r".*\.(q_proj|v_proj)", "a?" * 40 + "a" * 40, "(?i)Q_PROJ", "^q$", "evil_module_of_a_file", "os.system", "pissa",
    "LORA", "LOHA", "VERA", "IA3", "PREFIX_TUNING", "XLORA", "all-linear", "lm_head", "model", "layers", "0.99.1", "hf_" + "a" * 40,
)  # fmt: skip
FIELDS = (
    "r", "lora_alpha", "alpha", "target_modules", "exclude_modules", "layers_pattern", "layers_to_transform", "rank_pattern",
    "alpha_pattern", "modules_to_save", "peft_type", "use_rslora", "use_dora", "fan_in_fan_out", "init_lora_weights", "bias",
    "auto_mapping", "megatron_core", "trust_remote_code", "base_model_name_or_path", "revision", "peft_version", "task_type",
    "target_parameters", "trainable_token_indices", "layer_replication", "num_virtual_tokens", "runtime_config", "loftq_config",
    "tokenizer_kwargs", "lora_bias", "ensure_weight_tying", "eva_config", "feedforward_modules", "unknown_field", "alora_invocation_tokens",
)  # fmt: skip
PARTS = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_embedding_A",
    "lora_magnitude_vector",
    "hada_w1_a",
    "lokr_w1",
    "ia3_l",
    "weight",
    "lora_down.weight",
)


def sound(random: Random) -> dict[str, Any]:
    """The header of a small sound adapter."""
    found, end = {}, 0
    for layer in range(random.randint(1, 3)):
        for part, shape in (("A", [2, 8]), ("B", [8, 2])):
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight"
            found[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 64]}
            end += 64
    return found


def change_entry(random: Random, header: dict[str, Any]) -> None:
    entry = header[random.choice(list(header))]
    if isinstance(entry, dict):
        entry[random.choice(("dtype", "shape", "data_offsets", "device"))] = random.choice(NASTY)


def change_number(random: Random, header: dict[str, Any]) -> None:
    entry = header[random.choice(list(header))]
    values = entry.get(random.choice(("shape", "data_offsets"))) if isinstance(entry, dict) else None
    if isinstance(values, list) and values:
        values[random.randrange(len(values))] = random.choice((*NASTY, *range(70)))


def reshape(random: Random, header: dict[str, Any]) -> None:
    """Another shape or type of the same size: sound to the reader, strange to every rule."""
    entry = header[random.choice(list(header))]
    if isinstance(entry, dict):
        entry["dtype"], entry["shape"] = random.choice(
            (
                ("F32", [16]),
                ("F32", [1] * 7 + [16]),
                ("F64", [8]),
                ("U8", [64]),
                ("F4", [128]),
                ("F16", [4, 8]),
                ("C64", [2, 4]),
                ("BF16", [32, 1]),
            )
        )


def rename(random: Random, header: dict[str, Any]) -> None:
    name = random.choice(list(header))
    prefix = random.choice(("base_model.model.", "", "lora_unet_", "unet.", "base_model.model.base_model.model."))
    new = f"{prefix}{random.choice(('m', 'q.' * 50, 'layers.1.q', 'x' * 500, '..', 'lm_head'))}.{random.choice(PARTS)}"
    header[random.choice((new, new, str(random.choice(NASTY)), "__metadata__"))] = header.pop(name)


def replace_entry(random: Random, header: dict[str, Any]) -> None:
    header[random.choice(list(header))] = random.choice(NASTY)


def add_metadata(random: Random, header: dict[str, Any]) -> None:
    header["__metadata__"] = random.choice((*NASTY, {"format": "pt"}, {"a": random.choice(NASTY)}))


def drop_entry(random: Random, header: dict[str, Any]) -> None:
    if len(header) > 1:
        del header[random.choice(list(header))]


HEADER_CHANGES = (change_entry, change_number, reshape, reshape, rename, rename, replace_entry, add_metadata, drop_entry)


def scramble(random: Random, text: bytes) -> bytes:
    """`text` with a few bytes changed, cut, doubled or put in."""
    raw = bytearray(text)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(raw) + 1)
        kind = random.randrange(5)
        if kind == 0 and place < len(raw):
            raw[place] = random.randrange(256)
        elif kind == 1:
            del raw[place : place + random.randint(1, 8)]
        elif kind == 2:
            raw[place:place] = raw[place : place + random.randint(1, 200)]
        elif kind == 3:
            raw[place:place] = random.choice(
                (b"{", b"}", b"[" * 2000, b'"', b"\\ud800", b"\xff", b"NaN", b",", b"1e999", b" ", b'{"a":' * 3000)
            )
        else:
            del raw[place:]
        raw = raw or bytearray(b"{")
    return bytes(raw)


def header_file(random: Random) -> bytes:
    """One hostile weights file."""
    header = sound(random)
    size = 64 * len(header)
    for _ in range(random.randint(0, 3)):
        random.choice(HEADER_CHANGES)(random, header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if random.random() < 0.1:
        text = text[:-1] + b", " + text[1:]
    if random.random() < 0.35:
        text = scramble(random, text)
    payload = bytes(size)
    if random.random() < 0.15:
        payload = bytes(random.choice((0, 1, size - 1, size + 1, size + 64, 5000)))
    length = (
        len(text) if random.random() < 0.9 else random.choice((0, 1, len(text) - 1, len(text) + 8, 2**31, 2**40, 2**64 - 1))
    )
    return max(length, 0).to_bytes(8, "little") + text + payload


def config_file(random: Random) -> bytes:
    """One hostile adapter_config.json."""
    config: dict[str, Any] = {
        "peft_type": random.choice(("LORA",) * 90 + TEXTS),
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
    }
    for _ in range(random.randint(1, 4)):
        plain = random.choice((*NASTY, *TEXTS))
        wrapped = random.choice(
            (plain, plain, [plain], {str(random.choice(TEXTS)): plain}, {"parent_library": plain}, [[plain] * 3])
        )
        config[random.choice(FIELDS)] = wrapped
    text = json.dumps(config).encode("utf-8", "surrogatepass")
    if random.random() < 0.1:
        text = text[:-1] + b', "r": 3}'
    return scramble(random, text) if random.random() < 0.2 else text
