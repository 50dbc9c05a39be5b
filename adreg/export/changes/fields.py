"""Which fields of adapter_config.json a merge understands; any other that is set to something is refused by name."""

from __future__ import annotations

from adreg.errors import UnsupportedError
from adreg.export.changes.source import Source
from adreg.formats.adapters.adapter import Adapter
from adreg.formats.adapters.config import INERT
from adreg.formats.adapters.familykeys import Kind
from adreg.formats.adapters.fields import is_neutral
from adreg.formats.adapters.mergeable import is_mergeable

UNCONVERTED = "convert it with path_initial_model_for_weight_conversion, when it is saved"
COMMON = INERT | {"modules_to_save", "init_weights"} - {"init_lora_weights"}
LYCORIS = {"alpha", "rank_dropout", "module_dropout", "use_effective_conv2d"}
FIELDS: dict[Kind, set[str]] = {
    Kind.ADALORA: {
        "init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step",
        "init_lora_weights",
    },
    Kind.VERA: {"projection_prng_key", "save_projection", "vera_dropout", "d_initial"},
    Kind.LOHA: LYCORIS,
    Kind.LOKR: LYCORIS | {"decompose_both", "decompose_factor", "rank_dropout_scale"},
    Kind.IA3: {"feedforward_modules", "init_ia3_weights"},
    Kind.OFT: {
        "oft_block_size", "module_dropout", "eps", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms",
    },
    Kind.LN_TUNING: set(),
    Kind.TRAINABLE_TOKENS: {"token_indices"},
}  # fmt: skip


def check_fields(source: Source) -> None:
    """Raise `UnsupportedError` for the first field that a merge would have to ignore."""
    config = source.adapter.config
    if isinstance(source.adapter, Adapter):
        odd = [feature for feature in source.adapter.config.features if not is_mergeable(feature)]
    else:
        known = COMMON | FIELDS[source.family.kind]
        odd = [f"{field}={value}" for field, value in config.raw.items() if field not in known and not is_neutral(value)]
    if odd:
        way_out = UNCONVERTED if odd[0].startswith("init_lora_weights") else ""
        raise UnsupportedError(f"merging {source.label}, which uses {', '.join(odd)},", way_out)
