"""Deny by default, proved on every route there is."""

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLResolver
from django.utils.regex_helper import normalize

from certs_app import audit
from certs_app.models import AuditEvent, Certificate, Crl, Issuer
from portal.tests.conftest import NOON, PASSWORD, Send
from registry.models import Message, StatusEvent, Unreadable

# Anybody may ask these: they answer with a login form, with 401 or 422 without credentials, or with one word.
OPEN = {"/login/", "/admin/login/", "/api/token/", "/api/token/refresh/", "/healthz", "/readyz"}
FILES = (
    "certificate/1/download.pem",
    "issuer/1/download.pem",
    "crl/1/download.crl",
    "crl/1/download.pem",
)
LOOKED_AT = (Message, StatusEvent, Unreadable, Certificate, Crl, Issuer, AuditEvent)


def routes(values: dict[str, Any]) -> Iterator[str]:
    """Yield a path for every route of the portal, nested ones included."""
    yield from _paths(import_module("msgsys_project.urls.portal").urlpatterns, "/", values)


def _paths(patterns: list[Any], prefix: str, values: dict[str, Any]) -> Iterator[str]:
    for pattern in patterns:
        form, names = normalize(pattern.pattern.regex.pattern)[0]
        path = prefix + form % {name: values[name] for name in names}
        if isinstance(pattern, URLResolver):
            yield from _paths(pattern.url_patterns, path, values)
        else:
            yield path


@pytest.fixture
def rows(send: Send) -> dict[str, Any]:
    """One row of everything, and what stands for each parameter of a route."""
    message = send()
    message.advance("dispatched", NOON, "", "worker/w1")
    pk = message.pk
    Unreadable.objects.create(
        pk=pk, uid=message.uid, column="message_body", reason="tampered", first_seen=NOON, seen_by="portal"
    )
    # One id for all: each route with an id finds its row.
    issuer = Issuer.objects.create(pk=pk, kind=Issuer.CLIENTS, name=Issuer.CLIENTS, der=b"x", not_after=NOON)
    certificate = Certificate.objects.create(
        pk=pk,
        issuer=issuer,
        serial_number="a1b2c3",
        role="client",
        name="alice",
        usage="client",
        fingerprint="f",
        spki_sha256="s",
        not_before=NOON,
        not_after=NOON,
        der=b"x",
    )
    Crl.objects.create(pk=pk, issuer=issuer, number=1, this_update=NOON, next_update=NOON, der=b"x")
    audit.record(audit.ISSUED, audit.Actor("admin/olga"), certificate, NOON)
    return {
        "uid": message.uid,
        "object_id": pk,
        "id": pk,
        "content_type_id": 1,
        "app_label": "registry",
        "url": "no/such",
    }


def test_the_walk_finds_the_routes_it_should(rows: dict[str, Any]) -> None:
    found = set(routes({**rows, "object_id": 1}))
    assert {"/", "/login/", "/api/messages/search/", "/admin/registry/message/1/change/", *OPEN} <= found
    assert {f"/admin/certs_app/{file}" for file in FILES} <= found
    assert len(found) > 50


def test_nobody_sees_anything_without_signing_in(anyone: Client, rows: dict[str, Any]) -> None:
    for path in routes(rows):
        if path in OPEN:
            continue
        for method in ("get", "post", "head", "options"):
            answer = getattr(anyone, method)(path)
            to_login = answer.status_code == 302 and "/login/?next=" in answer.headers["Location"]
            assert to_login or answer.status_code in (401, 403), f"{method} {path} answers {answer.status_code}"
            assert b"Pump 7" not in answer.content


def test_nothing_that_is_shown_can_be_changed_even_by_an_administrator(anyone: Client, rows: dict[str, Any]) -> None:
    before = _everything()
    for path in routes(rows):
        for method in ("post", "put", "patch", "delete"):
            for data in (
                {"post": "yes", "_save": "Save", **FORM},
                {**FORM, "action": "delete_selected", "_selected_action": "1"},
            ):
                anyone.force_login(_administrator())
                answer = getattr(anyone, method)(path, json.dumps(data), content_type="application/json")
                assert answer.status_code != 500
                assert anyone.post(path, data).status_code != 500
    assert _everything() == before


FORM = {
    "status": "failed",
    "client": "mallory",
    "name": "mallory",
    "role": "admin",
    "number": "7",
    "at_0": "2026-01-01",
    "at_1": "00:00",
    "detail": "changed",
    "actor": "mallory",
    "action": "revoked",
    "digest": "0",
    "reason": "superseded",
}


def _administrator() -> User:
    """Return a superuser; the walk may have deleted the one before."""
    return User.objects.filter(username="walker").first() or User.objects.create_superuser("walker", password=PASSWORD)


def _everything() -> list[Any]:
    return [list(model.objects.order_by("pk").values()) for model in LOOKED_AT]


@pytest.mark.parametrize("model", LOOKED_AT)
@pytest.mark.parametrize("person", ["sam", "ada"])
def test_the_admin_shows_and_refuses(
    anyone: Client, rows: dict[str, Any], request: pytest.FixtureRequest, model: Any, person: str
) -> None:
    anyone.force_login(request.getfixturevalue(person))
    base = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
    one = f"{base}{model.objects.get().pk}/"
    for page in (base, f"{one}change/", f"{one}history/"):
        answer = anyone.get(page)
        assert answer.status_code == 200, page
        assert 'name="_save"' not in answer.content.decode()
    for refused in (f"{base}add/", f"{one}delete/"):
        assert anyone.get(refused).status_code == 403
        assert anyone.post(refused, {"post": "yes"}).status_code == 403
    assert anyone.post(f"{one}change/", FORM).status_code == 403


def test_files_are_fetched_by_staff_and_never_sent(anyone: Client, rows: dict[str, Any], sam: User, ada: User) -> None:
    for person in (sam, ada):
        anyone.force_login(person)
        for file in FILES:
            path = f"/admin/certs_app/{file}".replace("/1/", f"/{rows['object_id']}/")
            assert anyone.get(path).status_code == 200
            assert anyone.post(path, FORM).status_code == 405


def test_staff_manage_no_users_and_administrators_do(anyone: Client, sam: User, ada: User) -> None:
    anyone.force_login(sam)
    assert anyone.get("/admin/auth/user/").status_code == 403
    anyone.force_login(ada)
    assert anyone.get("/admin/auth/user/").status_code == 200


def test_a_value_that_cannot_be_read_breaks_no_admin_page(browser: Client, send: Send, rows: dict[str, Any]) -> None:
    from portal.tests.conftest import spoil

    message = Message.objects.get()
    spoil(message, "message_body")
    assert browser.get("/admin/registry/message/").status_code == 200
    page = browser.get(f"/admin/registry/message/{message.pk}/change/").content.decode()
    assert "unreadable" in page


def test_health_is_for_anyone(anyone: Client, db: None) -> None:
    assert anyone.get("/healthz").json() == {"status": "alive"}
    assert anyone.get("/readyz").status_code in (200, 503)
