import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.running import Installation, eventually

pytestmark = pytest.mark.system

CANARY = "xyzzycanary"
NUMBER = "+4915212345678"


@pytest.fixture(scope="module")
def sent(installation: Installation) -> dict:
    """One message, submitted by a real curl, and how it looks in the portal."""
    ready = installation.ready
    body = json.dumps(
        {"sender_number": NUMBER, "message_body": f"the {CANARY} word", "client_reference": CANARY + "ref"}
    )
    command = ["curl", "-sS", "--cacert", ready["ca"], "--cert", ready["client_cert"], "--key", ready["client_key"]]
    command += ["-H", "Content-Type: application/json", "-d", body, "-w", "\n%{http_code}", f"{ready['ingest']}/submit"]
    staff = installation.staff()
    started = time.monotonic()
    answer, status = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rsplit("\n", 1)
    assert status == "202", answer
    uid = json.loads(answer)["id"]

    def shown():
        found = staff.get(f"{ready['portal']}/api/messages/{uid}/", timeout=5)
        return found.json() if found.status_code == 200 else None

    message = eventually(shown, within=5)
    return {**message, "seconds": time.monotonic() - started}


def test_curl_to_portal_takes_less_than_two_seconds(sent):
    assert sent["seconds"] < 2
    assert sent["message_body"] == f"the {CANARY} word"
    assert sent["sender_number"] == NUMBER
    assert sent["client"] == "demo"
    assert sent["status"] == "registered"


def test_the_client_gets_its_status_and_a_signed_receipt(installation, sent):
    with installation.session() as alice:
        answer = alice.get(f"{installation.ready['ingest']}/messages/{sent['id']}", timeout=5)
    assert answer.json()["status"] == "registered"
    assert answer.json()["receipt"].count(".") == 2


def test_nothing_on_disk_in_logs_or_in_metrics_holds_plain_text(installation, sent):
    needles = [text.encode(coding) for text in (CANARY, NUMBER[1:]) for coding in ("utf-8", "utf-16-le")]
    needles += [needle for text in (CANARY, NUMBER[1:]) for needle in _inside_base64(text)]
    files = [path for path in installation.home.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".aof") for path in files)
    assert any(path.suffix == ".sqlite3" for path in files)
    assert any(path.name == "ingest.log" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not any(needle in content for needle in needles), f"{path} holds plain text"
    for role in installation.ready["metrics"]:
        text = installation.metrics(role).encode()
        assert not any(needle in text for needle in needles)


def _inside_base64(text: str) -> list[bytes]:
    """The middle of the text's base64, at each of the three alignments."""
    import base64

    return [base64.b64encode(b"\0" * shift + text.encode())[shift + 2 : -4] for shift in range(3)]


def test_the_row_is_in_the_table_and_sealed(installation, sent):
    with sqlite3.connect(f"file:{installation.ready['database']}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT hex(uid), message_body FROM registry_message").fetchall()
    database.close()
    found = dict(rows)
    body = found[sent["id"].replace("-", "").upper()]
    assert body[0] == 1, "stored form version 1"


def test_state_is_private_to_its_owner(installation, sent):
    for path in (installation.home / "secrets").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    for path in (installation.home / "pki").rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (installation.home / "ready.json").stat().st_mode & 0o077 == 0


def test_no_process_shows_a_secret_on_its_command_line(installation, sent):
    password = re.search(r":([^:@]+)@", installation.ready["redis_url"]).group(1)
    for pid in installation.ready["pids"].values():
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert password not in command_line
        assert installation.ready["admin_password"] not in command_line


def test_metrics_are_visible_to_prometheus_and_to_nobody_else(installation, sent):
    text = installation.metrics("registry")
    assert re.search(r'msgsys_registry_messages_total\{outcome="stored"\} [1-9]', text)
    assert re.search(r'msgsys_ingest_requests_total\{outcome="accepted"\} [1-9]', installation.metrics("ingest"))
    assert re.search(r'msgsys_worker_envelopes_total\{outcome="stored"\} [1-9]', installation.metrics("worker"))
    assert "msgsys_job_last_success_timestamp_seconds" in installation.metrics("jobs")
    assert "django_http_" in installation.metrics("portal")
    with installation.session("client") as alice:
        for url in installation.ready["metrics"].values():
            assert alice.get(url, timeout=5).json()["code"] == "role_not_allowed"


def test_healthz_and_readyz_answer_on_every_server(installation):
    with installation.session("admin") as admin:
        for role in ("ingest", "registry", "portal"):
            for path in ("healthz", "readyz"):
                assert admin.get(f"{installation.ready[role]}/{path}", timeout=5).status_code == 200


def test_ctrl_c_stops_everything_within_ten_seconds(tmp_path):
    installed = Installation(tmp_path)
    try:
        installed.up()
        pids = list(installed.ready["pids"].values())
        eventually(lambda: "One message went all the way" in (tmp_path / "up.test.log").read_text(), within=20)
        installed.stop("up", signal.SIGINT, within=10)
    finally:
        installed.stop_all()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
