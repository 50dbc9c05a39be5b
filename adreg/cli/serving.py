"""A server on the command line, step by step: what of the registry it offers, and the engine with the base and its adapters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from adreg.cli.common import quiet_libraries
from adreg.cli.output import Output
from adreg.cli.progress import progress
from adreg.errors import UsageError
from adreg.references import parse_reference
from adreg.registry.perthread import PerThread

if TYPE_CHECKING:
    from adreg.formats.bases.checkpoint import Checkpoint
    from adreg.registry.records import BaseRecord
    from adreg.registry.registry import Registry
    from adreg.serve.engine.engine import Engine
    from adreg.serve.loading import EngineSettings
    from adreg.serve.models.offer import Offer
    from adreg.serve.watch import Watch


def make_offer(
    found: Registry, record: BaseRecord, refs: Sequence[str], allow: Collection[str], target: str = "adreg"
) -> Offer:
    """What is served, with the adapters that are named looked at: that they exist, and that the audit lets the engine
    `target` have them."""
    from adreg.audit.policy import check_ids
    from adreg.serve.models.offer import Offer
    from adreg.serve.models.verified import VerifiedAdapters

    if allow and not refs:
        raise UsageError("--allow is about adapters that are named", "name them: adreg serve REF --allow ID")
    named = tuple(parse_reference(ref) for ref in refs)
    offer = Offer(PerThread(found.settings), record, named, check_ids(allow), target)
    for ref in named:
        VerifiedAdapters(offer).permit(found.adapters.resolve(ref))
    return offer


def open_engine(
    offer: Offer, checkpoint: Checkpoint, settings: EngineSettings, pins: Sequence[str] = (), watch: Watch | None = None
) -> Engine:
    """The engine over `checkpoint`, which is the base of `offer`; it keeps what `pins` mean resident. Not yet started."""
    from adreg.serve.loading import load_engine
    from adreg.serve.models.registered import Pins, RegisteredModels
    from adreg.serve.models.verified import VerifiedAdapters

    quiet_libraries()
    catalog, adapters = RegisteredModels(offer), VerifiedAdapters(offer)
    for pin in pins:
        catalog.resolve(pin)
    return load_engine(
        checkpoint.folder,
        catalog,
        adapters.open,
        settings,
        pinned=Pins(catalog, pins),
        tried=[offer.registry.adapters.resolve(ref).digest for ref in offer.refs],
        own_tokenizer=adapters.own_tokenizer,
        watch=watch,
    )


def load(found: Registry, record: BaseRecord, refs: Sequence[str], out: Output, allow: Collection[str] = ()) -> Engine:
    """An engine for just these adapters on their base, whose files must be those of its card. Raises `AuditRefused`."""
    from adreg.serve.loading import EngineSettings

    offer = make_offer(found, record, refs, allow)
    return open_engine(offer, found.bases.current(record, progress(out.human)), EngineSettings())
