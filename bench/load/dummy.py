"""An upstream that costs next to nothing: constant answers over HTTP/1.1. `python -m bench.load.dummy BASE DIGEST`

Prints the port it listens on. A body with a stream gets `EVENTS` events, one every `PAUSE` seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys

EVENTS, PAUSE = 32, 0.01
SAID = '{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" %s","logprobs":null,'
USAGE = '"usage":{"prompt_tokens":5,"completion_tokens":32,"total_tokens":37}}'
WHOLE = (SAID % "hello" + '"finish_reason":"stop"}],' + USAGE).encode()
EVENT = f'data: {SAID % "hello"}"finish_reason":null}}]}}\n\n'.encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Dummy(asyncio.Protocol):
    """One connection; knows content-length, not chunked bodies."""

    def __init__(self, models: bytes) -> None:
        self._models, self._come = models, b""
        self._streams: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._come += data
        while (end := self._come.find(b"\r\n\r\n") + 4) > 3:
            head = self._come[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 : head.find(b"\r", at)]) if at >= 0 else 0
            if len(self._come) < end + length:
                return
            body, self._come = self._come[end : end + length], self._come[end + length :]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if b'"stream":true' in body.replace(b" ", b""):
            task = asyncio.get_running_loop().create_task(self._stream())
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
        else:
            self._transport.write(answer(self._models if head.startswith(b"get") else WHOLE))

    async def _stream(self) -> None:
        self._transport.write(HEAD)
        for _ in range(EVENTS):
            self._transport.write(chunk(EVENT))
            await asyncio.sleep(PAUSE)
        self._transport.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def main(base: str, digest: str) -> None:
    listed = {"object": "list", "data": [{"id": base, "object": "model", "parent": None, "root": digest}]}
    models = json.dumps(listed).encode()
    server = await asyncio.get_running_loop().create_server(lambda: Dummy(models), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
