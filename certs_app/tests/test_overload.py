"""More requests than threads: the ones too many are told at once, and /healthz never waits."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.utils.module_loading import import_string

from certs_app import overload
from certs_app.asgi import Answer as DirectAnswer
from certs_app.overload import Bounded
from certs_app.tests.conftest import Answer, Live, serving, until
from conftest import People

LIMIT = 3


class Slow:
    """A view that answers when it is let, and knows how many threads were in it at once."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.let_go = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, request: HttpRequest) -> JsonResponse:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.let_go.wait(10)
        with self._lock:
            self.inside -= 1
        return JsonResponse({"bytes": len(request.body)})


slow = Slow()
urlpatterns = [path("slow", lambda request: slow(request))]

Serve = Callable[..., Any]


@pytest.fixture
def serve(served: People, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serve a bounded Django with small limits."""
    settings.ROOT_URLCONF, settings.MIDDLEWARE, settings.ALLOWED_HOSTS = __name__, [], ["localhost"]
    settings.MAX_CONCURRENT_REQUESTS = LIMIT
    monkeypatch.setattr(overload, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(__name__ + ".slow", Slow())

    @contextmanager
    def start(*, client_certificates: bool = True) -> Iterator[Live]:
        application = Bounded(get_asgi_application(), health_for_anyone=not client_certificates)
        with serving(application, served.folder, client_certificates=client_certificates) as live:
            try:
                yield live
            finally:
                slow.let_go.set()

    return start


def get(live: Live, path: str, stem: str | None = "alice") -> Answer:
    with live.connect(stem) as connection:
        return connection.get(path)


@contextmanager
def occupied(live: Live) -> Iterator[list[Future[Answer]]]:
    """Hold all slots, and let them go at the end."""
    with ThreadPoolExecutor(LIMIT) as threads:
        running = [threads.submit(get, live, "/slow") for _ in range(LIMIT)]
        until(lambda: slow.inside == LIMIT)
        yield running
        slow.let_go.set()


def test_requests_beyond_the_limit_are_told_to_come_back(serve: Serve) -> None:
    with serve() as live, ThreadPoolExecutor(20) as threads:
        with occupied(live) as running:
            started = time.monotonic()
            refused = list(threads.map(lambda _: get(live, "/slow"), range(20)))
            assert time.monotonic() - started < 3
        assert {(answer.status, answer.code) for answer in refused} == {(503, "overloaded")}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert [answer.result().status for answer in running] == [200] * LIMIT
        assert get(live, "/slow").status == 200, "a slot was not given back"
    assert slow.most == LIMIT


def test_a_short_burst_waits_for_its_turn(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "WAIT_SECONDS", 5)
    with serve() as live, ThreadPoolExecutor(1) as threads:
        with occupied(live):
            waiting = threads.submit(get, live, "/slow")
            time.sleep(0.2)
            assert not waiting.done()
        assert waiting.result().status == 200
    assert slow.most == LIMIT


def test_a_client_that_goes_away_frees_no_slot_before_its_thread_has_ended(serve: Serve) -> None:
    with serve() as live:
        for number in range(LIMIT):
            with live.connect() as connection:
                connection.send(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
                until(lambda number=number: slow.inside == number + 1)
        assert get(live, "/slow").code == "overloaded"
        slow.let_go.set()
        until(lambda: slow.inside == 0)
        assert get(live, "/slow").status == 200
    assert slow.most == LIMIT


def test_bodies_that_arrive_slowly_take_no_slot(serve: Serve) -> None:
    slow.let_go.set()
    with serve() as live, ExitStack() as stack:
        connections = [stack.enter_context(live.connect()) for _ in range(3 * LIMIT)]
        for connection in connections:
            connection.send(b"POST /slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n" + b"x" * 70_000)
        slow.let_go.set()
        assert get(live, "/slow").status == 200
        connections[0].send(b"x" * 30_000)
        assert connections[0].answer().body == b'{"bytes": 100000}'


def test_health_is_answered_when_nothing_else_is(serve: Serve) -> None:
    with serve() as live, occupied(live):
        answer = get(live, "/healthz")
        assert (answer.status, answer.body) == (200, b'{"status": "alive"}')


def test_health_is_for_callers_with_a_standing_certificate(serve: Serve, served: People) -> None:
    served.issue("bob", "client")
    served.issue("wanda", "worker")
    with serve() as live:
        assert get(live, "/healthz", "wanda").status == 200
        with live.connect("bob") as connection:
            assert connection.get("/healthz").status == 200
            served.revoke("bob")
            assert connection.get("/healthz").code == "certificate_revoked"


def test_health_is_for_anyone_where_nobody_has_a_certificate(serve: Serve) -> None:
    with serve(client_certificates=False) as live:
        assert get(live, "/healthz", stem=None).status == 200


@pytest.mark.parametrize("role", ["registry", "portal", "ingest"])
def test_every_role_that_serves_http_is_bounded(role: str) -> None:
    application = import_string(import_string(f"msgsys_project.settings.{role}.ASGI_APPLICATION"))
    assert isinstance(getattr(application, "_django", None) if role == "ingest" else application, Bounded)


class Quick:
    """A direct route."""

    def takes(self, scope: Any) -> bool:
        return bool(scope["path"] == "/quick")

    def answer(self, scope: Any, body: bytes) -> DirectAnswer:
        return DirectAnswer(202, b'{"by": "%s"}' % threading.current_thread().name.partition("_")[0].encode())


def test_a_direct_route_takes_one_of_the_threads_and_goes_past_django(served: People, settings: Any) -> None:
    settings.ROOT_URLCONF, settings.MIDDLEWARE, settings.ALLOWED_HOSTS = __name__, [], ["localhost"]
    with (
        serving(Bounded(get_asgi_application(), direct=[Quick()]), served.folder) as live,
        live.connect("alice") as connection,
    ):
        answer = connection.get("/quick")
        assert (answer.status, json.loads(answer.body)) == (202, {"by": "django"})
        assert connection.get("/unknown").status == 404
