"""What each engine does with an adapter that is more than A and B of one rank: its rules, as data. Judges nothing.

Sources. vLLM 0.32: vllm/lora/peft_helper.py (`_validate_features`, `validate_legal`), vllm/lora/utils.py, config/lora.py.
llama.cpp b11434: convert_lora_to_gguf.py and src/llama-adapter.{h,cpp}, measured in tests/audit/test_agreement.py.
Ollama 0.33/0.34: it runs llama.cpp's server; convert/convert.go, server/create.go. PEFT 0.21: measured likewise.
An initialisation that changes the base is K-CFG-7's, for every engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from adreg.audit.llamacpp import ARCHITECTURES
from adreg.formats.adapters.family import Feature
from adreg.formats.adapters.familykeys import Kind

PEFT_MERGE = "merge it with PEFT (merge_and_unload) and give the engine the merged model"
MERGE = "merge instead: adreg merge --to gguf"
MERGE_OTHERS = f"{PEFT_MERGE}, as GGUF"
ONLY_PEFT = "serve it with PEFT: nothing of it can be merged into weights"


@dataclass(frozen=True)
class Obstacle:
    """What an engine does with something that it does not take, the way out, and the engine's own rule."""

    what: str
    way_out: str
    source: str


@dataclass(frozen=True)
class Engine:
    """The adapters that an engine takes: families, features that stand in the way, ranks, model classes (None: any).

    `source` is where it reads which families it takes; `default_rank` the highest rank that it takes as it starts,
    `max_rank` the highest that it can be told to take.
    """

    name: str
    kinds: frozenset[Kind]
    features: Mapping[Feature, Obstacle]
    source: str
    default_rank: int | None = None
    max_rank: int | None = None
    architectures: frozenset[str] | None = None
    transposed: Obstacle | None = None
    tied_head: Obstacle | None = None
    tied_embedding: Obstacle | None = None


def _vllm(what: str) -> Obstacle:
    return Obstacle(f"vLLM refuses it: {what}", PEFT_MERGE, "vllm/lora/peft_helper.py")


def _converter(what: str, way_out: str = MERGE_OTHERS) -> Obstacle:
    return Obstacle(f"llama.cpp's LoRA converter {what}", way_out, "convert_lora_to_gguf.py")


VLLM_FEATURES = {
    Feature.DORA: _vllm("it does not support DoRA"),
    Feature.LORA_BIAS: _vllm("it does not support lora_bias"),
    Feature.BIAS: _vllm("adapter bias is not supported"),
    Feature.MODULES_TO_SAVE: _vllm("modules_to_save may name a classifier's head only"),
    Feature.TRAINABLE_TOKENS: Obstacle(
        "vLLM knows no trainable_tokens_delta tensor", PEFT_MERGE, "vllm/lora/utils.py, parse_fine_tuned_lora_name"
    ),
    Feature.ALORA: Obstacle(
        "vLLM refuses it: it does not support Activated LoRA", "serve it with PEFT or llama.cpp", "vllm/lora/peft_helper.py"
    ),
    Feature.LAYER_REPLICATION: _vllm("it does not support layer_replication"),
    Feature.BDLORA: _vllm("it does not support block-diagonal LoRA"),
    Feature.QALORA: _vllm("it does not support QALoRA"),
}
CONVERTER_FEATURES = {
    Feature.RSLORA: _converter("ignores use_rslora: the update is too small by the square root of the rank", MERGE),
    Feature.ALPHA_PATTERN: _converter("ignores alpha_pattern: modules are scaled by lora_alpha", MERGE),
    Feature.DORA: _converter("refuses lora_magnitude_vector tensors"),
    Feature.LORA_BIAS: _converter("refuses lora_B.bias tensors"),
    Feature.BIAS: _converter("refuses bias tensors"),
    Feature.MODULES_TO_SAVE: _converter("refuses whole tensors, and drops norms without a word"),
    Feature.TRAINABLE_TOKENS: _converter("refuses trainable_tokens_delta tensors"),
    Feature.TARGET_PARAMETERS: _converter("has no place for updates of parameters (mixtures of experts)"),
    Feature.ALORA: Obstacle(
        "llama.cpp's server activates it one token before its invocation begins", "serve it with PEFT", "measured on b11549"
    ),
    Feature.LAYER_REPLICATION: _converter("knows the base's own layers only"),
    Feature.QALORA: _converter("knows no QALoRA"),
    Feature.BDLORA: _converter("knows no block-diagonal LoRA"),
}
TRANSPOSED = _converter("transposes Conv1D weights, and so the update of a square one is applied transposed", MERGE)
TIED_HEAD = Obstacle(
    "its base has tied embeddings: a GGUF file of it has no output.weight", MERGE_OTHERS, "src/llama-adapter.cpp"
)
TIED_EMBEDDING = Obstacle(
    "its base has tied embeddings: llama.cpp applies it to the output too, and aborts", MERGE_OTHERS, "src/llama-adapter.cpp"
)
PEFT_KINDS = frozenset(Kind) - {Kind.UNKNOWN}
LLAMA_CPP = Engine(
    name="llama.cpp",
    kinds=frozenset({Kind.LORA}),
    features=CONVERTER_FEATURES,
    source="convert_lora_to_gguf.py",
    architectures=ARCHITECTURES,
    transposed=TRANSPOSED,
    tied_head=TIED_HEAD,
    tied_embedding=TIED_EMBEDDING,
)
ENGINES: dict[str, Engine] = {
    "peft": Engine("peft", PEFT_KINDS, {}, "peft/mapping.py"),
    "vllm": Engine("vllm", frozenset({Kind.LORA}), VLLM_FEATURES, "vllm/lora/peft_helper.py", default_rank=16, max_rank=512),
    "llama.cpp": LLAMA_CPP,
    "ollama": replace(LLAMA_CPP, name="ollama"),
}
CLASSIFIER_HEADS = ("classifier", "score")
