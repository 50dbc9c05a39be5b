"""The processes of one machine: started, watched and ended together. Knows pids and signals, nothing of training.

accelerate's launcher hands its processes to torchrun's agent, which gives a step 30 seconds to end, ends with 1 whatever its
processes ended with, and leaves them behind when it is killed; so they are started here, with the same environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adreg.train.launch.member import ALIVE, FOLLOWS, PROFILE
from adreg.train.launch.profile import Profile

NOTICED, GRACE, FOLLOWED, TICK, FOREVER = 5.0, 15.0, 60.0, 0.05, float("inf")  # seconds
TOLD = 20_000  # bytes of what a process said last


@dataclass(frozen=True)
class Ending:
    """How the processes ended: `code` is for the command. `rank` is the process that failed first, None where none did or
    where it has told itself; `killed` the signal that it died of, if it did; `told` what it said last."""

    code: int
    rank: int | None = None
    killed: int | None = None
    told: str = ""


@dataclass
class Member:
    """A started process, `rank` among those of all machines; `said` holds its standard error where that is not shown."""

    rank: int
    process: subprocess.Popen[bytes]
    said: Path | None

    @property
    def code(self) -> int | None:
        """None while it lives, negative for the signal that killed it."""
        return self.process.poll()

    def ending(self) -> Ending:
        """How it ended, for whoever is told that it failed."""
        code = int(self.code or 0)
        told = self.said.read_bytes()[-TOLD:].decode(errors="replace").strip() if self.said else ""
        if code < 0:
            return Ending(1, self.rank, -code, told)
        return Ending(code, self.rank if self.said else None, None, told)


@dataclass
class Crew:
    """The processes of this machine. The first is the leader: its output is shown, and its end is that of all.

    `noted` are the signals that came in, and the first `passed` of them have been passed on. Once one has failed, the rest
    may notice and tell by themselves; they are asked to end at `asking`, and made to at `deadline`.
    """

    command: Sequence[str]
    profile: Profile
    scratch: Path
    input: Path | None
    port: int
    alive: int
    members: list[Member] = field(default_factory=list)
    noted: list[int] = field(default_factory=list)
    passed: int = 0
    failed: Member | None = None
    asking: float = FOREVER
    deadline: float = FOREVER

    def start(self, more: dict[str, str], ready: int | None = None) -> None:
        """One more process, with `more` in its environment; `ready` is where the leader tells that the others may come."""
        local = len(self.members)
        rank = self.profile.machine * self.profile.processes + local
        own = environment(self.profile, local, rank, self.port) | {ALIVE: str(self.alive)} | more
        said = self.scratch / f"{rank}.txt" if local else None
        with ExitStack() as files:
            places: dict[str, Any] = {"stdin": files.enter_context((self.input or Path(os.devnull)).open("rb"))}
            if said:
                places |= {"stdout": subprocess.DEVNULL, "stderr": files.enter_context(said.open("wb"))}
            handles = [self.alive] if ready is None else [self.alive, ready]
            process = subprocess.Popen(self.command, env=os.environ | own, pass_fds=handles, start_new_session=True, **places)
        self.members.append(Member(rank, process, said))

    def tend(self) -> bool:
        """Pass on signals, notice ends, end who outstays; whether a process lives."""
        while self.passed < len(self.noted):
            self.passed += 1
            self._send(self.noted[self.passed - 1] if self.passed < 3 else signal.SIGKILL)
            self._end_within(GRACE if self.passed > 1 else FOREVER)
        living = [member for member in self.members if member.code is None]
        failed = [member for member in self.members if self._has_failed(member)]
        if self.failed is None and failed:
            self.failed = min(failed, key=lambda member: (int(member.code or 0) > 0, member.rank))
            self.asking = time.monotonic() + NOTICED
            self._end_within(NOTICED + GRACE)
        if time.monotonic() > self.asking:
            self._send(signal.SIGTERM)
            self.asking = FOREVER
        self._end_within(self._patience(len(living)))
        if living and time.monotonic() > self.deadline:
            self._send(signal.SIGKILL)
        return bool(living)

    def ending(self) -> Ending:
        """How they ended, once none lives."""
        code = int(self.members[0].code or 0)
        if self.failed or (code < 0 and not self.noted):
            return (self.failed or self.members[0]).ending()
        return Ending(code if code >= 0 else 128 - code)

    def _has_failed(self, member: Member) -> bool:
        """Whether it ended otherwise than well, as it was asked to, or as the leader tells for all."""
        fine = {None, 0, *(-number for number in self.noted), *(128 + number for number in self.noted)}
        forced = {-signal.SIGKILL} if self.passed > 2 or time.monotonic() > self.deadline else set()
        return member.code not in fine | forced | ({FOLLOWS} if member.said else set())

    def _patience(self, living: int) -> float:
        """How long the rest may live: those that end early without a fault leave a leader that writes and tells."""
        if self.noted:
            return GRACE if living < len(self.members) else FOREVER
        over = self.members[0].code is not None or any(member.code == FOLLOWS for member in self.members)
        return FOLLOWED if over else FOREVER

    def _send(self, number: int) -> None:
        for member in self.members:
            if member.code is None:
                member.process.send_signal(number)

    def _end_within(self, seconds: float) -> None:
        self.deadline = min(self.deadline, time.monotonic() + seconds)


def environment(profile: Profile, local: int, rank: int, port: int) -> dict[str, str]:
    """What a process is told of its place: torch.distributed's variables, and where the profile is."""
    threads = max(1, (os.cpu_count() or 1) // profile.processes)
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(profile.total),
        "LOCAL_WORLD_SIZE": str(profile.processes),
        "MASTER_ADDR": profile.host,
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        PROFILE: str(profile.file),
        **({f"ACCELERATE_USE_{profile.kind}": "true"} if profile.kind in ("FSDP", "DEEPSPEED") else {}),
        **({"CUDA_VISIBLE_DEVICES": ""} if profile.cpu else {}),
    }
