"""The application on a port, for ever or for the length of a `with` block. Knows uvicorn and sockets, not requests."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from adreg.errors import AdregError, ConflictError, UsageError
from adreg.serve.server.exposure import check_exposure

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from adreg.serve.server.connections import ClientLimits, Server

GRACE_SECONDS = 10
BACKLOG = 2048


def serve_forever(
    app: Starlette,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] = lambda url: None,
    grace: int = GRACE_SECONDS,
    announced: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Serve `app` until SIGINT or SIGTERM, then give running requests `grace` seconds; a second signal gives them none.

    Port 0 is any free one. `ready` gets the base URL once connections are accepted, and `announced` wraps the time in which
    they are. With the first signal `app.state.draining` becomes true. After a clean stop the signal takes its usual effect
    (`KeyboardInterrupt` for SIGINT). Raises `UsageError` for an exposed host without an API key, `ConflictError` for a port
    that is taken.
    """
    check_exposure(host, app.state.has_key)
    listener = listen(host, port)
    url = _url(listener)
    with announced(url):
        ready(url)
        _server(app, grace).run([listener])


@contextmanager
def running_server(
    app: Starlette, host: str = "127.0.0.1", grace: int = 1, limits: ClientLimits | None = None
) -> Iterator[str]:
    """Serve `app` on a free port from another thread; yields the base URL, such as `http://127.0.0.1:41234`."""
    check_exposure(host, app.state.has_key)
    listener = listen(host, 0)
    url = _url(listener)
    server = _server(app, grace, limits)
    thread = threading.Thread(target=server.run, args=([listener],), name="adreg-http", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise AdregError("the server did not start")
            time.sleep(0.01)
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections on `host` and `port`. Raises `ConflictError` or `UsageError`."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        # connections inherit it; asyncio itself sets it only on sockets that were made with the protocol's number
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except socket.gaierror as error:
        raise UsageError(f"{host!r} is no address of this machine") from error
    except OSError as error:
        why = f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        raise ConflictError(why, "choose another port; 0 takes a free one") from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(app: Starlette, grace: int, limits: ClientLimits | None = None) -> Server:
    import uvicorn

    from adreg.serve.server.connections import ClientLimits, Connection, Server

    limits = limits or ClientLimits()
    config = uvicorn.Config(
        app, loop="asyncio", http=partial(Connection, limits),  # type: ignore[arg-type]
        ws="none", lifespan="on", log_config=None, access_log=False, proxy_headers=False, server_header=False,
        backlog=BACKLOG, timeout_keep_alive=limits.idle, timeout_graceful_shutdown=grace,
    )  # fmt: skip
    app.state.draining = False
    return Server(config, partial(setattr, app.state, "draining", True))
