"""Ingest on Windows: uvicorn with direct TLS, without uvloop."""

import json
import subprocess

import pytest

from tests.running import Installation, eventually
from tests.windows.conftest import Windows

pytestmark = pytest.mark.windows


@pytest.fixture
def ingest(windows: Windows) -> Windows:
    windows.serve("ingest")
    listening = f"port={8001 + windows.house.offset}"
    eventually(lambda: windows.has_logged("ingest", listening), within=60)
    return windows


def curl(house: Installation, *more: str) -> tuple[int, dict[str, str], dict]:
    """POST a message as a field system would; return status, headers and document."""
    certificate = ["--cert", house.ready["client_cert"], "--key", house.ready["client_key"]]
    message = json.dumps({"sender_number": "+4915200000000", "message_body": "Grüße aus dem Fenster"})
    content = ["-H", "Content-Type: application/json", "-d", message]
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", "10", "--cacert", house.ready["ca"]]
    answer = subprocess.run(
        [*command, *certificate, *content, *more, f"{house.ready['ingest']}/submit"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    head, _, body = answer.partition("\n\n")
    status, *lines = head.splitlines()
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), json.loads(body)


def test_it_accepts_a_message_once_and_the_message_is_stored(ingest, house):
    status, _, first = curl(house, "-H", "Idempotency-Key: window-1")
    assert (status, first["status"]) == (202, "queued")
    status, headers, again = curl(house, "-H", "Idempotency-Key: window-1")
    assert (status, again["id"], headers["idempotency-replayed"]) == (202, first["id"], "true")
    house.serve("worker")
    try:
        staff = house.staff()
        eventually(lambda: first["id"] in [one["id"] for one in house.messages(staff)], within=30, every=0.3)
    finally:
        house.stop("worker")
    (stored,) = [one for one in house.messages(house.staff()) if one["id"] == first["id"]]
    assert stored["message_body"] == "Grüße aus dem Fenster"
    assert ingest.stop("ingest") == 0


def test_it_wrote_down_what_it_accepted_and_its_books_balance(ingest, house):
    accepted = curl(house)[2]["id"]
    house.serve("worker")
    try:
        staff = house.staff()
        eventually(lambda: accepted in [one["id"] for one in house.messages(staff)], within=30, every=0.3)
    finally:
        house.stop("worker")
    balance = ingest.manage("reconcile")
    assert balance.returncode == 0, balance.stdout + balance.stderr


def test_nobody_without_a_certificate_is_heard(ingest, house):
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--cacert", house.ready["ca"]]
    refused = subprocess.run([*command, f"{house.ready['ingest']}/submit"], capture_output=True, check=False)
    # In TLS 1.3 a client's own handshake is over before it is refused: it sees the alert, or just the end.
    assert (refused.returncode in (52, 56), refused.stdout) == (True, b"")
    eventually(lambda: ingest.has_logged("ingest", "reason=no_certificate"), within=10)
