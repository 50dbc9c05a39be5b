"""What `push --to` and `pull` do with other places: remotes by name, and the Hugging Face Hub as hf:org/name."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.cli.output import Output, size
from adreg.cli.progress import progress
from adreg.errors import UsageError
from adreg.references import Reference, parse_reference

if TYPE_CHECKING:
    from adreg.registry.intake import Pushed
    from adreg.registry.records import VersionRecord
    from adreg.registry.registry import Registry
    from adreg.registry.remotes.remote import Remote

HUB = "hf:"


@dataclass(frozen=True)
class HubWishes:
    """How something is published on the hub."""

    private: bool = False
    overwrite_card: bool = False


def send_to(found: Registry, version: VersionRecord, alias: str | None, to: str, wishes: HubWishes, out: Output) -> None:
    """Send a stored version to a remote, or publish it on the hub, and say so."""
    if to.startswith(HUB):
        _publish(found, version, to, wishes, out)
        return
    from adreg.registry.remotes.catalog import Remotes
    from adreg.registry.remotes.transfer import send

    remote = Remotes(found).open(to)
    expect = remote.aliases(version.adapter).get(alias) if alias else None
    sent = send(found, version, remote, alias, expect, progress(out.human))
    there = f"{version.adapter}:{sent.number}"
    value = {**version.as_json(), "remote": to, "sent_as": there, "sent_blobs": sent.blobs, "sent_bytes": sent.size}
    out.done(f"sent {version.reference} to {to} as {there} ({size(sent.size)} in {sent.blobs} files)", value, "reference")


def _publish(found: Registry, version: VersionRecord, to: str, wishes: HubWishes, out: Output) -> None:
    from adreg.registry.hub.modelcard import model_card
    from adreg.registry.hub.publish import plan_publish, publish
    from adreg.registry.hub.reference import parse_hub_reference

    reference = parse_hub_reference(to)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "adapter"
        found.adapters.pull(version, folder)
        card = model_card(card_facts(found, version, reference.repo))
        plan = plan_publish(folder, reference, card, overwrite_card=wishes.overwrite_card)
        commit = publish(plan, wishes.private, progress=progress(out.human))
    value = {**version.as_json(), "remote": to, "commit": commit}
    out.done(f"published {version.reference} at {HUB}{reference.repo}@{commit[:12]}", value, "commit")


def card_facts(found: Registry, version: VersionRecord, repo: str) -> Any:
    """What the model card of a version tells (a `CardFacts`)."""
    from adreg.registry.hub.modelcard import CardFacts, hub_base

    base = found.bases.get(version.base) if version.base else None
    base_model, revision = hub_base(base.origin) if base else (None, None)
    return CardFacts(
        repo=repo,
        digest=version.digest,
        summary=version.summary,
        files=tuple(version.files),
        base_name=version.base or str(version.summary["base_claim"] or "an unknown base"),
        base_model=base_model,
        base_revision=revision,
        base_ids=version.trained_on,
        run=found.runs.get(version.run) if version.run else None,
        tags=version.tags,
    )


def remote_of(found: Registry, text: str) -> tuple[Remote, Reference] | None:
    """The remote and what is meant there by REMOTE/REF; None when no remote is called so."""
    from adreg.registry.remotes.catalog import Remotes

    name, slash, rest = text.partition("/")
    remotes = Remotes(found)
    if not slash or name not in [record.name for record in remotes.all()]:
        return None
    return remotes.open(name), parse_reference(rest)


def pull_remote(found: Registry, remote: Remote, reference: Reference, out: Output) -> Pushed:
    """Bring a version of a remote into this registry; an alias comes along where there is none here yet."""
    from adreg.registry.remotes.sync import aliases_here
    from adreg.registry.remotes.transfer import find_manifest, receive

    manifest = find_manifest(remote, reference)
    here = aliases_here(found, reference.name)
    alias = reference.alias if reference.alias not in here else None
    pushed = receive(found, remote, manifest, alias, progress(out.human))
    if reference.alias and here.get(reference.alias, manifest.digest) != manifest.digest:
        move = f"adreg alias set {pushed.version.reference} {reference.alias}"
        out.note(f"{reference} still means another version here; {move} moves it", "yellow")
    return pushed


def pull_hub(found: Registry, text: str, name: str | None, base: str | None, out: Output) -> Pushed:
    """Bring an adapter from the hub into this registry, from the commit that is named or newest now."""
    from adreg.registry.hub.fetch import fetch
    from adreg.registry.hub.reference import parse_hub_reference
    from adreg.registry.push import plan_push

    reference = parse_hub_reference(text)
    chosen = parse_reference(name or local_name(reference.repo))
    if chosen.version or chosen.digest:
        raise UsageError(f"{name!r} names an existing version", "give a name, or NAME:ALIAS")
    shown = progress(out.human)
    record = found.bases.ensure(base, shown) if base else None
    with tempfile.TemporaryDirectory(dir=_spool(found)) as temporary:
        copy = fetch(reference, Path(temporary) / "adapter", progress=shown)
        origin = f"{HUB}{copy.repo}@{copy.commit}"
        return found.adapters.push(plan_push(copy.folder), chosen.name, chosen.alias, record, origin)


def local_name(repo: str) -> str:
    """The name here of a repository on the hub: lower case, odd characters as dashes."""
    from adreg.registry.sources import base_name

    return "/".join(base_name(part) for part in repo.split("/"))


def _spool(found: Registry) -> Path:
    """A folder on the registry's own disk: adapters are too large for some machines' /tmp."""
    folder = found.settings.home / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
