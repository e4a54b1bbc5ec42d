"""Send one message through everything and read it back, as a newcomer would with curl and a browser."""

import time
from dataclasses import dataclass
from typing import Any

import requests
from django.conf import settings

from deploy.home import Administrator
from deploy.machine import base_url

SENDER = "+4915200000000"
BODY = "Hello from msgsys: sealed at ingest, opened by the registry."
ARRIVES_WITHIN = 20.0


class DemoFailed(Exception):
    """The message did not come through. The message says how far it came."""


@dataclass(frozen=True)
class Delivered:
    """The demo message as the portal's API shows it; None when no password for the portal is known."""

    uid: str
    seconds: float
    shown: dict[str, Any] | None


def run(administrator: Administrator) -> Delivered:
    """Submit, wait for the registry's receipt, read back through the portal. Raises DemoFailed."""
    started = time.monotonic()
    folder = settings.CERTIFICATES_DIR
    with requests.Session() as client, requests.Session() as staff:
        for session in (client, staff):
            session.trust_env = False
            session.verify = str(settings.CA_FILE)
        client.cert = (str(folder / "demo.crt"), str(folder / "demo.key"))
        try:
            uid = _submit(client)
            _wait_for_receipt(client, uid)
            seconds = time.monotonic() - started
            return Delivered(uid, seconds, _read_back(staff, uid, administrator))
        except requests.RequestException as error:
            raise DemoFailed(f"a server did not answer: {type(error).__name__}") from None


def _submit(client: requests.Session) -> str:
    message = {"sender_number": SENDER, "message_body": BODY}
    answer = client.post(f"{base_url('ingest')}/submit", json=message, timeout=5)
    if answer.status_code != 202:
        raise DemoFailed(f"ingest answered {answer.status_code}: {answer.text[:300]}")
    return str(answer.json()["id"])


def _wait_for_receipt(client: requests.Session, uid: str) -> None:
    deadline = time.monotonic() + ARRIVES_WITHIN
    while time.monotonic() < deadline:
        answer = client.get(f"{base_url('ingest')}/messages/{uid}", timeout=12)
        if answer.status_code == 200:
            return
        time.sleep(0.05)
    raise DemoFailed(f"message {uid} was accepted but did not reach the registry within {ARRIVES_WITHIN:.0f} s")


def _read_back(staff: requests.Session, uid: str, administrator: Administrator) -> dict[str, Any] | None:
    if not administrator.password:
        return None
    portal = base_url("portal")
    login = {"username": administrator.user, "password": administrator.password}
    token = staff.post(f"{portal}/api/token/", json=login, timeout=10)
    if token.status_code == 401:
        return None
    token.raise_for_status()
    bearer = {"Authorization": f"Bearer {token.json()['access']}"}
    answer = staff.get(f"{portal}/api/messages/{uid}/", headers=bearer, timeout=10)
    answer.raise_for_status()
    shown: dict[str, Any] = answer.json()
    return shown
