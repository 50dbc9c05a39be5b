"""Models that lie on this machine already: in the hub's cache, or in ModelScope's. Asks no network."""

from __future__ import annotations

import os
from pathlib import Path

DOT = "___"
"""ModelScope writes a dot in a model's name so, in the folder of its cache."""


def cached_folder(id_: str) -> Path | None:
    """The folder of the model `org/name[@revision]` in a cache, or None."""
    return _in_hub(id_) or in_modelscope(id_)


def in_modelscope(id_: str) -> Path | None:
    """The folder that ModelScope downloaded the model `org/name` to, or None."""
    organisation, _, name = id_.partition("@")[0].partition("/")
    root = Path(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope").expanduser()
    tails = [Path(organisation) / spelling for spelling in (name.replace(".", DOT), name)]
    places = [root / middle / tail for middle in ("hub/models", "models", "hub", "") for tail in tails]
    return next((place for place in places if (place / "config.json").is_file()), None)


def _in_hub(id_: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, _, revision = id_.partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError):
        return None
    return folder if (folder / "config.json").is_file() else None
