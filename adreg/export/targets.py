"""What every tensor of a merge is made of, or by name why it cannot be. Knows names and shapes, no arithmetic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from adreg.errors import UnsupportedError, UsageError
from adreg.export.changes.change import Change, are_same
from adreg.export.changes.families import changes_of
from adreg.export.changes.source import Source
from adreg.export.changes.weights import Weights, is_tied
from adreg.export.combine.settings import Combination
from adreg.export.combine.weights import joined
from adreg.export.fold.folded import Folded
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.strictjson import JsonObject

SUM = Combination()


def assign(base: Checkpoint, sources: Sequence[Source], combination: Combination = SUM) -> dict[str, Folded]:
    """What every tensor of the result is made of, by its raw name; every tensor of every source is in exactly one.
    `combination` says how the updates of several sources become one.

    Where the sources change the embedding table of a tied base and its output head differently, the result has a head
    of its own, `lm_head.weight`, whether the base's files hold one or not: see `unties`.

    Raises `UnsupportedError` or `FormatError` with the name of whatever could not be merged.
    """
    if base.config.get("quantization_config"):
        raise UnsupportedError("merging into a quantised base", "use the 16-bit checkpoint that it was made from")
    weights, found = Weights(base), defaultdict[str, list[Change]](list)
    for source in sources:
        if not -100 <= source.weight <= 100:
            raise UsageError(f"weight {source.weight} of {source.label} is out of range", "a weight lies between -100 and 100")
        for change in changes_of(source, weights):
            found[change.tensor].append(change)
    for name, changes in found.items():
        _check_together(name, changes)
    folds = {name: Folded(name, view, view.dtype) for name, view in base.items()}
    folds |= {name: _fold(weights, name, changes, combination) for name, changes in found.items() if name in base}
    if weights.tied and weights.table:
        folds = _with_head(weights, folds, found.get(weights.table, []), found.get(weights.head, []), combination)
    _check_vocabulary(weights, folds, sources)
    return folds


def unties(base: Checkpoint, folds: Mapping[str, Folded]) -> bool:
    """Whether the result needs an output head of its own although the base ties it to the embedding table. A target
    that has no place for it must refuse."""
    head = folds.get(Weights(base).head)
    return is_tied(base) and head is not None and head.adapted


def config_changes(base: Checkpoint, folds: Mapping[str, Folded]) -> JsonObject:
    """The fields of config.json that are otherwise in the result: untied embeddings, a vocabulary that has grown."""
    table = Weights(base).table
    rows = folds[table].shape[0] if table else None
    grown = table is not None and rows != base[table].shape[0]
    return ({"tie_word_embeddings": False} if unties(base, folds) else {}) | ({"vocab_size": rows} if grown else {})


def _fold(weights: Weights, name: str, changes: Sequence[Change], combination: Combination) -> Folded:
    own = weights.view(name)
    views = [change.view for change in changes if change.view is not None]
    updates = joined([change for change in changes if change.update is not None], combination, own.shape)
    return Folded(name, views[0] if views else own, own.dtype, updates)


def _with_head(
    weights: Weights, folds: dict[str, Folded], table: Sequence[Change], head: Sequence[Change], combination: Combination
) -> dict[str, Folded]:
    """`folds` of a tied base with its output head: one with the table where both are changed alike, and then in no tensor
    of its own, even where the base's files hold a copy; else a new tensor."""
    if not table and not head:
        return folds
    head = [*head, *(change for change in table if change.both)]
    _check_together(weights.head, head)
    if len(table) == len(head) and all(map(are_same, table, head)):
        return {name: fold for name, fold in folds.items() if name != weights.head}
    return folds | {weights.head: _fold(weights, weights.head, head, combination)}


def _check_together(name: str, changes: Sequence[Change]) -> None:
    """Several adapters can only add to one tensor, and one adapter has one thing to say of it: but for a bias, which it
    may replace and then add to. What does not add has no strength that could be scaled."""
    for change in changes:
        others = [other for other in changes if other is not change]
        if not change.additive and change.source.weight != 1:
            raise UsageError(f"{change.source.label} replaces or rescales {name!r}: only its full weight 1 has a meaning")
        if any(other.source is change.source and not _builds_on(name, change, other) for other in others):
            raise change.source.refusal(f"adapts {name!r} twice", "K-KEY-1")
        if any(other.source is not change.source for other in others) and not change.additive:
            labels = " and ".join(dict.fromkeys(one.source.label for one in changes))
            why = f"merging {labels} into {name!r}, to which {change.source.label} does not add but which it changes whole,"
            raise UnsupportedError(why, "merge them one after the other")


def _builds_on(name: str, one: Change, other: Change) -> bool:
    return name.endswith(".bias") and (one.view is None) != (other.view is None)


def _check_vocabulary(weights: Weights, folds: Mapping[str, Folded], sources: Sequence[Source]) -> None:
    """The embedding table and the output head must have the same rows."""
    table, head = folds.get(weights.table or ""), folds.get(weights.head)
    if table and head and table.shape[0] != head.shape[0]:
        labels = ", ".join(source.label for source in sources)
        what = f"{table.shape[0]} rows of {table.name!r} and {head.shape[0]} of {head.name!r}"
        raise UnsupportedError(f"merging {labels}, which leaves {what},", "train both when the vocabulary grows")
