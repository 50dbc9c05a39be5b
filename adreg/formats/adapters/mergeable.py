"""What of an adapter can be folded into the weights of its base, by family and by field, and what of that is served too.
Knows names, no arithmetic."""

from __future__ import annotations

from adreg.formats.adapters.familykeys import Kind

KINDS = frozenset(
    {Kind.LORA, Kind.ADALORA, Kind.VERA, Kind.LOHA, Kind.LOKR, Kind.IA3, Kind.OFT, Kind.LN_TUNING, Kind.TRAINABLE_TOKENS}
)
# fields of a LoRA configuration that do more than LoRA; and the tensors that go with them, as `Adapter.features` names both
FIELDS = ("use_dora", "lora_bias", "bias", "modules_to_save", "trainable_token_indices", "target_parameters")
SERVED = ("use_dora=True", "magnitude tensors")  # what is more than plain LoRA and needs no merge to be served
TENSORS = ("lora_bias tensors", "magnitude tensors", "token_delta tensors")


def is_mergeable(feature: str) -> bool:
    """Whether a merge understands `feature`, a `field=value` or the name of a kind of tensors."""
    return feature in TENSORS or feature.partition("=")[0] in FIELDS
