"""The base's tensors, packed for decoder.c once at load. Knows names of tensors and where their bytes go; computes nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adreg.errors import FormatError, UnsupportedError
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.dtypes import FLOATS, Float32
from adreg.formats.safetensors import TensorView
from adreg.serve.native import structs
from adreg.serve.native.architecture import Architecture, embedding_scale
from adreg.serve.native.units import LANES, LINE, TILE, Arena, Format, in_strips, padded, strip_count, write_strips

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
ATTENTION = ("q_proj", "k_proj", "v_proj")
GATED = ("gate_proj", "up_proj")
SITES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
IGNORED = ".rotary_emb.inv_freq"


def shapes(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """The matrices of the model, (outside, inside), by module."""
    one = architecture
    q, kv = one.heads * one.head_dim, one.kv_heads * one.head_dim
    sizes = [(q, one.hidden), (kv, one.hidden), (kv, one.hidden), (one.hidden, q)]
    sizes += [(one.inner, one.hidden), (one.inner, one.hidden), (one.hidden, one.inner)]
    of_layer = dict(zip(SITES, sizes, strict=True))
    found = {f"model.layers.{index}.{site}": size for index in range(one.layers) for site, size in of_layer.items()}
    return found | {EMBEDDING: (one.vocabulary, one.hidden), HEAD: (one.vocabulary, one.hidden)}


def check_names(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """Raises `UnsupportedError` where `checkpoint` holds a tensor that a model of `architecture` does not have."""
    matrices = shapes(architecture)
    if architecture.tied:
        del matrices[HEAD]
    known = {f"{name}.weight" for name in matrices}
    known |= {f"{name}.bias" for name in matrices if name.rpartition(".")[2] in architecture.bias}
    known |= {f"{name}.weight" for name in norms(architecture)}
    rest = [name for name in checkpoint if name not in known and not name.endswith(IGNORED)]
    if rest:
        raise UnsupportedError(f"the tensor {min(rest)!r} in the native engine")


def norms(architecture: Architecture) -> Iterator[str]:
    """The model's norms by module."""
    of_layer = ["input_layernorm", "post_attention_layernorm"]
    if architecture.norms_outputs:
        of_layer += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    if architecture.norms_heads:
        of_layer += ["self_attn.q_norm", "self_attn.k_norm"]
    yield "model.norm"
    yield from (f"model.layers.{index}.{name}" for index in range(architecture.layers) for name in of_layer)


@dataclass
class Weights:
    """A base in the form in which decoder.c reads it; `model` points into what this object keeps alive."""

    model: structs.Model
    kept: list[Any]


def load_weights(checkpoint: Checkpoint, architecture: Architecture, form: Format, threads: int) -> Weights:
    """The weights of `checkpoint`. Raises `FormatError` where one is missing or has another shape."""
    return _Packing(checkpoint, architecture, form).run(threads)


