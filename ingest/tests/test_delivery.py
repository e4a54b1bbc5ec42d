"""What the worker makes of the registry's answers: only the registry's own `rejected` is final."""

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from celery.exceptions import Retry

from certs_app.tls import TlsFiles, server_context
from ingest import dead_letters, registry_client, tasks
from ingest.registry_client import RegistryAway, RegistryClient, RegistryRefusesUs

GOOD = {"results": [{"id": "x", "outcome": "stored"}]}


class Registry:
    """A TLS server of our CA that answers whatever the test says; what a proxy or a broken registry may say."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.answer: tuple[int, bytes] = (200, json.dumps(GOOD).encode())
        self.requests = 0
        self.connections = 0
        self.close_after_answer = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests += 1
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
        assert client.register("AA==").outcome == "stored"
    assert (registry.requests, registry.connections) == (5, 1)


def test_a_kept_alive_connection_that_died_is_tried_once_more_at_once(client, registry):
    registry.close_after_answer = True
    for _ in range(4):
        assert client.register("AA==").outcome == "stored"
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
        (302, b""),
        (204, b""),
    ],
    ids=lambda answer: f"{answer[0]} {answer[1][:30]!r}",
)
def test_an_answer_that_is_not_the_registrys_own_means_try_again(answer, client, registry):
    registry.answer = answer
    with pytest.raises(RegistryAway):
        client.register("AA==")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_our_certificate_is_a_configuration_fault(status, client, registry):
    registry.answer = (status, b'{"code": "role_not_allowed"}')
    with pytest.raises(RegistryRefusesUs):
        client.register("AA==")


def test_a_registry_that_is_not_there_is_away(client, registry):
    registry.stop()
    with pytest.raises(RegistryAway):
        client.register("AA==")


def test_another_server_of_our_ca_is_no_registry(people, client, settings):
    """The portal's certificate is good for localhost as well, but its role is not registry."""
    people.issue("portal", "portal", dns=["localhost"])
    impostor = Registry(server_context(files(people, "portal"), client_certificates=True))
    settings.REGISTRY_URL = impostor.url
    with pytest.raises(RegistryRefusesUs, match="role portal"):
        client.register("AA==")
    assert impostor.requests == 0
    impostor.stop()


def test_a_revoked_registry_is_no_registry(people, client, registry):
    people.revoke("registry")
    with pytest.raises(RegistryRefusesUs):
        client.register("AA==")
    assert registry.requests == 0


def test_a_revoked_worker_is_refused(people, registry):
    people.revoke("worker")
    server = Registry(server_context(files(people, "registry"), client_certificates=True))
    client = RegistryClient(files(people, "worker"))
    from django.conf import settings

    settings.REGISTRY_URL = server.url
    with pytest.raises((RegistryRefusesUs, RegistryAway)):
        client.register("AA==")
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
    called.run = lambda: tasks.deliver.run.__func__(called, "id-1", "AA==")  # type: ignore[attr-defined]
    return called


def test_a_temporary_failure_is_tried_again_in_thirty_seconds(task, registry):
    registry.answer = (503, b"")
    with pytest.raises(Retry):
        task.run()
    assert task.countdown == 30
    assert dead_letters.count() == 0


def test_a_rejected_envelope_goes_to_the_dead_letters_with_its_reason(task, registry, valkey):
    registry.answer = (200, b'{"results": [{"id": "id-1", "outcome": "rejected", "code": "bad_signature"}]}')
    task.run()
    entry = json.loads(valkey.client.lindex("deliver.dead", 0))
    assert (entry["id"], entry["code"], entry["envelope"]) == ("id-1", "bad_signature", "AA==")


def test_the_task_never_gives_up():
    assert tasks.deliver.max_retries is None
    assert tasks.deliver.acks_late


def test_the_client_is_one_per_process():
    assert registry_client.registry.cache_info().maxsize is None
