"""What the worker makes of the registry's answers: only the registry's own `rejected` is final."""

import gzip
import itertools
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from celery.exceptions import Retry

from certs_app import registry_connection
from certs_app.tls import TlsFiles, server_context
from ingest import dead_letters, registry_client, tasks
from ingest.registry_client import RegistryAway, RegistryClient, RegistryRefusesUs, RegistrySlow

ID = "01930000-0000-7000-8000-000000000001"
GOOD = {"results": [{"id": None, "outcome": "stored"}]}


class Registry:
    """A TLS server of our CA that answers whatever the test says; what a proxy or a broken registry may say."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.answer: tuple[int, bytes] = (200, json.dumps(GOOD).encode())
        self.requests = 0
        self.connections = 0
        self.close_after_answer = False
        # Takes no more of a request, and answers nothing, before it is set.
        self.go = threading.Event()
        self.go.set()
        # Says it in place of an answer: bytes as long as somebody reads them.
        self.trickle: Callable[[], Iterable[bytes]] = tuple
        self.pause = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                # What the system takes in for a server that does not read is no part of a test.
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                super().setup()

            def do_POST(self) -> None:
                outer.go.wait(30)
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests += 1
                for piece in outer.trickle():
                    self.wfile.write(piece)
                    time.sleep(outer.pause)
                status, body = outer.answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                # Without a word of warning, as a restarted server does.
                self.close_connection = outer.close_after_answer

            def log_message(self, *_args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def files(people, name: str) -> TlsFiles:
    folder = people.folder
    return TlsFiles(folder / f"{name}.crt", folder / f"{name}.key", folder / "ca.crt", folder / "crl.pem")


@pytest.fixture
def registry(people, settings) -> Iterator[Registry]:
    people.issue("worker", "worker")
    people.issue("registry", "registry", dns=["localhost"])
    server = Registry(server_context(files(people, "registry"), client_certificates=True))
    settings.REGISTRY_URL = server.url
    settings.REGISTRY_TIMEOUT = 2
    yield server
    server.stop()


@pytest.fixture
def client(people, registry) -> RegistryClient:
    return RegistryClient(files(people, "worker"))


def test_one_connection_serves_many_envelopes(client, registry):
    for _ in range(5):
        assert [one.outcome for one in client.register(["AA=="])] == ["stored"]
    assert (registry.requests, registry.connections) == (5, 1)


def test_a_kept_alive_connection_that_died_is_tried_once_more_at_once(client, registry):
    registry.close_after_answer = True
    for _ in range(4):
        assert [one.outcome for one in client.register(["AA=="])] == ["stored"]
    assert registry.connections > 1


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"oops"),
        (502, b"<html>Bad Gateway</html>"),
        (503, b'{"code": "sealing_key_missing"}'),
        (429, b""),
        (400, b"<html>Bad Request</html>"),
        (404, b"<html>Not Found</html>"),
        (413, b'{"code": "too_large"}'),
        (422, b'{"code": "invalid_request"}'),
        (200, b""),
        (200, b"OK"),
        (200, b"[]"),
        (200, b'{"results": []}'),
        (200, b'{"results": [{"outcome": "lost"}]}'),
        (200, b'{"results": "stored"}'),
        (200, b'{"results": [{"outcome": "stored"}, {"outcome": "stored"}]}'),
        (200, b'{"results": [{"id": null, "outc'),
        (200, b'{"results": [{"id": "01930000-0000-7000-8000-000000000001", "outcome": "stored"}]}'),
        (302, b""),
        (204, b""),
    ],
    ids=lambda answer: f"{answer[0]} {answer[1][:30]!r}",
)
def test_an_answer_that_is_not_the_registrys_own_means_try_again(answer, client, registry):
    registry.answer = answer
    with pytest.raises(RegistryAway):
        client.register(["AA=="])


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "trickle",
    [
        lambda: (bytes([one]) for one in itertools.cycle(b"HTTP")),
        lambda: itertools.chain([HEAD], itertools.repeat(b"X-More: and more\r\n")),
        lambda: itertools.chain([HEAD + b"Content-Length: 100000\r\n\r\n"], itertools.repeat(b" ")),
        lambda: itertools.chain([HEAD + b"Transfer-Encoding: chunked\r\n\r\n"], itertools.repeat(b"1\r\n \r\n")),
        lambda: itertools.chain([HEAD + b"Connection: close\r\n\r\n"], itertools.repeat(b" ")),
    ],
    ids=["a status", "headers", "a body", "chunks", "until the end"],
)
def test_an_answer_that_trickles_is_none_after_twice_the_time_for_a_read(trickle, client, registry, settings):
    settings.REGISTRY_TIMEOUT = 1
    registry.trickle, registry.pause = trickle, 0.2
    began = time.monotonic()
    with pytest.raises(RegistryAway):
        client.register(["AA=="])
    assert time.monotonic() - began < 10


def test_an_endless_answer_is_none_however_fast_it_comes(client, registry, settings, monkeypatch):
    settings.REGISTRY_TIMEOUT = 60
    monkeypatch.setattr(registry_connection, "MAX_ANSWER_BYTES", 1 << 20)
    head = HEAD + b"Connection: close\r\n\r\n"
    registry.trickle = lambda: itertools.chain([head], itertools.repeat(b" " * 65536))
    with pytest.raises(RegistryAway, match="too large"):
        client.register(["AA=="])


def test_the_size_is_that_of_one_answer_and_not_of_all_on_a_connection(client, registry, monkeypatch):
    monkeypatch.setattr(registry_connection, "MAX_ANSWER_BYTES", 1000)
    for _ in range(20):
        client.register(["AA=="])
    assert registry.connections == 1


def test_an_answer_that_is_compressed_unasked_is_not_unpacked(client, registry):
    body = gzip.compress(json.dumps(GOOD).encode())
    head = HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    registry.trickle = lambda: [head + body]
    with pytest.raises(RegistryAway):
        client.register(["AA=="])


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_our_certificate_is_a_configuration_fault(status, client, registry):
    registry.answer = (status, b'{"code": "role_not_allowed"}')
    with pytest.raises(RegistryRefusesUs):
        client.register(["AA=="])


def test_a_registry_that_is_not_there_is_away(client, registry):
    registry.stop()
    with pytest.raises(RegistryAway) as error:
        client.register(["AA=="])
    assert not isinstance(error.value, RegistrySlow), "smaller batches would not help"


@pytest.mark.parametrize("size", [4, 32 << 20], ids=["the answer is late", "the request takes too long"])
def test_an_exchange_that_is_not_over_in_time_is_told_from_a_registry_that_is_not_there(
    size, client, registry, settings
):
    settings.REGISTRY_TIMEOUT = 1
    registry.go.clear()
    with pytest.raises(RegistrySlow):
        client.register(["A" * size])
    registry.go.set()


def test_another_server_of_our_ca_is_no_registry(people, client, settings):
    """The portal's certificate is good for localhost as well, but its role is not registry."""
    people.issue("portal", "portal", dns=["localhost"])
    impostor = Registry(server_context(files(people, "portal"), client_certificates=True))
    settings.REGISTRY_URL = impostor.url
    with pytest.raises(RegistryRefusesUs, match="role portal"):
        client.register(["AA=="])
    assert impostor.requests == 0
    impostor.stop()