@dataclass
class _Packing:
    checkpoint: Checkpoint
    architecture: Architecture
    form: Format
    kept: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes = shapes(self.architecture)
        if self.architecture.tied:
            del self.shapes[HEAD]
        sizes = (padded(outside, TILE) * self.form.units(inside) * 4 for outside, inside in self.shapes.values())
        self.arena = Arena(sum(padded(size, LINE) for size in sizes) + LINE)

    def run(self, threads: int) -> Weights:
        one = self.architecture
        layers = (structs.Layer * one.layers)(*map(self._layer, range(one.layers)))
        self.kept.append(layers)
        embedding = self._matrix("", (EMBEDDING,))
        head = embedding if one.tied else self._matrix("", (HEAD,))
        model = structs.Model(
            bf16=self.form.bf16, threads=threads, layers=one.layers, hidden=one.hidden, heads=one.heads, kv_heads=one.kv_heads,
            head_dim=one.head_dim, inner=one.inner, vocabulary=one.vocabulary, gelu=one.gelu, eps=one.eps,
            score_scale=one.score_scale, score_cap=one.score_cap, logit_cap=one.logit_cap,
            embedding_scale=self._scale(), rope_scale=1.0, layer=layers, embedding=embedding, head=head,
            norm_out=self._norm("model.norm", one.hidden),
        )  # fmt: skip
        for index, rope in enumerate(one.ropes):
            model.frequencies[index] = self._address(rope.frequencies)
        return Weights(model, [self.arena, *self.kept])

    def _scale(self) -> float:
        """Transformers multiplies with the scale in the type of the weights."""
        scale = np.array([[embedding_scale(self.architecture)]], np.float32)
        return float((self.form.of_floats(scale) << np.uint32(16 if self.form.bf16 else 0)).view(np.float32)[0, 0])

    def _layer(self, index: int) -> structs.Layer:
        one, before = self.architecture, f"model.layers.{index}."
        layer = structs.Layer(
            qkv=self._matrix(before + "self_attn.", ATTENTION),
            o=self._matrix(before + "self_attn.", ("o_proj",)),
            glu=self._matrix(before + "mlp.", GATED, interleaved=True),
            down=self._matrix(before + "mlp.", ("down_proj",)),
            norm_in=self._norm(before + "input_layernorm", one.hidden),
            rope=one.layer_ropes[index],
            window=one.windows[index],
        )
        if one.norms_outputs:
            layer.norm_attended = self._norm(before + "post_attention_layernorm", one.hidden)
            layer.norm_mlp = self._norm(before + "pre_feedforward_layernorm", one.hidden)
            layer.norm_fed = self._norm(before + "post_feedforward_layernorm", one.hidden)
        else:
            layer.norm_mlp = self._norm(before + "post_attention_layernorm", one.hidden)
        if one.norms_heads:
            layer.norm_q = self._norm(before + "self_attn.q_norm", one.head_dim)
            layer.norm_k = self._norm(before + "self_attn.k_norm", one.head_dim)
        return layer

    def _matrix(self, before: str, parts: Sequence[str], interleaved: bool = False) -> structs.Matrix:
        outsides = [self.shapes[before + part][0] for part in parts]
        units = self.form.units(self.shapes[before + parts[0]][1])
        places = list(_places([strip_count(outside) for outside in outsides], interleaved))
        strips = sum(map(len, places))
        tiles = self.arena.take((-(-strips // 2), units, TILE), np.uint32)
        bias = np.zeros((strips, LANES), np.float32)
        first = (ctypes.c_int32 * structs.PARTS)(*[structs.ABSENT] * structs.PARTS)
        for index, (part, outside, place) in enumerate(zip(parts, outsides, places, strict=True)):
            view = self._view(f"{before}{part}.weight", (outside, self.shapes[before + part][1]))
            write_strips(tiles, place, in_strips(self.form.of_view(view)))
            view.release()
            first[index] = place.start
            if part in self.architecture.bias:
                bias[place] = in_strips(self._vector(f"{before}{part}.bias", outside)[:, None])[:, 0]
        address = self._address(bias) if self.architecture.bias.intersection(parts) else None
        return structs.Matrix(tiles.ctypes.data, address, units, strips, first, interleaved)

    def _norm(self, module: str, width: int) -> int:
        values = np.zeros(padded(width, LANES), np.float32)
        values[:width] = self._vector(f"{module}.weight", width)
        if self.architecture.gemma:
            values[:width] += 1
        return self._address(values)

    def _vector(self, name: str, length: int) -> Float32:
        return self._view(name, (length,)).float32()

    def _view(self, name: str, shape: tuple[int, ...]) -> TensorView:
        view = self.checkpoint.tensors.get(name)
        if view is None:
            raise FormatError(self.checkpoint.folder, f"lacks the model's weight {name!r}", "B-WGT-1")
        if view.shape != shape or view.dtype not in FLOATS:
            raise FormatError(self.checkpoint.folder, f"{name!r} is {view.dtype} {view.shape}, not {shape}", "B-WGT-1")
        return view

    def _address(self, array: NDArray[Any]) -> int:
        self.kept.append(array)
        return int(array.ctypes.data)


def _places(counts: Sequence[int], interleaved: bool) -> Iterator[range]:
    """Which strips of a fused matrix belong to each of its parts."""
    start = 0
    for index, count in enumerate(counts):
        yield range(index, len(counts) * count, len(counts)) if interleaved else range(start, start + count)
        start += count
