"""X: whether an engine takes it, by the engine's own rules. The rules themselves are data: `audit/targets.py`.

They speak for the engine that the subject is judged for; for adreg itself, K-CFG-2 and K-CFG-8 do.
"""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.audit.targets import CLASSIFIER_HEADS, ENGINES, MERGE, ONLY_PEFT, PEFT_MERGE, Engine, Obstacle
from adreg.formats.adapters.family import EMBEDDINGS, OUTPUT_HEADS, Feature
from adreg.formats.adapters.familykeys import Kind

OTHER_ANSWERS = "the engine refuses it, or answers without what it does not know"


def engine_of(subject: Subject) -> Engine | None:
    """The rules of the engine that `subject` is judged for; None for adreg, whose rules are K-CFG-2 and K-CFG-8."""
    return ENGINES.get(subject.target)


@rule(
    "X-ENG-1",
    "an adapter family that the engine does not apply",
    Severity.ERR,
    Cost.HEADER,
    why=OTHER_ANSWERS,
    fix=PEFT_MERGE,
)
def family_not_taken(subject: Subject) -> Iterator[Seen]:
    engine, kind = engine_of(subject), subject.family.kind
    if engine is None or kind is Kind.UNKNOWN or kind in engine.kinds:
        return
    expected = ", ".join(sorted(engine.kinds))
    message = f"is {kind}; {engine.name} takes {expected} only ({engine.source})"
    yield Seen(message, "peft_type", seen=kind, expected=expected, fix=ONLY_PEFT if kind.is_prompt else "")


@rule(
    "X-ENG-2",
    "a feature that the engine refuses or ignores",
    Severity.ERR,
    Cost.HEADER,
    why=OTHER_ANSWERS,
    fix=PEFT_MERGE,
)
def feature_not_taken(subject: Subject) -> Iterator[Seen]:
    engine = engine_of(subject)
    if engine is None or subject.family.kind not in engine.kinds:
        return
    for feature in sorted(subject.family.features & set(engine.features)):
        if not (engine.name == "vllm" and feature is Feature.MODULES_TO_SAVE and only_classifier_heads(subject)):
            yield stands_in_the_way(engine.features[feature], f"uses {feature}", feature)


def only_classifier_heads(subject: Subject) -> bool:
    """Whether modules_to_save names nothing but the heads that vLLM takes."""
    names = subject.raw.get("modules_to_save")
    return isinstance(names, list) and all(name in CLASSIFIER_HEADS for name in names)


def stands_in_the_way(obstacle: Obstacle, uses: str, where: str) -> Seen:
    """The finding that an engine's rule makes of what an adapter uses."""
    return Seen(f"{uses}, and {obstacle.what} ({obstacle.source})", where, seen=where, fix=obstacle.way_out)


@rule(
    "X-ENG-3",
    "a rank beyond the engine's",
    Severity.ERR,
    Cost.HEADER,
    why="the engine refuses it when it is loaded",
    fix="merge it, or train it with a smaller rank",
    varies="info where the engine takes it once it is told to",
)
def rank_not_taken(subject: Subject) -> Iterator[Seen]:
    engine, rank = engine_of(subject), highest_rank(subject)
    if engine is None or engine.max_rank is None or engine.default_rank is None or subject.family.kind not in engine.kinds:
        return
    if rank > engine.max_rank:
        yield Seen(f"has rank {rank}; {engine.name} takes {engine.max_rank} at most", "r", seen=rank, expected=engine.max_rank)
    elif rank > engine.default_rank:
        message = f"has rank {rank}; {engine.name} takes {engine.default_rank} as it starts"
        why, fix = "it is told how much room to keep", f"start it with --max-lora-rank {rank} or more"
        yield Seen(message, "r", seen=rank, expected=engine.default_rank, severity=Severity.INFO, why=why, fix=fix)


def highest_rank(subject: Subject) -> int:
    """The highest rank that the configuration names or a LoRA pair has."""
    halves = [parts.get("A", parts.get("embedding_A")) for parts in subject.family.modules.values()]
    ranks = [half.shape[0] for half in halves if half is not None and half.shape]
    return max([*subject.family.declared_ranks, *ranks], default=0)


@rule(
    "X-ENG-4",
    "a base that the engine does not know",
    Severity.ERR,
    Cost.BASE,
    why="it cannot load the base, so no adapter on it either",
    fix="serve it with adreg, PEFT or vLLM",
)
def base_not_taken(subject: Subject) -> Iterator[Seen]:
    engine, architecture = engine_of(subject), subject.card.architecture
    if engine is not None and engine.architectures is not None and architecture not in engine.architectures:
        yield Seen(f"its base is a {architecture}, which {engine.name} cannot convert", architecture, seen=architecture)


@rule(
    "X-ENG-5",
    "DoRA without its magnitudes",
    Severity.ERR,
    Cost.HEADER,
    why="PEFT takes the norms of the base's rows in their place, without a word, and not what was trained",
    fix="save the adapter again",
)
def magnitudes_missing(subject: Subject) -> Iterator[Seen]:
    engine = engine_of(subject)
    if engine is None or Feature.DORA in engine.features or subject.raw.get("use_dora") is not True:
        return
    lacking = [name for name, parts in subject.family.modules.items() if "magnitude" not in parts]
    if lacking:
        yield Seen(f"{len(lacking)} modules have no lora_magnitude_vector, such as {lacking[0]}", lacking[0])


@rule(
    "X-GGUF-1",
    "an update of a transposed weight, which llama.cpp's converter transposes again",
    Severity.ERR,
    Cost.BASE,
    why="a square one is applied transposed, without a word; any other is refused",
    fix=MERGE,
)
def transposed_twice(subject: Subject) -> Iterator[Seen]:
    engine = engine_of(subject)
    found = [name for name in subject.family.modules if name in subject.card.conv1d]
    if engine is not None and engine.transposed is not None and subject.family.kind in engine.kinds and found:
        yield stands_in_the_way(engine.transposed, f"adapts {len(found)} Conv1D modules such as {found[0]}", found[0])


@rule(
    "X-GGUF-2",
    "an adapted embedding or output head where the base has one tensor for both",
    Severity.ERR,
    Cost.BASE,
    why="a GGUF file has no tensor of its own for the tied half",
    fix=PEFT_MERGE,
)
def tied_tensor(subject: Subject) -> Iterator[Seen]:
    engine = engine_of(subject)
    if engine is None or not subject.card.tied or subject.family.kind not in engine.kinds:
        return
    for name in subject.family.modules:
        end = name.rpartition(".")[2]
        obstacle = engine.tied_head if end in OUTPUT_HEADS else engine.tied_embedding if end in EMBEDDINGS else None
        if obstacle is not None:
            yield stands_in_the_way(obstacle, f"adapts {name}", name)


@rule(
    "X-OLL-1",
    "an adapter for Ollama",
    Severity.WARN,
    Cost.HEADER,
    why="Ollama refuses Modelfiles with ADAPTER from 0.34.1 on; versions before apply one adapter, and not on every model",
    fix="merge instead: adreg merge --to gguf writes a Modelfile too",
)
def ollama_takes_no_adapter(subject: Subject) -> Iterator[Seen]:
    if subject.target == "ollama" and subject.family.kind in ENGINES["ollama"].kinds:
        yield Seen("Ollama takes merged models; adapters only before 0.34.1", "ADAPTER", seen="an adapter", expected="a model")
