"""Every request through Django: no verified caller, no rule, no entry."""

import json
from typing import Any

import pytest
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.urls import path
from rest_framework.response import Response

from certs_app.admission import ANY_ROLE, PEER, roles
from certs_app.rest import PeerView
from conftest import People


def hello(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"hello": "caller"})


def without_a_rule(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"hello": "anybody"})


class Box(PeerView):
    def post(self, request: Any) -> Response:
        return Response({})


urlpatterns = [
    path("box", roles("client")(Box.as_view())),
    path("open", roles(*ANY_ROLE)(hello)),
    path("workers", roles("worker", "gateway")(lambda request: hello(request))),
    path("ruleless", without_a_rule),
]
handler404 = "certs_app.problems.not_found"


@pytest.fixture
def guarded(people: People, settings: Any) -> People:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = ["certs_app.middleware.AllowedMethods", "certs_app.middleware.PeerRequired"]
    return people


def test_a_caller_of_a_named_role_comes_in(guarded: People, client: Client) -> None:
    answer = client.get("/workers", **{PEER: guarded.peer("wanda", "worker")})

    assert answer.json() == {"hello": "caller"}


def test_another_role_is_refused_and_both_are_named(guarded: People, client: Client) -> None:
    answer = client.get("/workers", **{PEER: guarded.peer("alice")})

    assert (answer.status_code, answer.json()["code"]) == (403, "role_not_allowed")
    assert answer.json()["detail"] == "Your certificate's role is client; this is for: gateway, worker."
    assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("role", sorted(ANY_ROLE))
def test_a_view_without_a_rule_lets_nobody_in(guarded: People, client: Client, role: str) -> None:
    answer = client.get("/ruleless", **{PEER: guarded.peer("somebody", role)})

    assert (answer.status_code, answer.json()["code"]) == (403, "role_not_allowed")
    assert "nobody" in answer.json()["detail"]


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"HTTP_MSGSYS_PEER": "admin/root"},
        {"headers": {"msgsys.peer": "admin/root", "X-SSL-Client-Cert": "-----BEGIN"}},
        {PEER: "admin/root"},
        {PEER: {"role": "admin", "name": "root"}},
        {"SSL_CLIENT_CERT": "-----BEGIN CERTIFICATE-----", "REMOTE_USER": "root"},
    ],
)
def test_no_header_and_no_text_ever_becomes_the_caller(guarded: People, client: Client, meta: dict[str, Any]) -> None:
    answer = client.get("/open", **meta)

    assert (answer.status_code, answer.json()["code"]) == (403, "certificate_required")


def test_a_revoked_caller_is_refused(guarded: People, client: Client) -> None:
    bob = guarded.peer("bob")
    guarded.revoke("bob")

    assert client.get("/open", **{PEER: bob}).json()["code"] == "certificate_revoked"


def test_a_missing_list_refuses_everybody(guarded: People, client: Client, settings: Any) -> None:
    settings.CRL_FILE.unlink()

    answer = client.get("/open", **{PEER: guarded.peer("alice")})

    assert answer.json()["code"] == "revocation_unknown"
    assert "publish_crl" in answer.json()["detail"]


@pytest.mark.parametrize("method", ["PROPFIND", "FROBNICATE"])
def test_a_method_http_does_not_define_is_refused_before_anything_else(
    guarded: People, client: Client, method: str
) -> None:
    answer = client.generic(method, "/open")

    assert (answer.status_code, json.loads(answer.content)["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT"])
def test_a_method_the_view_lacks_is_refused_with_those_it_has(guarded: People, client: Client, method: str) -> None:
    answer = client.generic(method, "/box", **{PEER: guarded.peer("alice")})

    assert (answer.status_code, json.loads(answer.content)["code"]) == (405, "method_not_allowed")
    assert answer["Allow"] == "POST, OPTIONS"


def test_an_unknown_role_in_a_rule_is_a_mistake_told_at_start() -> None:
    with pytest.raises(ValueError, match="unknown roles: root"):
        roles("client", "root")
