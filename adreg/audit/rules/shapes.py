"""B: every part of the adapter against the names and shapes of the base at hand."""

from __future__ import annotations

from collections.abc import Iterator

from adreg.audit.findings import Severity
from adreg.audit.rule import Cost, Seen, rule
from adreg.audit.subject import Subject
from adreg.audit.weights import BaseWeights, ending, is_table
from adreg.formats.adapters.family import EMBEDDINGS, OUTPUT_HEADS
from adreg.formats.adapters.familykeys import Kind, Style
from adreg.formats.adapters.keys import PREFIX
from adreg.formats.adapters.updates import Fit, fit_of
from adreg.formats.canonical import canonical_name

SILENT_LOAD = "PEFT loads it without a word and the answers are wrong"
RIGHT_BASE = "use the base it was trained on"
OURS = {Style.PEFT, Style.BARE}


@rule("B-SHP-1", "the base has no such module", Severity.BLOCK, Cost.BASE, why=SILENT_LOAD, fix=RIGHT_BASE)
def missing_modules(subject: Subject) -> Iterator[Seen]:
    if subject.raw.get("layer_replication"):
        return  # its modules count the layers of a model that PEFT builds out of the base
    base = BaseWeights(subject.card)
    for module in _modules(subject):
        if not base.has(module):
            kin = base.fused(module)
            aside = f"; it has {kin}, which holds those weights in another form" if kin else ""
            yield Seen(f"{subject.card.name} has no module {module!r}{aside}", module, seen=kin or "nothing")


@rule(
    "B-SHP-2",
    "an update of another shape than the base's weight",
    Severity.BLOCK,
    Cost.BASE,
    why="it was trained on a model of another size",
    fix=RIGHT_BASE,
)
def wrong_shapes(subject: Subject) -> Iterator[Seen]:
    base = BaseWeights(subject.card)
    for module, fit in _fits(subject):
        if base.has(module) and not base.takes(module, fit) and not _other_vocabulary(base, module, fit):
            expected = base.weight(module) or "one of its experts'"
            yield Seen(f"its update has shape {fit}, the base's weight {expected}", module, seen=fit, expected=expected)
    for raw, seen, expected in _saved(subject, base):
        if not is_table(_module_of(raw)) or seen[1:] != expected[1:]:
            yield Seen(f"it replaces a tensor of shape {expected} by one of {seen}", raw, seen=seen, expected=expected)
    yield from _prompt_widths(subject, base)


@rule(
    "B-SHP-3",
    "another vocabulary than the base's",
    Severity.BLOCK,
    Cost.BASE,
    why="its rows belong to other tokens, or to tokens that the base does not have",
    fix="use the base it was trained on, with its embedding resized as it was then",
    varies="err for whole tables in modules_to_save: a base whose embedding is resized first takes them",
)
def other_vocabulary(subject: Subject) -> Iterator[Seen]:
    base = BaseWeights(subject.card)
    for module, fit in _fits(subject):
        shape = base.weight(module)
        if shape and _other_vocabulary(base, module, fit):
            yield Seen(
                f"it was trained for {fit.rows} tokens, the base has {shape[0]}", module, seen=fit.rows, expected=shape[0]
            )
    for raw, seen, expected in _saved(subject, base):
        if is_table(_module_of(raw)) and seen[1:] == expected[1:]:
            message = f"it brings a table of {seen[0]} tokens, the base has {expected[0]}"
            yield Seen(message, raw, seen=seen[0], expected=expected[0], severity=Severity.ERR)
    rows, beyond = base.embedding, trained_tokens(subject)
    if rows and beyond and max(beyond) >= rows[0]:
        yield Seen(f"it trains token {max(beyond)}, the base has {rows[0]}", "trainable_token_indices", max(beyond), rows[0])


@rule(
    "B-SHP-4",
    "the base has modules of an adapted kind that the adapter does not touch",
    Severity.WARN,
    Cost.BASE,
    why="the base may have more layers than the training's",
    fix="check that the base is the one it was trained on",
)
def uncovered_layers(subject: Subject) -> Iterator[Seen]:
    if _chose_layers(subject):
        return
    adapted = {canonical_name(module) for module in _modules(subject)}
    kinds, base = {ending(name) for name in adapted}, BaseWeights(subject.card)
    wanted = _listed(subject)
    missed = sorted(
        own
        for name, own in base.modules.items()
        if name not in adapted and ending(name) in kinds and f".{name}".endswith(wanted)
    )
    if missed:
        message = f"{len(missed)} modules of the adapted kinds are untouched, such as {missed[0]}"
        yield Seen(message, missed[0], seen=len(missed), expected=0)


def _listed(subject: Subject) -> tuple[str, ...]:
    """The ends of the names of the modules that are listed as targets, behind any number; any end where an expression
    says which."""
    targets = subject.raw.get("target_modules")
    names = [target for target in targets if isinstance(target, str) and target] if isinstance(targets, list) else []
    return tuple(f".{_behind_numbers(name)}" for name in names) or ("",)


