"""How many processes train, on which machines, and what is spread over them: a configuration of accelerate's, checked.

Knows no torch: accelerate's own loader reads the file again in every process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from adreg.errors import UnsupportedError, UsageError

NAMES = ("ddp", "fsdp2", "zero2", "zero3")
KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP", "DEEPSPEED")
BY_HAND = "start it with accelerate launch -m adreg train"


@dataclass(frozen=True)
class Profile:
    """`processes` run on this machine, which is number `machine` of `machines`; process 0 of all is found at `host`:`port`.

    `file` is accelerate's configuration. `port` None: any that is free. `cpu`: GPUs are left alone.
    """

    file: Path
    kind: str
    processes: int
    machines: int = 1
    machine: int = 0
    host: str = "127.0.0.1"
    port: int | None = None
    cpu: bool = False

    @property
    def total(self) -> int:
        """The processes on all machines."""
        return self.processes * self.machines


def read_profile(named: str | None, devices: int | None) -> Profile:
    """The profile called `named` (None: ddp), or that file of accelerate's, with `devices` processes on this machine.

    Raises `UsageError` or `UnsupportedError` for what cannot be meant, or cannot be done here.
    """
    file = profile_file(named or "ddp")
    values = _read(file)
    _refuse_unknown(values, file)
    machines = _count(values, "num_machines", 1, file)
    processes = devices or _processes(values, machines, file)
    place = _place(values, machines, file) if machines > 1 else {}
    profile = Profile(file, _kind(values), processes, machines, cpu=bool(values.get("use_cpu")), **place)
    if profile.kind == "NO" and profile.total > 1:
        raise UsageError(f"{file}: distributed_type is NO, and there are {profile.total} processes", "take MULTI_GPU")
    return profile


def profile_file(named: str) -> Path:
    """Where the profile called `named` lies, or the file of that name. Raises `UsageError`."""
    if named in NAMES:
        return Path(str(resources.files("adreg.train.loop") / "profiles" / f"{named}.yaml"))
    path = Path(named).expanduser()
    if not path.is_file():
        raise UsageError(f"--accelerate {named}: no profile and no file", f"the profiles are {', '.join(NAMES)}")
    return path.absolute()


def _read(file: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: {error}", "accelerate config writes such a file") from None
    if not isinstance(values, dict) or "distributed_type" not in values:
        raise UsageError(f"{file} is no file of accelerate's: it has no distributed_type", "accelerate config writes one")
    return values


def _kind(values: Mapping[str, Any]) -> str:
    said = values["distributed_type"]
    return "NO" if said is False else str(said)  # YAML reads a bare NO as false


def _refuse_unknown(values: Mapping[str, Any], file: Path) -> None:
    """Raise for what accelerate would do otherwise than adreg trains."""
    kind = _kind(values)
    if kind not in KINDS:
        raise UnsupportedError(f"{file}: distributed_type {kind}", f"adreg trains with {', '.join(KINDS[1:])}")
    if values.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
        raise UnsupportedError(f"{file}: compute_environment {values['compute_environment']}", "take LOCAL_MACHINE")
    if str(values.get("mixed_precision") or "no").lower() not in ("no", "false"):
        raise UsageError(f"{file}: mixed_precision is {values['mixed_precision']}", "leave it out: train.precision says it")
    inner = {"FSDP": "fsdp_config", "DEEPSPEED": "deepspeed_config"}.get(kind)
    settings = values.get(inner) or {} if inner else {}
    if kind == "FSDP" and str(settings.get("fsdp_version", 1)) != "2":
        raise UnsupportedError(f"{file}: FSDP of version {settings.get('fsdp_version', 1)}", "set fsdp_version to 2")
    if str(settings.get("gradient_accumulation_steps", 1)) != "1":
        raise UsageError(f"{file}: gradient_accumulation_steps is not 1", "train.batch says how many rows a step takes")
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise UsageError(f"{file.stem} needs deepspeed, which is not installed", "pip install deepspeed, or take ddp or fsdp2")


def _processes(values: Mapping[str, Any], machines: int, file: Path) -> int:
    """What the file says for each machine; accelerate counts those of all."""
    if values.get("num_processes") is None:
        raise UsageError(f"{file.stem} does not say how many processes", "--devices 2")
    total = _count(values, "num_processes", 1, file)
    if total % machines:
        raise UsageError(f"{file}: {total} processes are not shared evenly by {machines} machines")
    return total // machines


def _place(values: Mapping[str, Any], machines: int, file: Path) -> dict[str, Any]:
    """This machine among several, and where process 0 is."""
    if str(values.get("rdzv_backend", "static")) != "static":
        raise UnsupportedError(f"{file}: rdzv_backend {values['rdzv_backend']}", BY_HAND)
    if values.get("deepspeed_config", {}).get("deepspeed_multinode_launcher", "standard") != "standard":
        raise UnsupportedError(f"{file}: a launcher of DeepSpeed's own", BY_HAND)
    for name in ("machine_rank", "main_process_ip", "main_process_port"):
        if values.get(name) is None:
            raise UsageError(f"{file}: {machines} machines need {name}")
    machine = _count(values, "machine_rank", 0, file)
    if machine >= machines:
        raise UsageError(f"{file}: machine_rank is {machine}, and there are {machines} machines, counted from 0")
    return {"machine": machine, "host": str(values["main_process_ip"]), "port": _count(values, "main_process_port", 1, file)}


def _count(values: Mapping[str, Any], name: str, least: int, file: Path) -> int:
    found = values.get(name)
    found = least if found is None else found
    if not str(found).isdecimal() or int(found) < least:
        raise UsageError(f"{file}: {name} is {found!r}, which is no number of {least} or more")
    return int(found)
