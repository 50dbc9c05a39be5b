"""A training as it runs, for whoever watches: one line that moves in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from adreg.cli.output import Output, print_message, size, stderr_console
from adreg.cli.progress import progress
from adreg.cli.runtext import duration, number_of
from adreg.cli.sparks import sparkline
from adreg.cli.terminal import styled
from adreg.progress import Progress, SilentProgress, SilentTask, Task

TRAINING = "train"
KEEP, SPARK, BAR, FRAMES = 0.9, 16, 16, 6
EVERY, LINES = 30.0, 10
STYLING = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Pulse:
    """How the training goes: the steps done, the loss, without its jumps, the speed, the memory, the last held-out loss."""

    steps: int = 0
    loss: float | None = None
    weight: float = 0.0
    speed: float | None = None
    memory: float | None = None
    held_out: float | None = None
    course: list[float] = field(default_factory=list)

    def took(self, step: Sequence[Any]) -> None:
        """A step is done."""
        loss, speed = number_of(step[1]), number_of(step[3]) if len(step) > 3 else None
        self.steps = int(step[0])
        if loss is not None:
            self.weight = KEEP * self.weight + (1 - KEEP)
            share = (1 - KEEP) / self.weight
            self.loss = loss if self.loss is None else self.loss + share * (loss - self.loss)
            self.course.append(self.loss)
        if speed is not None:
            self.speed = speed if self.speed is None else KEEP * self.speed + (1 - KEEP) * speed
        self.memory = number_of(step[5]) if len(step) > 5 else None

    def told(self) -> str:
        """The figures in a line."""
        parts = [] if self.loss is None else [f"loss {self.loss:.3f}"]
        parts += [f"held-out {self.held_out:.3f}"] if self.held_out is not None else []
        parts += [f"{self.speed:,.0f} tok/s"] if self.speed is not None else []
        return "  ".join([*parts, *([size(self.memory)] if self.memory else [])])


class TrainView:
    """A recorder that hands on what it is told, and the progress that draws it."""

    def __init__(self, recorder: Any, out: Output) -> None:
        self.recorder, self.out, self.pulse = recorder, out, Pulse()
        self._others: Progress = progress(out.human)

    def began(self, record: dict[str, Any]) -> None:
        self.recorder.began(record)

    def step(self, step: Sequence[Any]) -> None:
        self.recorder.step(step)
        self.pulse.took(step)

    def evaluated(self, evaluation: Sequence[Any]) -> None:
        self.recorder.evaluated(evaluation)
        self.pulse.held_out = number_of(evaluation[1])

    def ended(self, record: dict[str, Any]) -> None:
        self.recorder.ended(record)
        if self.out.human:
            for warning in record.get("warnings") or []:
                self.out.note(str(warning), "yellow")

    def task(self, title: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """The training itself is drawn here, other work as everywhere."""
        if title != TRAINING or not self.out.human:
            return (self._others if self.out.human else SilentProgress()).task(title, total, unit)
        return (_moving if sys.stderr.isatty() else _plain)(self.pulse, int(total or 0))


@contextmanager
def _moving(pulse: Pulse, total: int) -> Iterator[Task]:
    """One line, drawn again a few times a second."""
    from rich.live import Live
    from rich.text import Text

    console, began = stderr_console(), Clock(pulse, total)

    def line() -> Text:
        return Text.from_ansi(moving_line(pulse, total, began.left(), console.width, console.color_system is not None))

    with Live(get_renderable=line, console=console, refresh_per_second=FRAMES, transient=True):
        yield SilentTask()


def moving_line(pulse: Pulse, total: int, left: str, room: int, colour: bool) -> str:
    """Step, loss and as much else as there is room for, the most useful first."""
    parts = {
        "bar": _bar(pulse.steps, total, colour),
        "step": f"step {pulse.steps}/{total}",
        "loss": "" if pulse.loss is None else f"loss {pulse.loss:.3f}",
        "spark": styled(sparkline(pulse.course, SPARK), "cyan", colour) if len(pulse.course) > 1 else "",
        "held": "" if pulse.held_out is None else f"held-out {pulse.held_out:.3f}",
        "speed": "" if pulse.speed is None else f"{pulse.speed:,.0f} tok/s",
        "memory": size(pulse.memory) if pulse.memory else "",
        "left": left,
    }
    chosen: set[str] = set()
    for name in ("step", "loss", "left", "speed", "spark", "bar", "held", "memory"):
        tried = [parts[one] for one in parts if one in chosen | {name} and parts[one]]
        if sum(map(_columns, tried)) + 2 * (len(tried) - 1) <= room - 1:
            chosen.add(name)
    return "  ".join(parts[one] for one in parts if one in chosen and parts[one])


def _bar(done: int, total: int, colour: bool) -> str:
    filled = round(BAR * done / max(total, 1))
    return styled("━" * filled, "green", colour) + styled(
        "━" * (BAR - filled) if colour else "─" * (BAR - filled), "dim", colour
    )


def _columns(text: str) -> int:
    return len(STYLING.sub("", text))


@dataclass
class Clock:
    """How long the rest takes, at the pace since the first step that was seen."""

    pulse: Pulse
    total: int
    first: tuple[int, float] | None = None

    def left(self) -> str:
        now, steps = time.monotonic(), self.pulse.steps
        if self.first is None and steps:
            self.first = steps, now
        done = steps - self.first[0] if self.first else 0
        if self.first is None or not done:
            return ""
        return f"{duration((now - self.first[1]) / done * (self.total - steps))} left"


@contextmanager
def _plain(pulse: Pulse, total: int) -> Iterator[Task]:
    """A line at the first step, then one every so many steps or seconds."""
    clock, last, told = Clock(pulse, total), time.monotonic(), -1

    class Lines:
        def advance(self, amount: float = 1, note: str = "") -> None:
            nonlocal last, told
            steps, now, left = pulse.steps, time.monotonic(), clock.left()
            due = steps - told >= max(1, total // LINES) or now - last >= EVERY or steps == total
            if steps and steps != told and due:
                last, told = now, steps
                print_message(f"step {steps}/{total}  {pulse.told()}  {left if steps < total else ''}".rstrip())

    yield Lines()
