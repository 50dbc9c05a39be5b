"""Writes GGUF files of tiny models with gguf's own writer, names and quantisers; rotary rows are interleaved by hand."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from adreg.formats.bases.checkpoint import Checkpoint, open_checkpoint


def write_llama_gguf(folder: Path, path: Path, kind: str = "F32") -> Path:
    """The Llama checkpoint in `folder` as a GGUF file of this type, norms in F32, without a tokenizer."""
    base = open_checkpoint(folder)
    writer = GGUFWriter(path, "llama")
    write_sizes(writer, base)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, base.config["num_hidden_layers"])
    for name, view in base.items():
        values = view.float32()
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if f".{part}." in name:
                heads_apart = values.reshape(base.config[heads], 2, -1, *values.shape[1:])
                values = np.ascontiguousarray(heads_apart.swapaxes(1, 2)).reshape(values.shape)
        dtype = GGMLQuantizationType["F32" if values.ndim == 1 else kind]
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), quants.quantize(values, dtype), raw_dtype=dtype)
    finish(writer)
    return path


def write_sizes(writer: GGUFWriter, base: Checkpoint) -> None:
    """The hyperparameters that every architecture has."""
    config = base.config
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