def _behind_numbers(name: str) -> str:
    """The parts behind the last number, such as `self_attn.q_proj` of `layers.0.self_attn.q_proj`."""
    parts = name.split(".")
    behind = next((index for index in range(len(parts), 0, -1) if parts[index - 1].isdecimal()), 0)
    return ".".join(parts[behind:])


@rule(
    "B-TIE-1",
    "an update of an embedding that the base also uses as its output head",
    Severity.WARN,
    Cost.BASE,
    why="added to the one shared weight, it would change both; PEFT applies it to one of them",
    fix="train it on a base whose embeddings are not tied, or without embed_tokens and lm_head",
    varies="err where adreg is to merge and serve it",
)
def tied_tables(subject: Subject) -> Iterator[Seen]:
    if not subject.card.tied or subject.raw.get("ensure_weight_tying") is True:
        return
    saved = {_module_of(raw) for raw in subject.family.saved}
    for module in sorted(saved | set(_modules(subject))):
        if ending(module) in (*EMBEDDINGS, *OUTPUT_HEADS):
            severity = Severity.ERR if subject.target == "adreg" else Severity.WARN
            yield Seen(f"{subject.card.name} uses one tensor for {module} and another module", module, severity=severity)


@rule(
    "B-DUP-1",
    "a tensor with the name of one of the base's own",
    Severity.BLOCK,
    Cost.BASE,
    why="PEFT writes it over the base, for every adapter and for good",
    fix="do not use this adapter",
)
def base_tensors(subject: Subject) -> Iterator[Seen]:
    names = {canonical_name(name) for name in subject.card.shapes}
    for raw in subject.tensors:
        if canonical_name(raw) in names and raw not in subject.family.saved:
            yield Seen(f"{subject.card.name} has a tensor of this name", raw)


def trained_tokens(subject: Subject) -> list[int]:
    """The token ids that trainable_token_indices names, in either of its two forms."""
    named = subject.raw.get("trainable_token_indices")
    lists = named.values() if isinstance(named, dict) else [named]
    return [id_ for ids in lists if isinstance(ids, list) for id_ in ids if type(id_) is int]


def _modules(subject: Subject) -> list[str]:
    """The adapted modules, where their names are PEFT's; another tool's spelling is K-KEY-5's matter."""
    return list(subject.family.modules) if set(subject.family.styles) <= OURS else []


def _fits(subject: Subject) -> Iterator[tuple[str, Fit]]:
    broken = set(subject.family.incomplete)
    for module in _modules(subject):
        fit = fit_of(subject.family.modules[module], subject.family.kind)
        if fit is not None and module not in broken:
            yield module, fit


def _other_vocabulary(base: BaseWeights, module: str, fit: Fit) -> bool:
    """Whether only the number of tokens is another."""
    shape = base.weight(module)
    if not is_table(module) or shape is None or len(shape) != 2:
        return False
    return fit.columns == shape[1] and fit.rows != shape[0]


def _saved(subject: Subject, base: BaseWeights) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Whole tensors of the adapter that are of another shape than the base's of that name."""
    sides = ((f"{module}.weight", parts) for module, parts in subject.family.sides.items())
    copies = {name: parts["base_copy"] for name, parts in sides if "base_copy" in parts}
    for raw, view in {**subject.family.saved, **copies}.items():
        expected = base.parameter(raw.removeprefix(PREFIX))
        if expected is not None and expected != view.shape:
            yield raw, view.shape, expected


def _module_of(raw: str) -> str:
    return raw.removeprefix(PREFIX).rpartition(".")[0]


def _chose_layers(subject: Subject) -> bool:
    """Whether its configuration picks layers, or leaves some out."""
    return subject.raw.get("layers_to_transform") is not None or bool(subject.raw.get("exclude_modules"))


def _prompt_widths(subject: Subject, base: BaseWeights) -> Iterator[Seen]:
    """Virtual tokens are as wide as the embedding; a prefix as the keys and values of all layers."""
    prompt, table = subject.family.shared.get("prompt"), base.embedding
    if prompt is None or len(prompt.shape) != 2 or table is None:
        return
    expected = _prefix_width(base) if subject.family.kind is Kind.PREFIX_TUNING else table[1]
    if expected is not None and prompt.shape[1] != expected:
        message = f"its virtual tokens are {prompt.shape[1]} wide, the base's {expected}"
        yield Seen(message, "prompt_embeddings", seen=prompt.shape[1], expected=expected)


def _prefix_width(base: BaseWeights) -> int | None:
    keys = [base.shapes[f"{name}.weight"] for name in base.modules if ending(name) in ("k_proj", "v_proj")]
    return sum(shape[0] for shape in keys) or None
