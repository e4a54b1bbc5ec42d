"""How long and how large a request may be, and what the server does with what is no request at all."""

import json
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from certs_app.http_protocol import MAX_HEAD_BYTES
from certs_app.tests.conftest import SMALL_BODY, Connection, Door, Live, serving
from conftest import People

LIMIT = SMALL_BODY
POST = b"POST / HTTP/1.1\r\nhost: localhost\r\n"


# --- time -----------------------------------------------------------------------------------------------------------


def test_half_open_handshakes_stop_nobody_and_are_closed(tough: Live) -> None:
    with ExitStack() as stack:
        half_open = [stack.enter_context(tough.raw()) for _ in range(20)]
        for plain in half_open:
            plain.sendall(b"\x16\x03\x01\x02\x00")
        started = time.monotonic()

        assert tough.get("alice").status == 200
        assert time.monotonic() - started < 0.9, "a good client waited for the half-open ones"
        assert all(_gone(plain) for plain in half_open)
        assert time.monotonic() - started < 3


def test_silent_connections_are_closed(tough: Live) -> None:
    with tough.raw() as plain:
        assert _gone(plain)


def _gone(plain: socket.socket) -> bool:
    plain.settimeout(3)
    try:
        while plain.recv(1000):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


HALVES = [
    b"",
    b"GET / HT",
    b"GET / HTTP/1.1\r\nhost: local",
    POST + b"content-length: 100\r\n\r\nhalf",
    POST + b"transfer-encoding: chunked\r\n\r\n5\r\nha",
]


def test_half_a_request_is_dropped(tough: Live) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(tough.connect()) for _ in HALVES]
        for connection, half in zip(connections, HALVES, strict=True):
            connection.send(half)

        assert [connection.closed(within=2) for connection in connections] == [True] * len(HALVES)


