"""What the pool knows of one adapter: where it is, who runs on it, who waits for it. Plain data; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from adreg.serve.executor import Prepared


class State(StrEnum):
    """Where an adapter is: known only by its digest; being read and checked; in memory; in a slot; refused."""

    REGISTERED = "registered"
    LOADING = "loading"
    HOST = "host"
    RESIDENT = "resident"
    FAILED = "failed"


@dataclass
class Entry:
    """`references` are running sequences, `waiting` those that are not admitted yet, the first of them since `since`.

    `used` is when a sequence last began or ended on it, `attached` when it came into its slot, `failed` when it was
    refused. A `draining` one takes no new sequences: it gives its slot to another as soon as its last one ends.
    """

    digest: str
    state: State = State.REGISTERED
    prepared: Prepared | None = None
    slot: int | None = None
    error: Exception | None = None
    references: int = 0
    waiting: int = 0
    since: float = 0.0
    used: float = 0.0
    attached: float = 0.0
    failed: float = 0.0
    pinned: bool = False
    draining: bool = False

    @property
    def wanted(self) -> bool:
        """Whether somebody would use it now."""
        return self.waiting > 0 or self.pinned

    @property
    def idle(self) -> bool:
        """Whether nobody would miss it now."""
        return self.references == 0 and not self.wanted

    def fail(self, error: Exception, now: float) -> None:
        """Keep why it cannot be used, and nothing else."""
        self.state, self.prepared, self.error, self.failed = State.FAILED, None, error, now

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        return self.prepared.nbytes if self.prepared else 0
