"""What upstreams do wrong, and what a client hears of it: another upstream's answer, or an error that names it."""

from __future__ import annotations

import socket
import time
from itertools import count

import httpx2
import pytest

from tests.serve.gateway.scripted import (
    Script,
    Scripted,
    answer,
    gate,
    never,
    said,
    sends,
)

WELL = sends(answer(said("well")))
BREAKS = sends(stays=False)
UNAVAILABLE = sends(answer(b"{}", status=b"503 Service Unavailable"))


def endless_headers(client: socket.socket) -> bool:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in count():
        client.sendall(b"x-%d: %s\r\n" % (number, b"x" * 1000))
    return False


NONSENSE: dict[str, Script] = {
    "garbage": sends(b"SSH-2.0-OpenSSH_9.7\r\n\r\n", stays=False),
    "two lengths": sends(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
    "a negative length": sends(b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}"),
    "no length": sends(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + said("?"), stays=False),
    "wrong chunks": sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
    "another coding": sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "endless headers": endless_headers,
    "endless interim answers": sends(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100),
    "another protocol": sends(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    "a redirect": sends(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:9/x\r\ncontent-length: 0\r\n\r\n"),
    "a status that is none": sends(answer(b"{}", status=b"799 Nothing")),
    "our key refused": sends(answer(b"{}", status=b"401 Unauthorized")),
}


@pytest.mark.parametrize("script", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_a_502_that_is_asked_nobody_else(script: Script) -> None:
    bad, other = Scripted(script), Scripted(script)
    with gate(bad, other) as found:
        assert found.error(502) == "upstream_nonsense"
        assert len(bad.asked) + len(other.asked) == 1


def test_a_silent_upstream_is_a_504_and_its_work_is_ended() -> None:
    silent = Scripted(never)
    with gate(silent, silent_seconds=0.3) as found:
        assert found.error(504) == "upstream_silent"
        assert silent.gone.wait(5)


def test_one_that_takes_no_connection_is_left_out_until_it_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with gate(f"http://127.0.0.1:{port}", well := Scripted(WELL)) as found:
        answers = [found.ask() for _ in range(6)]
        assert {one.status_code for one in answers} == {200}
        assert len(well.asked) == 6
        gone, _ = found.fleet.upstreams
        assert not gone.healthy and "takes no connection" in gone.why
    with gate(f"http://127.0.0.1:{port}") as found:
        assert found.error(503) == "no_upstream"
        refused = found.http.get("/ready")
        assert (refused.status_code, refused.json()) == (503, {"status": "no upstream"})
        assert found.http.get("/health").status_code == 200


@pytest.mark.parametrize("script", [BREAKS, UNAVAILABLE, sends(b"HTTP/1.1 200 OK\r\ncontent-le", stays=False)])
def test_another_upstream_answers_where_one_fails_before_its_first_byte(script: Script) -> None:
    bad = Scripted(script)
    with gate(bad, Scripted(WELL)) as found:
        assert {found.ask().json()["choices"][0]["text"] for _ in range(4)} == {"well"}
        assert bad.asked


def test_a_request_that_breaks_engines_reaches_two_of_them() -> None:
    upstreams = [Scripted(BREAKS) for _ in range(4)]
    with gate(*upstreams) as found:
        assert found.error(502) == "upstream_broken"
        assert sum(len(one.asked) for one in upstreams) == 2


def test_where_all_are_unavailable_each_is_asked_once_and_the_client_is_told_to_come_back() -> None:
    upstreams = [Scripted(UNAVAILABLE) for _ in range(3)]
    with gate(*upstreams) as found:
        refused = found.ask()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert [len(one.asked) for one in upstreams] == [1, 1, 1]


def test_an_idle_connection_that_was_closed_costs_no_request() -> None:
    def once(client: socket.socket) -> bool:
        client.sendall(answer(said("well")))
        time.sleep(0.1)
        return False  # without having said so

    with gate(Scripted(once)) as found:
        for _ in range(4):
            assert found.ask().status_code == 200
            time.sleep(0.08)


def test_an_answer_that_ends_before_its_length_ends_so_for_the_client() -> None:
    with gate(Scripted(sends(answer(said("well")[:30], length=500), stays=False))) as found:
        with pytest.raises(httpx2.RemoteProtocolError):
            found.ask()
        assert found.http.get("/health").status_code == 200


def test_bytes_behind_an_answer_are_not_the_next_one() -> None:
    with gate(Scripted(sends(answer(said("well")) + answer(said("forged"))))) as found:
        for _ in range(3):
            assert found.ask().json()["choices"][0]["text"] == "well"
