"""Trackers that watch a run: whether they are installed, and that they stay on this machine. Knows names, not trackers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from adreg.errors import UsageError
from adreg.train.loop.world import is_first

PROJECT = "adreg"
PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "swanlab": ("swanlab",),
}
OFFLINE = {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline", "WANDB_PROJECT": PROJECT}


def check_trackers(track: Sequence[str], folder: Path | None) -> None:
    """Raise `UsageError` for a tracker that is not installed, or where there is no `folder` for what they write."""
    for name in track:
        if not any(find_spec(package) for package in PACKAGES[name]):
            raise UsageError(f"track names {name}, which is not installed", f"pip install {PACKAGES[name][0]}, or leave it out")
    if track and folder is None:
        raise UsageError(f"track names {track[0]}, and the run has no folder to write to", "give the request a run_folder")


@contextmanager
def local_trackers(track: Sequence[str], folder: Path | None) -> Iterator[None]:
    """Meanwhile trackers write under `folder` and ask no network, unless the environment says otherwise."""
    own = {"WANDB_DIR": folder, "SWANLAB_LOG_DIR": f"{folder}/swanlab", "TENSORBOARD_LOGGING_DIR": f"{folder}/tensorboard"}
    new = {name: str(value) for name, value in {**OFFLINE, **own}.items() if track and name not in os.environ}
    if track and folder and is_first():
        folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(new)
    try:
        if "swanlab" in track and is_first():
            _begin_swanlab()
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _begin_swanlab() -> None:
    """Begin its run, as transformers would if swanlab 0.10 did not raise when it is asked whether there is one."""
    import swanlab

    swanlab.init(project=PROJECT, mode=os.environ["SWANLAB_MODE"], log_dir=os.environ["SWANLAB_LOG_DIR"])
