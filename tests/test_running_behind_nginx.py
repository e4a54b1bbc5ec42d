"""Behind a real nginx, processes, sockets, limits and logs are as they should be; waitress and the portal as well."""

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
import requests

from tests.nginx import PROGRAM, client_of, escaped, is_healthy, refusal, socket_of
from tests.running import Installation, eventually
from tests.test_refused import as_person

pytestmark = [pytest.mark.system, pytest.mark.skipif(PROGRAM is None, reason="needs nginx (apt install nginx)")]


def test_health_is_asked_through_the_terminator(behind):
    assert is_healthy(behind, "ingest")
    assert is_healthy(behind, "registry")


def test_the_metrics_are_those_of_the_process_that_serves(behind, alice):
    def accepted() -> float:
        found = re.search(
            r'^msgsys_ingest_requests_total\{outcome="accepted"\} (.+)$', behind.metrics("ingest"), re.MULTILINE
        )
        return float(found[1]) if found else 0.0

    before = accepted()
    with as_person(behind, alice) as session:
        behind.submit(session, "counted")
    assert accepted() == before + 1


def test_plain_http_is_refused(behind):
    url = behind.ready["ingest"].replace("https://", "http://")
    with behind.session("") as nobody:
        assert refusal(nobody.get(f"{url}/healthz", timeout=5)) == (403, "certificate_required")


def test_the_socket_is_for_its_owner_and_group(behind):
    mode = socket_of(behind).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_signals_by_which_gunicorn_is_configured_anew_end_nothing(behind):
    for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        behind.processes["ingest"].send_signal(number)
    time.sleep(1)
    assert behind.processes["ingest"].poll() is None
    with behind.session() as alice:
        assert behind.submit(alice, "still here").status_code == 202


def test_ingest_listens_on_no_port_of_its_own_but_the_metrics(behind):
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout if _has_ss() else ""
    if not listening:
        pytest.skip("needs ss (iproute2)")
    pid = behind.processes["ingest"].pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = [line for line in listening.splitlines() if any(f"pid={one}," in line for one in (str(pid), *children))]
    assert [line.split()[3].rpartition(":")[2] for line in own] == [str(9101 + behind.offset)]


def _has_ss() -> bool:
    return shutil.which("ss") is not None


@pytest.mark.parametrize("role", ["ingest", "registry"])
def test_a_body_over_the_limit_is_a_problem(role, behind):
    with behind.session("client") as session:
        answer = session.post(f"{behind.ready[role]}/submit", data=b"x" * 5_000_000, timeout=10)
    assert refusal(answer) == (413, "too_large")


def test_endless_headers_are_a_problem(behind):
    with behind.session("client") as session:
        answer = session.get(f"{behind.ready['ingest']}/healthz", headers={"X-Long": "x" * 50_000}, timeout=5)
    assert answer.status_code in (400, 431)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_no_log_of_nginx_has_a_token_a_certificate_or_a_body(behind, alice):
    with as_person(behind, alice) as session:
        behind.submit(session, "canary-4711")

    def written() -> str:
        return "".join(file.read_text() for file in (behind.home / "logs").glob("nginx-*"))

    eventually(lambda: "POST /submit 202" in written(), within=5)
    secrets = [(behind.home / "secrets" / f"{role}_proxy_token").read_text() for role in ("ingest", "registry")]
    for secret in (*secrets, "canary-4711", "BEGIN", "+4915200000000"):
        assert secret not in written()


def test_the_configuration_is_private(behind):
    assert stat.S_IMODE((behind.home / "nginx-ingest.conf").stat().st_mode) == 0o600


def test_an_ingest_that_is_away_is_a_temporary_problem(behind):
    process = behind.processes.pop("ingest")
    process.terminate()
    started = time.monotonic()
    assert process.wait(10) == 0
    assert time.monotonic() - started < 5
    assert not socket_of(behind).exists()
    with behind.session("client") as session:
        answer = behind.submit(session, "anybody there?")
    assert refusal(answer) == (503, "overloaded")
    assert answer.headers["Retry-After"] == "1"
    behind.spawn("ingest", *process.args)
    eventually(lambda: is_healthy(behind, "ingest"), within=60)


def test_a_killed_ingest_is_replaced_at_its_socket(behind):
    process = behind.processes.pop("ingest")
    process.kill()
    process.wait()
    assert socket_of(behind).exists()
    # Its worker sees within two seconds that gunicorn is gone.
    again = eventually(lambda: _served_again(behind, process.args), within=60)
    assert again