def test_a_trickle_does_not_extend_the_deadline(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(POST + b"content-length: 1000\r\n\r\n")

        assert _dropped_while_sending(connection, b"x")


def test_blank_lines_between_requests_do_not_keep_a_connection(tough: Live) -> None:
    with tough.connect() as connection:
        assert connection.get().status == 200

        assert _dropped_while_sending(connection, b"\r\n")


def test_a_body_sent_after_its_answer_does_not_keep_a_connection(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(b"POST /hasty HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n")
        assert connection.answer().status == 200
        connection.send(b"0123456789")

        assert connection.closed(within=2)


def _dropped_while_sending(connection: Connection, data: bytes) -> bool:
    """Tell whether the server ends the connection although something arrives every now and then."""
    deadline = time.monotonic() + 2
    connection.tls.settimeout(0.1)
    while time.monotonic() < deadline:
        try:
            connection.send(data)
            if connection.tls.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_an_idle_connection_is_kept_for_its_time_and_then_closed(served: People, settings: Any) -> None:
    settings.REQUEST_TIMEOUT, settings.KEEP_ALIVE = 20, 1
    with serving(Door(), served.folder) as live, live.connect() as connection:
        assert connection.get().status == 200
        time.sleep(0.3)
        assert connection.get().status == 200

        assert connection.closed(within=2)


def test_a_client_that_does_not_read_its_answer_is_dropped(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
        time.sleep(1.0)  # longer than REQUEST_TIMEOUT: not reading is the point

        with pytest.raises((ConnectionError, ssl.SSLError)):
            connection.answer()


# --- size -----------------------------------------------------------------------------------------------------------


def test_a_body_at_the_limit_is_taken(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(POST + b"content-length: %d\r\n\r\n" % LIMIT + b"x" * LIMIT)

        assert json.loads(connection.answer().body)["bytes"] == LIMIT


def test_a_longer_body_is_refused_by_its_announcement(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(POST + b"content-length: %d\r\n\r\n" % (LIMIT + 1))
        answer = connection.answer()

        assert (answer.status, answer.code) == (413, "too_large")
        assert answer.headers["connection"] == "close"
        assert connection.closed()
    assert tough.door.reached == []


def test_a_longer_body_is_refused_in_chunks(tough: Live) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with tough.connect() as connection:
        connection.send(POST + b"transfer-encoding: chunked\r\n\r\n" + chunk * 4)
        connection.send(b"1\r\nx\r\n")
        answer = connection.answer()

        assert (answer.status, answer.code) == (413, "too_large")
        assert connection.closed()


def test_curl_sees_why_its_large_body_is_refused(tough: Live, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * 3_000_000)

    for encoding in ("content-length:", "transfer-encoding: chunked"):
        options = [] if encoding.startswith("content") else ["--header", encoding]
        result = tough.curl("alice", "--data-binary", f"@{large}", *options, "--write-out", " %{http_code}")
        assert result.stdout.endswith(" 413"), (encoding, result.stderr)
        assert '"code":"too_large"' in result.stdout


def test_a_large_body_is_refused_before_100_continue(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(POST + b"expect: 100-continue\r\ncontent-length: 99999999\r\n\r\n")

        assert connection.answer().status == 413


def test_100_continue_is_sent_for_a_body_that_is_wanted(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(POST + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert connection.answer().status == 100
        connection.send(b"ab")

        assert json.loads(connection.answer().body)["bytes"] == 2


def test_a_body_refused_after_its_answer_gets_no_second_answer(tough: Live) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with tough.connect() as connection:
        connection.send(b"POST /hasty HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + chunk)
        assert connection.answer().status == 200
        connection.send(chunk * 5)

        assert connection.closed()


def test_many_headers_are_refused(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x-a: bcdefgh\r\n" * 4000 + b"\r\n")
        answer = connection.answer()

        assert (answer.status, answer.code) == (431, "headers_too_large")
    assert tough.door.reached == []


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET / HTTP/1.1\r\nx-long: ", b"GET / HTTP/1.1\r\nx"], ids=["address", "value", "name"]
)
def test_an_endless_line_is_refused_while_it_grows(tough: Live, start: bytes) -> None:
    with tough.connect() as connection:
        connection.send(start)
        # The chunk in which a request begins is not counted, and the kernel may join several.
        with suppress(OSError):
            for _ in range(20):
                connection.send(b"a" * (MAX_HEAD_BYTES // 2))
        answer = connection.answer()

        assert (answer.status, answer.code) == (431, "headers_too_large")


def test_endless_trailers_are_refused(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(POST + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-trailer: ")
        with suppress(OSError):
            for _ in range(20):
                connection.send(b"a" * 16384)
        answer = connection.answer()

        assert (answer.status, answer.code) == (413, "too_large")


def test_connections_above_the_limit_are_told_to_come_back(tough: Live, settings: Any) -> None:
    with tough.connect() as first:
        settings.MAX_CONNECTIONS = 1
        with tough.connect() as second:
            answer = second.get()

            assert (answer.status, answer.code) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            assert second.closed()
        settings.MAX_CONNECTIONS = 10
        assert first.get().status == 200


# --- sense ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03 garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"FROBNICATE / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        POST + b"content-length: many\r\n\r\n",
        POST + b"content-length: -1\r\n\r\n",
        POST + b"content-length: " + b"9" * 400 + b"\r\n\r\n",
        POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        POST + b"content-length: 2\r\ncontent-length: 2\r\n\r\nab",
        POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nZZ\r\n",
        POST + b"bad header: x\r\n\r\n",
        POST + b" folded\r\n\r\n",
    ],
)
def test_what_is_not_http_is_answered_with_a_problem(tough: Live, garbage: bytes) -> None:
    with tough.connect() as connection:
        connection.send(garbage)
        answer = connection.answer()

        assert (answer.status, answer.code) == (400, "malformed_request")
        assert connection.closed()


def test_plain_http_is_dropped_at_the_handshake(tough: Live) -> None:
    with tough.raw() as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert _gone(plain)


def test_pipelined_requests_are_answered_in_their_order(tough: Live) -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % number for number in range(20))
    with tough.connect() as connection:
        connection.send(requests)
        paths = [json.loads(connection.answer().body)["path"] for _ in range(20)]

    assert paths == [f"/{number}" for number in range(20)]


@pytest.mark.parametrize(
    "second",
    [b"garbage\r\n\r\n", POST + b"content-length: 99999999\r\n\r\n", b"\x00", b"x" * 40000],
    ids=["garbage", "large", "nul", "long"],
)
def test_a_refused_second_request_is_never_the_answer_to_the_first(tough: Live, second: bytes) -> None:
    with tough.connect() as connection:
        connection.send(b"GET /first HTTP/1.1\r\nhost: localhost\r\n\r\n" + second)
        try:
            answer = connection.answer()
        except OSError:
            return  # closed without an answer: the client tries again

    assert answer.status == 200
    assert json.loads(answer.body)["path"] == "/first"


def test_an_upgrade_is_not_taken(tough: Live) -> None:
    with tough.connect() as connection:
        answer = connection.get("/", "connection: upgrade", "upgrade: websocket")

    assert answer.status == 200


def test_http_1_0_is_answered_and_closed(tough: Live) -> None:
    with tough.connect() as connection:
        connection.send(b"GET / HTTP/1.0\r\n\r\n")

        assert connection.answer().status == 200
        assert connection.closed()
