"""Handshakes that never end, and refused ones that never leave, keep nobody else waiting."""

import contextlib
import socket
import ssl
import statistics
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests.running import Installation

pytestmark = [pytest.mark.system, pytest.mark.alone]

ATTACKERS = 200
ROUNDS = 5
SUBMISSIONS = 100
CLIENTS = 2
# Below this, a noisy machine's own hiccups decide which of two figures is larger.
FLOOR_SECONDS = 0.05

BODY = b'{"sender_number": "+4915200000000", "message_body": "on a new connection"}'
REQUEST = (
    b"POST /submit HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


def address(installation: Installation) -> tuple[str, int]:
    return "127.0.0.1", urllib.parse.urlsplit(installation.ready["ingest"]).port


@contextmanager
def half_open(installation: Installation) -> Iterator[None]:
    """Hold handshakes that stop after five bytes of a ClientHello."""
    with ExitStack() as stack:
        for _ in range(ATTACKERS):
            stack.enter_context(socket.create_connection(address(installation), 5)).sendall(b"\x16\x03\x01\x02\x00")
        yield


@contextmanager
def refused_but_open(installation: Installation) -> Iterator[None]:
    """Hold sockets whose handshake was refused: they showed no certificate, and do not go away."""
    context = ssl.create_default_context(cafile=installation.ready["ca"])
    with ExitStack() as stack:
        for _ in range(ATTACKERS):
            plain = stack.enter_context(socket.create_connection(address(installation), 5))
            with contextlib.suppress(OSError):
                # TLS 1.3: for the client it is over before the server has missed the certificate.
                tls = context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False)
                stack.enter_context(tls).do_handshake()
        yield


def submit(installation: Installation, context: ssl.SSLContext) -> float:
    """Submit on a connection of its own; return the seconds it took."""
    started = time.perf_counter()
    with (
        socket.create_connection(address(installation), 10) as plain,
        without_delay(context, plain) as tls,
    ):
        tls.sendall(REQUEST)
        answer = tls.recv(65536)
    assert answer.startswith(b"HTTP/1.1 202"), answer
    return time.perf_counter() - started


def without_delay(context: ssl.SSLContext, plain: socket.socket) -> ssl.SSLSocket:
    # Nagle's algorithm would hold the request back for 40 ms, and those hide whatever the server does.
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="localhost")


def p99(installation: Installation, context: ssl.SSLContext) -> float:
    with ThreadPoolExecutor(CLIENTS) as clients:
        took = sorted(clients.map(lambda _: submit(installation, context), range(SUBMISSIONS)))
    return took[int(len(took) * 0.99)]


@pytest.mark.parametrize("attack", [half_open, refused_but_open])
def test_good_clients_do_not_notice(attack, installation):
    context = ssl.create_default_context(cafile=installation.ready["ca"])
    context.load_cert_chain(installation.ready["client_cert"], installation.ready["client_key"])
    p99(installation, context)  # warm
    quiet, attacked = [], []
    for _ in range(ROUNDS):
        quiet.append(p99(installation, context))
        with attack(installation):
            attacked.append(p99(installation, context))

    before, under = statistics.median(quiet), statistics.median(attacked)
    figures = f"{attack.__name__}: p99 {before * 1e3:.0f} ms quiet, {under * 1e3:.0f} ms under attack"
    print(figures, [f"{q * 1e3:.0f}/{a * 1e3:.0f}" for q, a in zip(quiet, attacked, strict=True)])
    assert under < max(2 * before, FLOOR_SECONDS), figures
