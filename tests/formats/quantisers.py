"""Quantisers for tests, written from the formats' descriptions with plain loops: what adreg reads is checked against them."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np

from adreg.formats.dtypes import to_bfloat16
from adreg.formats.quantised.bnb import LEVELS

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def bfloat16(values):
    return (to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)


def made(rows, columns):
    """The weights that tests/formats/data was made from: whole-number arithmetic, rounded to bfloat16."""
    n = np.arange(rows * columns, dtype=np.int64)
    mixed = (n * 7919) % 2003 + (n * 104729) % 1999 + (n * 15485863) % 2011 - 3003
    return bfloat16((mixed / 40000).astype(np.float32)).reshape(rows, columns)


def four_bit(weight, kind, block=64):
    """bitsandbytes' codes, two a byte, and the magnitude of each block."""
    flat = np.append(weight.ravel(), np.zeros(-weight.size % block, np.float32)).reshape(-1, block)
    magnitude = np.abs(flat).max(axis=1)
    levels = np.array(LEVELS[kind], np.float32)
    order = np.argsort(levels, kind="stable")
    middles = (levels[order][1:] + levels[order][:-1]) / 2
    shares = flat / np.maximum(magnitude, 1e-30)[:, None]
    codes = order[np.searchsorted(middles, shares, side="left")].reshape(-1)[: weight.size].astype(np.uint8)
    codes = np.append(codes, np.zeros(weight.size % 2, np.uint8))
    return (codes[::2] << 4 | codes[1::2]).reshape(-1, 1), magnitude


def gptq(weight, bits, group, index=None, offset=1):
    """The stored arrays of `weight` (out, in), rounded to nearest, and the values that they mean."""
    out, inner = weight.shape
    index = np.arange(inner) // group if index is None else index
    top, each = 2**bits - 1, 32 // bits
    scales = np.zeros((max(index) + 1, out), np.float16)
    zeros = np.zeros(scales.shape, np.int64)
    for g in range(len(scales)):
        low, high = weight[:, index == g].min(axis=1).clip(max=0), weight[:, index == g].max(axis=1).clip(min=0)
        scales[g] = ((high - low) / top).astype(np.float16)
        zeros[g] = np.round(-low / scales[g]).clip(offset, top)
    qweight = np.zeros((inner // each, out), np.uint32)
    qzeros = np.zeros((len(scales), math.ceil(out / each)), np.uint32)
    values = np.zeros((out, inner), np.float32)
    for o in range(out):
        for g in range(len(scales)):
            qzeros[g, o // each] |= np.uint32(int(zeros[g, o] - offset) << bits * (o % each))
        for i in range(inner):
            scale, zero = np.float32(scales[index[i], o]), zeros[index[i], o]
            code = int(np.clip(np.round(weight[o, i] / scale) + zero, 0, top))
            qweight[i // each, o] |= np.uint32(code << bits * (i % each))
            values[o, i] = scale * np.float32(code - zero)
    parts = {"qweight": qweight.view(np.int32), "qzeros": qzeros.view(np.int32), "scales": scales}
    return {**parts, "g_idx": index.astype(np.int32)}, values


def awq(weight, group):
    """As `gptq`, in AWQ's gemm layout: eight outputs a word, in AWQ's order."""
    out, inner = weight.shape
    parts, values = gptq(weight, 4, group, offset=0)
    codes = np.zeros((inner, out), np.uint32)
    for i in range(inner):
        for o in range(out):
            codes[i, o] = parts["qweight"].view(np.uint32)[i // 8, o] >> np.uint32(4 * (i % 8)) & np.uint32(15)
    zeros = np.array([[row[o // 8] >> np.uint32(4 * (o % 8)) & np.uint32(15) for o in range(out)] for row in _words(parts)])
    return {"qweight": _awq_words(codes), "qzeros": _awq_words(zeros), "scales": parts["scales"]}, values


def _words(parts):
    return parts["qzeros"].view(np.uint32)


def _awq_words(codes):
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for row in range(words.shape[0]):
        for word in range(words.shape[1]):
            for place, column in enumerate(AWQ_ORDER):
                words[row, word] |= np.uint32(int(codes[row, word * 8 + column]) << 4 * place)
    return words.view(np.int32)


def nf4_checkpoint(folder, target):
    """The bfloat16 checkpoint in `folder` as bitsandbytes nf4, in the files that transformers would write."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    for name in [name for name, value in tensors.items() if value.ndim == 2 and "embed" not in name]:
        weight = tensors.pop(name).float().numpy()
        codes, magnitudes = four_bit(weight, "nf4")
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
        tensors[name] = torch.from_numpy(codes)
        tensors[f"{name}.absmax"] = torch.from_numpy(magnitudes)
        tensors[f"{name}.quant_map"] = torch.tensor(LEVELS["nf4"])
        tensors[f"{name}.quant_state.bitsandbytes__nf4"] = torch.frombuffer(
            bytearray(json.dumps(state).encode()), dtype=torch.uint8
        )
    (target / "model.safetensors").unlink()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (target / "config.json").write_text(json.dumps(config))
    return target