def _served_again(behind: Installation, command: list[str]) -> bool:
    """Start one; it ends by itself while another still has the socket."""
    process = behind.spawn("ingest", *command)
    # Longer than the orphan answers.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(4)
    eventually(lambda: process.poll() is not None or is_healthy(behind, "ingest"), within=60)
    return process.poll() is None


def test_a_handshake_that_does_not_end_is_ended(behind):
    with socket.create_connection(("127.0.0.1", 8001 + behind.offset), timeout=6) as plain:
        plain.sendall(b"\x16\x03\x01\x02\x00")
        assert plain.recv(1) == b""


def test_workers_of_one_role_share_its_socket_and_one_of_them_its_metrics(behind):
    process = behind.processes.pop("ingest")
    process.terminate()
    process.wait(10)
    behind.settings["MSGSYS_PROXY_WORKERS"] = "2"
    try:
        started = behind.spawn("ingest", *process.args)
        for _ in range(2):
            eventually(lambda: is_healthy(behind, "ingest"), within=60)
            eventually(lambda: _has_metrics(behind), within=60)
            # One of them may serve before the other is there.
            workers = eventually(lambda: _children(started.pid, 2), within=60)
            os.kill(int(workers[0]), signal.SIGKILL)
        eventually(lambda: _has_metrics(behind), within=60)
    finally:
        del behind.settings["MSGSYS_PROXY_WORKERS"]
        behind.stop("ingest")
        behind.spawn("ingest", *process.args)
        eventually(lambda: is_healthy(behind, "ingest"), within=60)


def _children(pid: int, count: int) -> list[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return children if len(children) == count else []


def _has_metrics(behind: Installation) -> bool:
    try:
        return bool(behind.metrics("ingest"))
    except requests.ConnectionError:
        return False


def test_where_only_wsgi_runs_ingest_takes_messages_as_well(behind, alice):
    process = behind.processes.pop("ingest")
    process.terminate()
    process.wait(10)
    unix, port = behind.settings["MSGSYS_INGEST_BEHIND_PROXY"], 9202 + behind.offset
    behind.settings["MSGSYS_INGEST_BEHIND_PROXY"] = f"127.0.0.1:{port}"
    token = (behind.home / "secrets" / "ingest_proxy_token").read_text()
    try:
        behind.spawn("ingest", *process.args)
        eventually(lambda: _takes_connections(port), within=60)
        url = f"http://127.0.0.1:{port}/submit"
        message = {"sender_number": "+4915200000000", "message_body": "through waitress"}
        with requests.Session() as local:
            local.trust_env = False
            assert refusal(local.post(url, json=message, timeout=5)) == (403, "certificate_required")
            headers = {"X-SSL-Client-Cert": f"{token} {escaped(alice[0])}"}
            answer = local.post(url, json=message, headers=headers, timeout=5)
            assert answer.status_code == 202, answer.text
        assert client_of(behind, answer.json()["id"]) == "alice"
        started = time.monotonic()
        assert behind.stop("ingest") == 0
        assert time.monotonic() - started < 5
    finally:
        behind.settings["MSGSYS_INGEST_BEHIND_PROXY"] = unix
        behind.spawn("ingest", *process.args)
        eventually(lambda: is_healthy(behind, "ingest"), within=60)


def _takes_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_staff_sign_in_to_the_portal_with_a_form(behind):
    page = f"{behind.ready['portal']}/login/"
    with behind.session("") as browser:
        shown = browser.get(page, timeout=10)
        assert "max-age" in shown.headers["Strict-Transport-Security"]
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', shown.text)[1]
        fields = {"username": behind.ready["admin_user"], "password": behind.ready["admin_password"]}
        origin = {"Origin": behind.ready["portal"], "Referer": page}
        answer = browser.post(page, {**fields, "csrfmiddlewaretoken": token}, headers=origin, timeout=10)
        assert answer.status_code == 200
        assert answer.url == f"{behind.ready['portal']}/"


class From(requests.adapters.HTTPAdapter):
    """Connects from another of this machine's addresses."""

    def init_poolmanager(self, *args, **options):
        super().init_poolmanager(*args, **options, source_address=("127.0.0.2", 0))


def test_guesses_are_counted_by_the_address_that_nginx_saw(behind):
    url = f"{behind.ready['portal']}/api/token/"

    def guess(session: requests.Session, number: int) -> int:
        fields = {"username": f"nobody-{number}", "password": "x"}
        return session.post(url, json=fields, headers={"X-Real-IP": f"192.0.2.{number}"}, timeout=10).status_code

    with behind.session("") as guesser, behind.session("") as other:
        guesser.mount("https://", From())
        assert [guess(guesser, number) for number in range(11)] == [401] * 10 + [429]
        assert guess(other, 99) == 401
