"""Every error that adreg raises on purpose. They carry data; `cli/` and `serve/api` turn them into words.

AdregError
├── FormatError            a file is not what its format says
│   ├── PickleRefused      a pickle where safetensors belong; never opened
│   └── DataError          a row of a training file, with its line
├── UnsupportedError       understood, but not something adreg does (a feature, an architecture)
├── UsageError             an argument or configuration value that cannot be meant
│   ├── BadReference       text that is no reference
│   └── ContextTooLong     a prompt and its answer that do not fit into the model's context
├── NotFoundError          a name nobody has, with its near misses
│   └── YankedError        a version that was taken back: only its digest still finds it
├── ConflictError          the registry's state stands against it
│   └── AuditRefused       findings that forbid the operation
├── IntegrityError         stored bytes are not what was recorded
├── StorageError           the disk refused (full, read-only)
├── VerificationFailed     an artifact disagrees with the adapter on its base
├── BusyError              the engine takes no more work now
├── DeadlineError          a request's time was over before its answer was
├── Interrupted            a training was told to stop and kept its state
├── Diverged               a training's loss or gradient is no number
├── ProcessLost            one of the processes that train together is gone
├── EngineFailed           a foreign engine that adreg runs did not start, or ended by itself
├── RemoteError            another machine did not answer, refused, or answered nonsense
└── MissingExtra           an optional dependency is not installed
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adreg.audit.findings import Finding


class AdregError(Exception):
    """The root: `str()` of it is one plain sentence."""


class FormatError(AdregError):
    """`path` breaks its format. `rule` is the audit rule that forbids it (such as F-HDR-1)."""

    def __init__(self, path: Path | str, why: str, rule: str) -> None:
        self.path, self.why, self.rule = Path(path), why, rule
        super().__init__(f"{path}: {why}")


class PickleRefused(FormatError):
    """`path` is a pickle (or would have to be unpickled): loading it could run code."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, "is a pickle; loading it could run code, so adreg never opens it", "S-PKL-1")


class DataError(FormatError):
    """Row `line` (from 1) of a training file cannot be used; `hint` says what would mend it."""

    def __init__(self, path: Path | str, line: int, why: str, hint: str = "") -> None:
        self.line, self.hint = line, hint
        super().__init__(f"{path}:{line}", why, "DATA")


class UnsupportedError(AdregError):
    """`what` is recognised and refused; `instead` says the way out."""

    def __init__(self, what: str, instead: str = "") -> None:
        self.what, self.instead = what, instead
        super().__init__(f"{what} is not supported")


