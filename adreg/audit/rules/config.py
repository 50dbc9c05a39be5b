"""K-CFG: adapter_config.json."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.rules.broken import UNTRUSTED, format_rule, problems_of
from adreg.audit.rules.keys import low_rank
from adreg.audit.subject import Subject
from adreg.formats.adapters.family import MODIFIED_BASE
from adreg.formats.adapters.familykeys import Kind
from adreg.formats.adapters.fields import is_known, is_neutral
from adreg.formats.adapters.mergeable import KINDS, SERVED, is_mergeable
from adreg.formats.adapters.values import MAX_RANK

OWN_CONFIG = "use the adapter_config.json that was saved with these tensors"
LARGE_SCALING = 64.0
PEFT_KNOWN = (0, 21)
LIBRARIES = ("transformers", "diffusers", "peft")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+")
CREDENTIALS = re.compile(r"hf_[A-Za-z0-9]{20,}|://[^/@\s]+@")

k_cfg_1 = format_rule(
    "K-CFG-1",
    "an adapter_config.json that is not strict JSON, or holds a value of the wrong kind",
    fix=OWN_CONFIG,
)
k_cfg_5 = format_rule(
    "K-CFG-5",
    "an expression that could run for ever",
    why="loaders match it against every module's name, and never come back",
    fix="write plain module names",
)
REPEATED_BY_PEFT = ("pissa", "olora")
MERGE_IT = "merge it into the base: adreg merge"


@rule(
    "K-CFG-2",
    "an adapter type that adreg does not know, or does not apply",
    Severity.ERR,
    Cost.HEADER,
    why="what is not understood cannot be applied",
    fix="serve it with PEFT, or train LoRA",
    varies="warn for what adreg merges but does not serve",
)
def other_types(subject: Subject) -> Iterator[Seen]:
    family = subject.family
    if not subject.raw or family.kind is Kind.LORA:
        return
    if family.kind is Kind.UNKNOWN:
        yield Seen(f"its type {subject.raw.get('peft_type')!r} is unknown", "peft_type", seen=subject.raw.get("peft_type"))
    elif subject.target == "adreg":
        merged = family.kind in KINDS
        what = f"is {family.kind}, which adreg {'merges but does not serve' if merged else 'does not apply'}"
        kept = "merge it, or serve it with PEFT" if merged else "it is not mergeable; PEFT serves it"
        severity = Severity.WARN if merged else Severity.ERR
        yield Seen(what, "peft_type", family.declared, "LORA", severity, fix=kept)


@rule(
    "K-CFG-3",
    "a rank or size that is none, or not the tensors'",
    Severity.BLOCK,
    Cost.HEADER,
    why="alpha/rank would scale it wrongly",
    fix=OWN_CONFIG,
)
def rank_mismatch(subject: Subject) -> Iterator[Seen]:
    for problem in subject.problems("K-CFG-3"):
        yield Seen(problem.why, subject.name_of(problem.path), expected=f"1 to {MAX_RANK}", why=UNTRUSTED)
    yield from _other_ranks(subject)
    if subject.adapter is None:
        return
    config = subject.adapter.config
    for module in subject.lora:
        expected = config.rank_of(module.name)
        if module.rank != expected and not _is_parameter(subject, module.name, module.rank, expected):
            message = f"rank {module.rank} in the file, {expected} in adapter_config.json"
            yield Seen(message, module.name, seen=module.rank, expected=expected)


def _is_parameter(subject: Subject, module: str, rank: int, expected: int) -> bool:
    """Whether it adapts a bare parameter; one of many experts has that many times the rank. Source: peft ParamWrapper."""
    targets = subject.raw.get("target_parameters")
    paths = [target.rpartition(".")[0] for target in targets if isinstance(target, str)] if isinstance(targets, list) else []
    while module.endswith(".base_layer"):
        module = module.removesuffix(".base_layer")
    return rank % expected == 0 and any(f".{module}".endswith(f".{path}") for path in paths if path)


def _other_ranks(subject: Subject) -> Iterator[Seen]:
    """The families whose tensors all have the rank of the configuration, unless a pattern gives them another."""
    expected, family = subject.raw.get("r"), subject.family
    if family.kind not in (Kind.LOHA, Kind.VERA) or type(expected) is not int or subject.raw.get("rank_pattern"):
        return
    for name, parts in family.modules.items():
        other = set(low_rank(parts)) - {expected}
        if other:
            message = f"rank {min(other)} in the file, {expected} in adapter_config.json"
            yield Seen(message, name, seen=min(other), expected=expected)


@rule(
    "K-CFG-4",
    "an alpha that is no finite number above 0, or far above the rank",
    Severity.BLOCK,
    Cost.HEADER,
    why="PEFT takes it without a word; NaN makes every answer NaN, a negative one turns the training round",
    fix=OWN_CONFIG,
    varies="warn for a scaling above 64",
)
def odd_alpha(subject: Subject) -> Iterator[Seen]:
    yield from problems_of("K-CFG-4")(subject)
    large = [module for module in subject.lora if module.scaling > LARGE_SCALING]
    if large:
        yield Seen(
            f"scales {len(large)} modules by {large[0].scaling:g}",
            large[0].name,
            seen=f"{large[0].scaling:g}",
            expected=f"{LARGE_SCALING:g} at most",
            severity=Severity.WARN,
            why="so large a factor is hardly ever what a training used",
        )


@rule(
    "K-CFG-6",
    "a configuration that asks a loader to run code",
    Severity.BLOCK,
    Cost.HEADER,
    why="loaders have imported the modules that a configuration names, and passed on trust_remote_code",
    fix="take the field out of adapter_config.json",
    varies="err for the custom code of a base (transformers_modules), which only its own publisher's files bring",
)
def code_in_config(subject: Subject) -> Iterator[Seen]:
    mapping = subject.raw.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    root = str(library).partition(".")[0]
    if library is not None and root not in LIBRARIES:
        milder = Severity.ERR if root == "transformers_modules" else None
        message = f"auto_mapping asks to import {str(library)[:80]!r}"
        yield Seen(message, "auto_mapping", seen=str(library)[:80], expected=", ".join(LIBRARIES), severity=milder)
    core = subject.raw.get("megatron_core")
    if core not in (None, "megatron.core"):
        yield Seen(f"megatron_core asks to import {str(core)[:80]!r}", "megatron_core", seen=core, expected="megatron.core")
    for path in _trusting(subject.raw, ""):
        yield Seen(f"{path} asks for code of others to be run", path)


def _trusting(value: object, path: str) -> Iterator[str]:
    """Where in a configuration remote or custom code is asked for."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            if key in ("trust_remote_code", "custom_code", "auto_map", "custom_generate") and inner:
                yield here[:200]
            else:
                yield from _trusting(inner, here)


