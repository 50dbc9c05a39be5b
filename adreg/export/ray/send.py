"""Carry a layout for Ray out: the weights of an adapter first, its configuration last, and nothing is ever overwritten."""

from __future__ import annotations

from adreg.errors import RemoteError
from adreg.export.ray.layout import MARKER
from adreg.export.ray.plan import Placed, RayPlan, check_owner, check_same
from adreg.progress import SILENT, Progress, Task
from adreg.registry.remotes.objects.marker import create_once
from adreg.registry.remotes.objects.store import ObjectStore
from adreg.registry.store.blobs import BlobStore


def send_layout(store: ObjectStore, blobs: BlobStore, plan: RayPlan, progress: Progress = SILENT) -> None:
    """Send what `plan` lacks. Cut off anywhere, a new plan holds what is left.

    Raises `ConflictError` where something else appeared meanwhile, `IntegrityError` when a blob here is damaged, and
    `RemoteError`.
    """
    if not plan.new:
        return
    create_once(store, MARKER, plan.owner.dump())
    check_owner(store, plan.owner)
    with progress.task(f"send {len(plan.new)} adapters", plan.size, "B") as task:
        for adapter in plan.new:
            _send(store, blobs, adapter, task)


def _send(store: ObjectStore, blobs: BlobStore, adapter: Placed, task: Task) -> None:
    for name, size in adapter.missing.items():
        key, digest = f"{adapter.folder}/{name}", adapter.version.files[name]
        blobs.check(digest)
        if not store.upload(key, blobs.path(digest)):
            check_same(store, key, digest, size)  # another export was faster, or the answer to a first try got lost
        elif store.size(key) != size:
            raise RemoteError(store.url, f"did not keep all {size} bytes of {key}", "remove that object, then try again")
        task.advance(size)
