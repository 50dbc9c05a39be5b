"""For the tests of remotes: tiny adapters made without torch, a served registry, and a line that breaks."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from adreg.registry.registry import Registry
from adreg.registry.remotes.http.remote import HttpRemote
from adreg.registry.remotes.http.session import Patience
from adreg.registry.server.app import create_app
from adreg.registry.server.limits import Limits
from adreg.serve.server.server import running_server
from adreg.settings import Settings

QUICK = Patience(attempts=4, pause=0.05, connect_seconds=5, silent_seconds=20)


def make_adapter(folder: Path, seed: int = 0, width: int = 16, value: float | None = None) -> Path:
    """A LoRA of rank 4 on one q_proj that is `width` wide; `value` fills B."""
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((4, width)), random.standard_normal((width, 4))
    if value is not None:
        b[:] = value
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    folder.mkdir(parents=True)
    tensors = {name.format("A"): a.astype(np.float32), name.format("B"): b.astype(np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def push(registry: Registry, folder: Path, name: str = "voice", alias: str | None = None):
    from adreg.registry.push import plan_push

    return registry.adapters.push(plan_push(folder), name, alias, None).version


@contextmanager
def served(home: Path, anonymous_read: bool = False, limits: Limits | None = None) -> Iterator[str]:
    """The registry in `home` on a real port; yields its URL."""
    with running_server(create_app(Settings(home), anonymous_read, limits)) as url:
        yield url


def remote(url: str, token: str | None = None) -> HttpRemote:
    return HttpRemote(url, token, QUICK)


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Line:
    """A TCP proxy to `url` that cuts each of the next connections after so many bytes; counts what goes through."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.up = self.down = 0
        self.cut_up: list[int] = []
        self.cut_down: list[int] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for source, target, way in ((client, server, "up"), (server, client, "down")):
                    threading.Thread(target=self._pump, args=(source, target, way), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, way: str) -> None:
        passed = 0
        with suppress(OSError):
            while chunk := source.recv(16384):
                limits = self.cut_up if way == "up" else self.cut_down
                if limits and passed + len(chunk) > limits[0]:
                    limits.pop(0)
                    break
                target.sendall(chunk)
                passed += len(chunk)
                setattr(self, way, getattr(self, way) + len(chunk))
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