@rule(
    "K-CFG-7",
    "an initialisation that changed the base it was trained on",
    Severity.ERR,
    Cost.HEADER,
    why="its training took a part out of the base's weights; on the base as it is published the adapter adds to what is whole",
    fix="convert it: save_pretrained(path_initial_model_for_weight_conversion=...)",
    varies="info for PEFT where the initialisation is the same every time, as pissa's and olora's are",
)
def modified_base(subject: Subject) -> Iterator[Seen]:
    init = subject.raw.get("init_lora_weights")
    if not (isinstance(init, str) and init.lower().startswith(MODIFIED_BASE)):
        return
    if subject.target == "peft" and init.lower() in REPEATED_BY_PEFT:
        message, why = (
            f"was initialised as {init}, which PEFT repeats as it loads",
            "it takes the same part out of the base again",
        )
        yield Seen(message, "init_lora_weights", init, "true", Severity.INFO, why, "nothing to do for PEFT")
    else:
        yield Seen(f"was initialised as {init[:40]}", "init_lora_weights", seen=init[:40], expected="true")


@rule(
    "K-CFG-8",
    "more than plain LoRA, for adreg's own merge and serve",
    Severity.ERR,
    Cost.HEADER,
    why="ignoring it would give other answers than the training did",
    fix="train plain LoRA, or merge it with PEFT",
    varies="warn for what adreg merges but does not serve",
)
def extra_features(subject: Subject) -> Iterator[Seen]:
    if subject.target != "adreg" or subject.adapter is None:
        return
    for feature in subject.adapter.features:
        if feature not in SERVED and not _is_told_elsewhere(feature):
            shown, merged = feature[:200], is_mergeable(feature)
            what = f"uses {shown}, which adreg {'merges but does not serve' if merged else 'does not apply'} yet"
            yield Seen(what, shown, shown, severity=Severity.WARN if merged else Severity.ERR, fix=MERGE_IT if merged else "")


