"""Whatever a DRF view raises, the answer has one shape."""

import json
from typing import Any

import pytest
from django.http import Http404, HttpRequest
from django.test import Client
from django.urls import path
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from wire.problems import CODES, FieldError, Problem, retry_later


class Raising(APIView):
    authentication_classes = ()
    permission_classes = ()
    error: Exception = Problem("not_found", "unset")

    def get(self, request: Request) -> Response:
        raise Raising.error

    def post(self, request: Request) -> Response:
        return Response(request.data)


def broken(request: HttpRequest) -> None:
    raise RuntimeError("a secret of ours")


urlpatterns = [path("raising", Raising.as_view()), path("broken", broken)]
handler400 = "certs_app.problems.malformed"
handler403 = "certs_app.problems.forbidden"
handler404 = "certs_app.problems.not_found"
handler500 = "certs_app.problems.internal_error"


@pytest.fixture(autouse=True)
def _routes(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []


def problem(answer: Any, code: str) -> dict[str, Any]:
    """Check the shape of a refusal and return its members."""
    members = json.loads(answer.content)
    assert answer["Content-Type"] == "application/problem+json"
    assert members["code"] == code
    assert answer.status_code == members["status"] == CODES[code][0]
    return dict(members)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exceptions.ParseError(), "malformed_json"),
        (exceptions.ValidationError({"at": ["Too late."]}), "invalid_request"),
        (exceptions.NotAuthenticated(), "not_authenticated"),
        (exceptions.AuthenticationFailed(), "not_authenticated"),
        (exceptions.PermissionDenied(), "forbidden"),
        (exceptions.NotFound(), "not_found"),
        (exceptions.MethodNotAllowed("GET"), "method_not_allowed"),
        (exceptions.NotAcceptable(), "not_acceptable"),
        (exceptions.UnsupportedMediaType("text/csv"), "unsupported_media_type"),
        (exceptions.Throttled(), "rate_limited"),
        (Http404("row 17 of table x"), "not_found"),
        (Problem("backward_step", "Delivered already."), "backward_step"),
    ],
)
def test_each_refusal_has_its_code(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    monkeypatch.setattr(Raising, "error", error)

    members = problem(client.get("/raising"), code)

    assert "row 17" not in members["detail"]


def test_field_errors_and_headers_come_through(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Problem("invalid_message", "Broken.", [FieldError("sent_at", "not_rfc3339", "So.")])
    monkeypatch.setattr(Raising, "error", error)
    assert problem(client.get("/raising"), "invalid_message")["errors"] == [error.errors[0].as_dict()]

    monkeypatch.setattr(Raising, "error", retry_later("queue_full", "Later.", 7))
    assert client.get("/raising")["Retry-After"] == "7"


def test_a_throttled_caller_is_told_when_to_come_back(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Raising, "error", exceptions.Throttled(wait=12.3))

    assert client.get("/raising")["Retry-After"] == "13"


def test_who_is_not_signed_in_is_told_how(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9110 §15.5.2: a 401 carries WWW-Authenticate."""
    monkeypatch.setattr(Raising, "error", exceptions.NotAuthenticated())

    assert client.get("/raising")["WWW-Authenticate"] == 'Bearer realm="msgsys"'


def test_a_method_the_view_lacks_names_the_ones_it_has(client: Client) -> None:
    answer = client.delete("/raising")

    problem(answer, "method_not_allowed")
    assert answer["Allow"] == "GET, POST, HEAD, OPTIONS"


def test_bad_bodies_are_told(client: Client) -> None:
    problem(client.post("/raising", b"{", content_type="application/json"), "malformed_json")
    problem(client.post("/raising", b'"\xff"', content_type="application/json"), "malformed_json")
    problem(client.post("/raising", b"a=1", content_type="text/csv"), "unsupported_media_type")


def test_an_unknown_address_and_an_unknown_error_have_the_same_shape(client: Client) -> None:
    problem(client.get("/nowhere"), "not_found")
    client.raise_request_exception = False
    members = problem(client.get("/broken"), "internal_error")
    assert "secret" not in json.dumps(members)
