"""A live server over TLS, and the clients that try it: Python's ssl and curl."""

import asyncio
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.test import override_settings
from django.utils import timezone

from certs_app import server as server_module
from certs_app.admission import ANY_ROLE, PEER, admit
from certs_app.authority import init_ca
from certs_app.revocation import Revocations
from certs_app.revocation_lists import write_file
from certs_app.server import Listener, build_server
from certs_app.tls import TlsFiles
from conftest import People
from tests.patience import PATIENCE
from wire.problems import Problem

SMALL_BODY = 65536
# How long an answer of /slow takes: longer than the server waits between two looks at its connections.
SLOW_SECONDS = 1.5


def until(true: Callable[[], Any], within: float = 5.0) -> None:
    """Wait until `true()`, or fail."""
    deadline = time.monotonic() + within * PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class Door:
    """The smallest application behind `admit`: says who called and how much was sent, and remembers who got here."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.revocations = Revocations(django_settings.CRL_FILE, django_settings.CA_FILE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope["path"])
        if scope["path"] == "/endless":
            await self._stream(send)
            return
        if scope["path"] == "/slow":
            await asyncio.sleep(SLOW_SECONDS)
        if scope["path"] == "/hasty":
            await self._send(send, 200, b"{}")
            return
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        try:
            peer = admit(scope[PEER], ANY_ROLE, self.revocations)
        except Problem as problem:
            await self._send(send, problem.status, problem.body())
            return
        answer = {"peer": f"{peer.role}/{peer.name}", "bytes": size, "path": scope["path"], "scheme": scope["scheme"]}
        await self._send(send, 200, json.dumps(answer).encode())

    async def _stream(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Any, status: int, body: bytes) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass
class Answer:
    """An HTTP answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The stable code of a problem answer."""
        assert self.headers["content-type"] == "application/problem+json"
        return str(json.loads(self.body)["code"])


@dataclass
class Connection:
    """One TLS connection, driven by hand."""

    tls: ssl.SSLSocket
    buffer: bytes = field(default=b"", repr=False)

    def send(self, data: bytes) -> None:
        self.tls.sendall(data)

    def get(self, path: str = "/", *headers: str) -> Answer:
        lines = "".join(f"{line}\r\n" for line in headers)
        self.send(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n".encode())
        return self.answer()

    def answer(self) -> Answer:
        """Read one answer. Raises ConnectionError or ssl.SSLError when the server closes instead."""
        head = self._until(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        chunked = headers.get("transfer-encoding") == "chunked"
        body = self._chunks() if chunked else self._exactly(int(headers.get("content-length", 0)))
        return Answer(int(status_line.split()[1]), headers, body)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size + 2)[:-2]
        self._exactly(2)
        return body

    def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._more()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def closed(self, within: float = 5.0) -> bool:
        """Tell whether the server closes without another byte."""
        self.tls.settimeout(within)
        try:
            return not self.buffer and self.tls.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(mark)
        return head

    def _more(self) -> None:
        data = self.tls.recv(65536)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self.buffer += data


class Live:
    """A running server and ways to call it."""

    def __init__(self, folder: Path, port: int, door: Any) -> None:
        self.folder = folder
        self.port = port
        self.door = door

    def context(self, stem: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        if stem is not None:
            context.load_cert_chain(self.folder / f"{stem}.crt", self.folder / f"{stem}.key")
        return context

    @contextmanager
    def raw(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain:
            yield plain

    @contextmanager
    def connect(self, stem: str | None = "alice", context: ssl.SSLContext | None = None) -> Iterator[Connection]:
        context = context or self.context(stem)
        with self.raw() as plain, context.wrap_socket(plain, server_hostname="localhost") as tls:
            yield Connection(tls)

    def get(self, stem: str | None = "alice", context: ssl.SSLContext | None = None) -> Answer:
        with self.connect(stem, context) as connection:
            return connection.get()

    def refuses(self, stem: str | None, context: ssl.SSLContext | None = None) -> bool:
        """Tell whether the handshake is refused: in TLS 1.3 the client hears of it at its first read."""
        before = len(self.door.reached)
        try:
            self.get(stem, context)
        except (OSError, ssl.SSLError):
            return len(self.door.reached) == before
        return False

    def curl(self, stem: str | None, *options: str, path: str = "/") -> subprocess.CompletedProcess[str]:
        pair = ["--cert", f"{self.folder / stem}.crt", "--key", f"{self.folder / stem}.key"] if stem else []
        trust = [
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--noproxy",
            "*",
            "--cacert",
            f"{self.folder / 'ca.crt'}",
        ]
        url = f"https://localhost:{self.port}{path}"
        # -q: a .curlrc of whoever runs the tests must not take part.
        return subprocess.run(["curl", "-q", *trust, *pair, *options, url], capture_output=True, text=True, timeout=20)


@contextmanager
def serving(application: Any, folder: Path, *, client_certificates: bool = True) -> Iterator[Live]:
    """Serve `application` with the certificate localhost.crt of `folder`."""
    files = TlsFiles(folder / "localhost.crt", folder / "localhost.key", folder / "ca.crt", folder / "crl.pem")
    server = build_server(application, Listener("127.0.0.1", 0, files, client_certificates))
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        until(lambda: server.started)
        yield Live(folder, server.servers[0].sockets[0].getsockname()[1], application)
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any) -> Iterator[Live]:
    """One server for the tests that change nothing: alice is trusted, and its limits are small.

    Its CA leaves no rows behind: the servers need the files only.
    """
    folder = tmp_path_factory.mktemp("standing")
    files = {"PKI_DIR": folder, "CA_FILE": folder / "ca.crt", "CRL_FILE": folder / "crl.pem"}
    limits = {"HANDSHAKE_TIMEOUT": 1, "REQUEST_TIMEOUT": 0.5, "MAX_BODY_BYTES": SMALL_BODY}
    with override_settings(**files, CA_KEYS_DIR=folder / "ca"), django_db_blocker.unblock(), transaction.atomic():
        init_ca(timezone.now(), People.operator)
        people = People(folder)
        people.issue("localhost", "registry", dns=["localhost"], ip=["127.0.0.1"])
        people.issue("alice", "client")
        write_file()
        transaction.set_rollback(True)
    with override_settings(**files):
        door = Door()
    with override_settings(**limits):
        server = serving(door, folder)
        running = server.__enter__()
    yield running
    server.__exit__(None, None, None)


@pytest.fixture
def tough(standing: Live, settings: Any) -> Iterator[Live]:
    """The standing server, which must still answer when the test is over."""
    settings.REQUEST_TIMEOUT, settings.MAX_BODY_BYTES = 0.5, SMALL_BODY
    standing.door.reached.clear()
    yield standing
    assert standing.get("alice").status == 200


@pytest.fixture
def served(people: People) -> People:
    """A CA with a server certificate, and alice who may come in."""
    people.issue("localhost", "registry", dns=["localhost"], ip=["127.0.0.1"])
    people.issue("alice", "client")
    return people


@pytest.fixture(params=["ours", "asyncio"])
def every_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run servers on uvloop and on asyncio's own loop. Windows has only the latter kind."""
    if request.param == "asyncio":
        monkeypatch.setattr(server_module, "_EventLoop", asyncio.SelectorEventLoop)


@pytest.fixture
def live(served: People) -> Iterator[Live]:
    with serving(Door(), served.folder) as running:
        yield running