def _is_told_elsewhere(feature: str) -> bool:
    """Whether K-CFG-6 or K-CFG-7 says it."""
    field, _, value = feature.partition("=")
    if field == "init_lora_weights":
        return value.lower().startswith(MODIFIED_BASE)
    return field in ("auto_mapping.parent_library", "trust_remote_code", "custom_code", "auto_map", "custom_generate")


@rule(
    "K-CFG-9",
    "fields that no known PEFT writes, or a newer PEFT",
    Severity.WARN,
    Cost.HEADER,
    why="what they change is not known here; for adreg itself an unknown field is an error (K-CFG-8)",
    fix="update adreg",
    varies="info for a newer version without unknown fields",
)
def newer_peft(subject: Subject) -> Iterator[Seen]:
    fields = sorted(key for key, value in subject.raw.items() if not is_known(key) and not is_neutral(value))
    unread = [] if subject.target == "adreg" and subject.family.kind is Kind.LORA else fields
    for field in unread[:20]:
        yield Seen(f"sets {field[:80]!r}, which no known PEFT writes", field[:80], seen=str(subject.raw[field])[:80])
    version = subject.raw.get("peft_version")
    if not fields and isinstance(version, str) and _release(version) > PEFT_KNOWN:
        known = ".".join(map(str, PEFT_KNOWN))
        yield Seen(f"was written by PEFT {version[:20]}", "peft_version", version[:20], known, severity=Severity.INFO)


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    return (int(found[1]), int(found[2])) if found else ()


@rule(
    "K-CFG-10",
    "a base name that nobody else can resolve",
    Severity.WARN,
    Cost.HEADER,
    why="whoever gets the adapter does not learn which base it belongs to",
    fix="push it with --base, which records the base by content, or write the base's hub id",
    varies="block for one that holds credentials; silent where the base is recorded by content",
)
def unclear_base_name(subject: Subject) -> Iterator[Seen]:
    name = subject.raw.get("base_model_name_or_path")
    field = "base_model_name_or_path"
    if isinstance(name, str) and CREDENTIALS.search(name):
        why = "whoever gets the adapter gets the credentials"
        yield Seen("holds credentials in its base's name", field, expected="a hub id", severity=Severity.BLOCK, why=why)
    elif subject.raw and subject.trained_on is None and not (isinstance(name, str) and HUB_ID.fullmatch(name)):
        told = "names no base" if not name else "names its base by a path or address that others do not have"
        yield Seen(told, field, seen=str(name)[:200], expected="a hub id")


@rule(
    "K-CFG-11",
    "a base on the hub without a commit",
    Severity.WARN,
    Cost.HEADER,
    why="the repository may move on, and its newest commit is then another base",
    fix="push it with --base, which records the base by content, or write the commit as `revision`",
    varies="silent where the base is recorded by content",
)
def unpinned_base(subject: Subject) -> Iterator[Seen]:
    name, revision = subject.raw.get("base_model_name_or_path"), subject.raw.get("revision")
    if subject.trained_on is not None or not isinstance(name, str) or not HUB_ID.fullmatch(name):
        return
    if not revision:
        yield Seen(f"does not say which commit of {name}", "revision", seen=revision, expected="40 hexadecimal digits")
