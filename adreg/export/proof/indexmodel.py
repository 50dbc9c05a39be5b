"""Index-1.9B for transformers without its remote code: a Llama whose output head is normalised row by row.

Source: bilibili's modeling_index.py, `NormHead`, by way of PaddleFormers' port of it (transformers/index/modeling.py).
"""

from __future__ import annotations

from typing import Any


def register_index() -> None:
    """Let transformers load checkpoints of model type `index`. Does nothing the second time."""
    from torch import nn
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if "index" in CONFIG_MAPPING:
        return

    class IndexConfig(LlamaConfig):  # type: ignore[misc]
        model_type = "index"

    class NormHead(nn.Linear):  # type: ignore[misc]
        def forward(self, states: Any) -> Any:
            return nn.functional.linear(states, nn.functional.normalize(self.weight))

    class IndexForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
        config_class = IndexConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            if getattr(config, "norm_head", False):
                self.lm_head = NormHead(config.hidden_size, config.vocab_size, bias=False)

    AutoConfig.register("index", IndexConfig)
    AutoModelForCausalLM.register(IndexConfig, IndexForCausalLM)