def test_a_revoked_registry_is_no_registry(people, client, registry):
    people.revoke("registry")
    with pytest.raises(RegistryRefusesUs):
        client.register(["AA=="])
    assert registry.requests == 0


def test_a_revoked_worker_is_refused(people, registry):
    people.revoke("worker")
    server = Registry(server_context(files(people, "registry"), client_certificates=True))
    client = RegistryClient(files(people, "worker"))
    from django.conf import settings

    settings.REGISTRY_URL = server.url
    with pytest.raises((RegistryRefusesUs, RegistryAway)):
        client.register(["AA=="])
    assert server.requests == 0
    server.stop()


@pytest.fixture
def task(client, monkeypatch, valkey):
    """The task's body with this test's client; `retry` raises, as it does in a worker."""
    monkeypatch.setattr(tasks, "registry", lambda: client)

    class Called:
        countdown: int | None = None

        def retry(self, *, exc, countdown):
            self.countdown = countdown
            raise Retry(str(exc), exc)

    called = Called()
    called.run = lambda: tasks.deliver.run.__func__(called, ID, "AA==")  # type: ignore[attr-defined]
    return called


def test_a_temporary_failure_is_tried_again_in_thirty_seconds(task, registry):
    registry.answer = (503, b"")
    with pytest.raises(Retry):
        task.run()
    assert task.countdown == 30
    assert dead_letters.count() == 0


def test_a_rejected_envelope_goes_to_the_dead_letters_with_its_reason(task, registry, valkey):
    registry.answer = (200, b'{"results": [{"id": null, "outcome": "rejected", "code": "bad_signature"}]}')
    task.run()
    letter = json.loads(valkey.client.hget("deliver.dead_letters", ID))
    assert (letter["id"], letter["code"]) == (ID, "bad_signature")
    assert json.loads(json.loads(letter["entry"])["body"])[0] == [ID, "AA=="]


def test_the_task_never_gives_up():
    assert tasks.deliver.max_retries is None
    assert tasks.deliver.acks_late


def test_the_client_is_one_per_process():
    assert registry_client.registry.cache_info().maxsize is None
