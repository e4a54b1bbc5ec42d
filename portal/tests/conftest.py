"""People and messages of the portal's tests. sam is staff, ada is an administrator."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from portal.accounts import create_staff
from registry.models import Message
from registry.registering import register_one
from wire import ids, messages

PASSWORD = "correct horse battery staple"
SENDER = "+4915200000000"
NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)

Send = Callable[..., Message]


@pytest.fixture(autouse=True)
def _forgotten_guesses() -> None:
    """Start each test with no logins counted."""
    cache.clear()


@pytest.fixture
def send(db: None) -> Send:
    """Store a message as the registry does: send("body", sender_number=…, at=…)."""

    def store(body: str = "Pump 7 is running", at: datetime = NOON, **fields: Any) -> Message:
        given = {"client": "alice", "certificate": "a1b2c3", "sender_number": SENDER, **fields}
        uid = given.pop("uid", None) or ids.new_id(at.timestamp())
        return register_one(messages.Message(id=uid, message_body=body, **given), timezone.now())[0]

    return store


@pytest.fixture
def sam(db: None) -> User:
    return create_staff("sam@example.com", PASSWORD, admin=False)


@pytest.fixture
def ada(db: None) -> User:
    return create_staff("ada@example.com", PASSWORD, admin=True)


class Browser(Client):
    """Speaks HTTPS, as every browser does with the portal."""

    def generic(self, *args: Any, **options: Any) -> Any:
        return super().generic(*args, **{**options, "secure": True})


@pytest.fixture
def anyone(as_role: Callable[[str], None]) -> Client:
    """A browser nobody has signed in with."""
    as_role("portal")
    return Browser()


@pytest.fixture
def browser(anyone: Client, sam: User) -> Client:
    """sam's browser, signed in."""
    anyone.force_login(sam)
    return anyone


class Api:
    """sam's program: calls with a token."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.client.cookies.clear()
        answer = self.post("/api/token/", {"username": "sam@example.com", "password": PASSWORD})
        self.tokens = answer.json()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access']}"} if hasattr(self, "tokens") else {}

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(path, query, headers=self._headers())

    def post(self, path: str, body: Any) -> Any:
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.client.post(path, content, content_type="application/json", headers=self._headers())


@pytest.fixture
def api(anyone: Client, sam: User) -> Api:
    return Api(anyone)


def spoil(message: Message, column: str) -> None:
    """Change a sealed value in the database, as a thief or a failing disk would."""
    from django.db import connection

    row = Message.objects.filter(pk=message.pk).values_list(column, flat=True).get()
    spoiled = row.blob[:-1] + bytes([row.blob[-1] ^ 1])
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE registry_message SET {column} = %s WHERE id = %s", [spoiled, message.pk])


def uid_of(message: Message) -> str:
    assert isinstance(message.uid, UUID)
    return str(message.uid)
