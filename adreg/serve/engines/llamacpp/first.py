"""Which adapters llama.cpp is started with. Knows versions, starts nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from adreg.errors import AdregError, UsageError
from adreg.registry.records import VersionRecord
from adreg.serve.engines.llamacpp.files import LoraFile, LoraFiles
from adreg.serve.models.offer import Offer

log = logging.getLogger("adreg.serve")


def first_loras(files: LoraFiles, limit: int) -> list[LoraFile]:
    """Those that are named, or else the newest version of every adapter and whatever has an alias, pushed last first.

    Raises `UsageError` where more than `limit` are named, and for a named one whatever `LoraFiles.get` does; one that
    nobody named is left out with a word in the log.
    """
    offer = files.adapters.offer
    if offer.refs:
        named = list(dict.fromkeys(offer.registry.adapters.resolve(ref).digest for ref in offer.refs))
        if len(named) > limit:
            raise UsageError(f"{len(named)} adapters are named, and --max-adapters is {limit}", f"--max-adapters {len(named)}")
        return [files.get(digest) for digest in named]
    found: dict[str, LoraFile] = {}
    for version in sorted(_candidates(offer), key=lambda version: -version.id):
        if len(found) < limit and version.digest not in found:
            try:
                found[version.digest] = files.get(version.digest)
            except AdregError as error:
                log.warning("%s is not loaded: %s", version.reference, error)
    return list(found.values())


def _candidates(offer: Offer) -> Iterator[VersionRecord]:
    before = ""
    for version in offer.listed():
        if version.aliases or version.adapter != before:
            yield version
        before = version.adapter
