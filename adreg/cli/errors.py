"""The one place where errors become a sentence, a hint and an exit code."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from typing import NoReturn

from adreg.cli.output import print_message
from adreg.cli.terminal import clean, coloured, styled
from adreg.errors import (
    AdregError,
    AuditRefused,
    ConflictError,
    DataError,
    Diverged,
    EngineFailed,
    FormatError,
    IntegrityError,
    Interrupted,
    MissingExtra,
    NotFoundError,
    ProcessLost,
    RemoteError,
    StorageError,
    UnsupportedError,
    UsageError,
    VerificationFailed,
    YankedError,
)
from adreg.settings import Settings

EXIT_CODES: tuple[tuple[type[AdregError], int], ...] = (
    (UsageError, 2),
    (NotFoundError, 3),
    (ConflictError, 4),
    (DataError, 1),
    (FormatError, 5),
    (IntegrityError, 5),
    (VerificationFailed, 5),
    (RemoteError, 6),
)
INTERRUPTED, TERMINATED = 130, 143


def exit_code(error: AdregError) -> int:
    """0 ok, 1 failed, 2 usage, 3 not found, 4 conflict or incompatible, 5 integrity or finding, 6 remote, 130/143 stopped."""
    if isinstance(error, Interrupted):
        return 128 + error.signal
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def hint(error: AdregError) -> str:
    """What to do about `error`, in the user's own names; empty where nobody knows."""
    match error:
        case NotFoundError(kind="adapter folder" | "base folder"):
            return "give the path of a folder that exists"
        case NotFoundError(kind="GGUF file"):
            return "adreg merge REF --to gguf -o FOLDER makes one"
        case NotFoundError(kind="training file", close=()):
            return "a path is taken from where adreg was started; - is standard input"
        case YankedError():
            name = error.name.partition(":")[0]
            return f"{name}@{error.digest[:19]} still gets it; adreg ls {name} shows the others"
        case NotFoundError() if error.close:
            return f"did you mean {' or '.join(error.close)}?"
        case NotFoundError(kind="base"):
            return "adreg base ls shows the bases; adreg base add FOLDER records one"
        case NotFoundError(kind="adapter"):
            return "adreg ls shows what there is"
        case AuditRefused() | ConflictError() | DataError() | RemoteError() | UsageError():
            return getattr(error, "hint", "")
        case UnsupportedError():
            return error.instead
        case Interrupted(step=int(), run_id=run, options=options) | ProcessLost(step=int(), run_id=run, options=options):
            return f"adreg train --resume {run}{options} goes on from there"
        case Diverged(rows=()):
            return "no row does so alone: lower train.lr, or warm up longer"
        case Diverged():
            return "look at these rows; if they are sound, lower train.lr"
        case EngineFailed():
            return f"all that it said is in {error.log}"
        case MissingExtra():
            return f"pip install 'adreg[{error.extra}]'"
        case VerificationFailed():
            return "a finer type may pass, such as --quant f16; --no-verify writes it unproven"
        case FormatError(rule="S-PKL-1"):
            return "save it as safetensors where it was made: model.save_pretrained(folder)"
        case FormatError(rule="B-IDX-3"):
            return "download or copy the missing file into the folder"
        case FormatError() if error.rule.startswith("F-"):
            return "the file is damaged or incomplete; fetch or save it again"
        case StorageError():
            return f"free some space under {error.path}, or point ADREG_HOME elsewhere"
        case _:
            return ""


def say(error: AdregError) -> None:
    """Print `error` for people, on stderr."""
    colour = coloured(sys.stderr)
    if isinstance(error, EngineFailed):
        for line in error.said:
            print_message(f"  | {clean(line)}")
    print_message(f"{styled('Error:', 'bold red', colour)} {clean(str(error))}")
    if isinstance(error, AuditRefused):
        for finding in error.findings[1:6]:
            print_message(f"       {finding.rule} {clean(finding.message)}")
        if len(error.findings) > 6:
            print_message(f"       and {len(error.findings) - 6} more findings")
    advice = hint(error)
    if advice:
        print_message(f"{styled('Hint:', 'bold', colour)} {clean(advice)}")


def guarded(command: Callable[[], None]) -> None:
    """Run `command`; turn what it raises into words and an exit code. `ADREG_DEBUG=1` shows the traceback."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except AdregError as error:
        if os.environ.get("ADREG_DEBUG"):
            raise
        say(error)
        sys.exit(exit_code(error))
    except sqlite3.DatabaseError as error:
        if os.environ.get("ADREG_DEBUG"):
            raise
        found = of_the_database(error)
        say(found)
        sys.exit(exit_code(found))


def _stop(_number: int, _frame: object) -> NoReturn:
    """What is under way is undone on the way out, as it is when it is interrupted."""
    sys.exit(TERMINATED)


def of_the_database(error: sqlite3.DatabaseError) -> AdregError:
    """What SQLite said while the registry was read, as one of adreg's errors."""
    from adreg.registry.store.database import sqlite_errors

    database = Settings.from_environment().database
    try:
        with sqlite_errors(database):
            raise error
    except AdregError as found:
        return found
    except sqlite3.DatabaseError:
        return IntegrityError(f"{database} cannot be read: {error}; adreg fsck says more")