class UsageError(AdregError):
    """An argument or a configuration value that cannot be meant; `hint` names what can."""

    def __init__(self, why: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(why)


class BadReference(UsageError):
    """`text` is no reference."""

    def __init__(self, text: str, why: str) -> None:
        self.text = text
        super().__init__(
            f"{text!r} is not a reference: {why}", "a reference is name, name:3, name:prod or name@sha256:<12+ hex>"
        )


class ContextTooLong(UsageError):
    """`prompt` tokens and `wanted` tokens of answer (None: as many as fit) exceed the `limit` of the context."""

    def __init__(self, limit: int, prompt: int, wanted: int | None) -> None:
        self.limit, self.prompt, self.wanted = limit, prompt, wanted
        answer = f" and an answer of up to {wanted} tokens do not fit" if wanted else " leaves no room for an answer"
        super().__init__(f"the context holds {limit} tokens: a prompt of {prompt}{answer}")


class NotFoundError(AdregError):
    """No `kind` is called `name`; `close` are the nearest names there are."""

    def __init__(self, kind: str, name: str, close: Sequence[str] = ()) -> None:
        self.kind, self.name, self.close = kind, name, tuple(close)
        super().__init__(f"no {kind} {name!r}")


class YankedError(NotFoundError):
    """The version that `name` means was taken back because of `reason`; `digest` still finds it."""

    def __init__(self, name: str, digest: str, reason: str) -> None:
        super().__init__("version", name)
        self.digest, self.reason = digest, reason
        self.args = (f"{name} was yanked" + (f": {reason}" if reason else ""),)


class ConflictError(AdregError):
    """The registry's state stands against the change; `hint` says what would work."""

    def __init__(self, why: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(why)


class AuditRefused(ConflictError):
    """`findings` forbid `operation` on `subject`."""

    def __init__(self, operation: str, subject: str, findings: Sequence[Finding]) -> None:
        self.operation, self.subject, self.findings = operation, subject, tuple(findings)
        first = self.findings[0]
        super().__init__(f"cannot {operation} {subject}: {first.rule} {first.message}", first.fix)


class IntegrityError(AdregError):
    """Stored bytes do not have the digest they were recorded with."""


class StorageError(AdregError):
    """The operating system refused to store `path`; nothing was changed."""

    def __init__(self, path: Path | str, why: str) -> None:
        self.path, self.why = Path(path), why
        super().__init__(f"cannot write {path}: {why}; nothing was changed")


class VerificationFailed(AdregError):
    """An artifact does not behave as the adapter on its base does."""


class BusyError(AdregError):
    """The engine takes no more work: it is full (ask again in `retry_after` seconds), or it is `stopping`."""

    def __init__(self, why: str, retry_after: int = 1, stopping: bool = False) -> None:
        self.retry_after, self.stopping = retry_after, stopping
        super().__init__(why)


class DeadlineError(AdregError):
    """A request's time was over before its answer was."""


class Interrupted(AdregError):
    """`signal` stopped the training `run_id`; its newest checkpoint is of `step`, None where nothing is kept.

    `options` are those of the command that another one, which goes on, needs too.
    """

    options = ""

    def __init__(self, run_id: str, step: int | None, signal: int) -> None:
        self.run_id, self.step, self.signal = run_id, step, signal
        kept = "nothing of it is kept" if step is None else f"all of it up to step {step} is kept"
        super().__init__(f"the training {run_id} was interrupted; {kept}")


class Diverged(AdregError):
    """After or in step `step` a loss, or the `norm` of its gradient, is no number; `norm` is None for the held-out loss.

    `rows` are those, as file:line, that give no number by themselves.
    """

    def __init__(self, step: int, loss: float, norm: float | None, rows: Sequence[str]) -> None:
        self.step, self.loss, self.norm, self.rows = step, loss, norm, tuple(rows)
        what = f"the held-out loss is {loss}" if norm is None else f"the loss is {loss} and its gradient {norm}"
        whose = f", already for {', '.join(rows[:8])} alone" if rows else ""
        whose += f" and for {len(rows) - 8} more" if len(rows) > 8 else ""
        super().__init__(f"training diverged at step {step}: {what}{whose}")


class ProcessLost(AdregError):
    """Another process of the training `run_id` is gone; `step`, `options` as for `Interrupted`."""

    options = ""

    def __init__(self, run_id: str, step: int | None) -> None:
        self.run_id, self.step = run_id, step
        kept = "nothing of it is kept" if step is None else f"all of it up to step {step} is kept"
        super().__init__(f"the training {run_id} has lost one of its processes; {kept}")


class EngineFailed(AdregError):
    """`engine` did not start or is no more: `why`, what it `said` last, and the `log` that holds the rest."""

    def __init__(self, engine: str, why: str, said: Sequence[str], log: Path) -> None:
        self.engine, self.why, self.said, self.log = engine, why, tuple(said), log
        super().__init__(f"{engine} {why}")


class RemoteError(AdregError):
    """`remote` did not do what was asked: `why` in words, `hint` what the user can do about it."""

    def __init__(self, remote: str, why: str, hint: str = "") -> None:
        self.remote, self.why, self.hint = remote, why, hint
        super().__init__(f"{remote}: {why}")


class MissingExtra(AdregError):
    """`package` is needed and comes with the extra `extra`."""

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{package} is not installed")
