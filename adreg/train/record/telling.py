"""A run's record as it grows, told to a recorder from the first second to however it ends. Knows no training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from adreg.errors import AdregError, Diverged, Interrupted
from adreg.train.record.record import RunRecord, now
from adreg.train.record.recorder import Recorder

TOLD_STEP_BY_STEP = ("losses", "evaluations")


class Telling:
    """The record so far; `recorder` hears of every change."""

    def __init__(self, record: RunRecord, recorder: Recorder) -> None:
        self.record, self.recorder = record, recorder
        self._began = time.perf_counter() - record.seconds
        self.know()

    def know(self, **more: Any) -> None:
        """Something more is known."""
        self.record = replace(self.record, **more)
        self.recorder.began(asdict(self.record))

    def warn(self, text: str) -> None:
        """Something went wrong that does not end the run."""
        self.know(warnings=[*self.record.warnings, text])

    def end(self, outcome: str, **more: Any) -> RunRecord:
        """The record of the run that ends now; it is told by `tell_end`."""
        seconds = round(time.perf_counter() - self._began, 2)
        self.record = replace(self.record, outcome=outcome, finished=now(), seconds=seconds, **more)
        return self.record

    def tell_end(self) -> None:
        """The run is over; what was told step by step stays where the record does not have it."""
        told = asdict(self.record)
        left_out = () if self.record.losses else TOLD_STEP_BY_STEP
        self.recorder.ended({name: value for name, value in told.items() if name not in left_out})

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Tells how what is done within ended, also where it ended by an error."""
        try:
            yield
        except (Interrupted, KeyboardInterrupt, SystemExit) as error:
            self.end("interrupted", reason=str(error) if isinstance(error, Interrupted) else None)
            raise
        except Diverged as error:
            self.end("diverged", reason=str(error))
            raise
        except BaseException as error:
            self.end("failed", reason=str(error) if isinstance(error, AdregError) else f"{type(error).__name__}: {error}")
            raise
        finally:
            self.tell_end()
