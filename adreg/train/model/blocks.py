"""Blocks of known architectures with fewer operations: attention, MLP, RMS norm, whole layers. Knows transformers' classes.

Only classes whose code was read are taken, by their exact type; everything else keeps its own forward pass. Weights stay
where they are, so adapters, checkpoints and hooks see the same modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from adreg.train.model.elementwise import ACTIVATIONS, Activation, RmsNorm, Rotate
from adreg.train.model.fused import branch_of, factors_of, is_plain, project
from adreg.train.model.gated import GatedMlp

LIKE_LLAMA = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
GATED = {**LIKE_LLAMA, "gemma": "Gemma", "gemma2": "Gemma2", "gemma3": "Gemma3"}
NORMED = {**LIKE_LLAMA, "phi3": "Phi3"}
ACTIVATION_CLASSES = {"SiLUActivation": "silu", "SiLU": "silu", "GELUTanh": "gelu_pytorch_tanh"}


def fuse_blocks(model: nn.Module) -> None:
    """Replace the forward pass of the blocks in `model` that are known."""
    from adreg.train.model.decoder import native_layer

    wrappers = {
        **dict.fromkeys(_classes(LIKE_LLAMA, "Attention"), _attention),
        **dict.fromkeys(_classes(GATED, "MLP"), _mlp),
        **dict.fromkeys(_classes(NORMED, "RMSNorm"), _norm),
        **dict.fromkeys(_classes(LIKE_LLAMA, "DecoderLayer"), native_layer),
    }
    for module in list(model.modules()):
        wrap = wrappers.get(type(module))
        faster = wrap(module) if wrap else None
        if faster is not None:
            module.forward = faster


def _classes(names: dict[str, str], suffix: str) -> list[type]:
    modules = {name: import_module(f"transformers.models.{name}.modeling_{name}") for name in names}
    return [getattr(modules[name], f"{prefix}{suffix}") for name, prefix in names.items()]


class _Norm:
    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, hidden_states: Tensor) -> Tensor:
        module = self.module
        return RmsNorm.apply(hidden_states, module.weight, module.variance_epsilon)


def _norm(module: Any) -> _Norm | None:
    return None if module.weight.requires_grad else _Norm(module)


class _Mlp:
    def __init__(self, module: Any, activation: Activation) -> None:
        self.module, self.activation = module, activation

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        branches = [branch_of(one) for one in (module.gate_proj, module.up_proj, module.down_proj)]
        frozen = tuple(branch.frozen for branch in branches)
        return GatedMlp.apply(x, self.activation, frozen, *factors_of(branches))


def _mlp(module: Any) -> _Mlp | None:
    activation = ACTIVATION_CLASSES.get(type(module.act_fn).__name__)
    known = activation is not None and all(map(is_plain, (module.gate_proj, module.up_proj, module.down_proj)))
    return _Mlp(module, ACTIVATIONS[activation]) if known and activation else None


class _Attention:
    """The attention of Llama and its kin: three projections at once, and positions turned in place."""

    def __init__(self, module: Any, original: Any) -> None:
        self.module, self.original = module, original
        self.window = _window(module)

    def __call__(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        module, name = self.module, self.module.config._attn_implementation
        if past_key_values is not None or position_embeddings is None or name not in ALL_ATTENTION_FUNCTIONS:
            return self.original(  # type: ignore[no-any-return]
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        query, key, value = self._projected(hidden_states, *position_embeddings)
        out, weights = ALL_ATTENTION_FUNCTIONS[name](
            module,
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attention_mask,
            dropout=module.attention_dropout if module.training else 0.0,
            scaling=module.scaling,
            sliding_window=self.window,
            **kwargs,
        )
        return module.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights

    def _projected(self, hidden_states: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value (batch, tokens, heads, d), the first two turned to their positions."""
        module = self.module
        branches = [branch_of(one) for one in (module.q_proj, module.k_proj, module.v_proj)]
        shape = (*hidden_states.shape[:-1], -1, module.head_dim)
        query, key, value = (one.view(shape) for one in project(hidden_states, branches))
        if hasattr(module, "q_norm"):
            query, key = module.q_norm(query), module.k_norm(key)
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
        return Rotate.apply(query, cos, sin), Rotate.apply(key, cos, sin), value


def _attention(module: Any) -> _Attention | None:
    known = all(map(is_plain, (module.q_proj, module.k_proj, module.v_proj)))
    return _Attention(module, module.forward) if known else None


def _window(module: Any) -> int | None:
    """What the class's own forward pass hands over: Mistral the whole model's window, Llama none."""
    if type(module).__name__ == "MistralAttention":
        return getattr(module.config, "sliding_window", None)
    return getattr(module, "sliding_window", None)
