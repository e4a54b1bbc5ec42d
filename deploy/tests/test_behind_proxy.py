"""Where a role listens behind a terminator, and that it stops as it should."""

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import waitress
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from deploy import loopback_server
from msgsys_project import environment
from msgsys_project.environment import LocalAddress

posix = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


def read(value: str, monkeypatch: pytest.MonkeyPatch) -> LocalAddress | None:
    monkeypatch.setenv("MSGSYS_TEST_BEHIND_PROXY", value)
    try:
        return environment.local_address("MSGSYS_TEST_BEHIND_PROXY", "")
    finally:
        del environment.DECLARED["MSGSYS_TEST_BEHIND_PROXY"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", None),
        pytest.param("unix:/run/msgsys/ingest.sock", LocalAddress("/run/msgsys/ingest.sock"), marks=posix),
        ("127.0.0.1:9001", LocalAddress("", "127.0.0.1", 9001)),
        ("[::1]:9001", LocalAddress("", "::1", 9001)),
    ],
)
def test_a_terminator_is_listened_for_at(
    value: str, expected: LocalAddress | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(value, monkeypatch) == expected


ELSEWHERE = "0.0.0.0:9001 :9001 9001 192.0.2.1:9001 example.org:9001 127.0.0.1 127.0.0.1:0 127.0.0.1:70000 [::]:9001"
NO_SOCKETS = ("unix:relative.sock", "unix:", "unix:/a b.sock", "unix:/a;b.sock", f"unix:/{'x' * 107}", "/run/a.sock")


@pytest.mark.parametrize("value", [*ELSEWHERE.split(), *NO_SOCKETS])
def test_nobody_outside_this_machine_may_speak_for_the_terminator(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImproperlyConfigured, match="MSGSYS_TEST_BEHIND_PROXY"):
        read(value, monkeypatch)


@pytest.mark.parametrize(
    ("token", "expected"),
    [("", ["msgsys.E111"]), ("short", ["msgsys.E111"]), ("x" * 32 + " ", ["msgsys.E111"]), ("x" * 32, [])],
)
def test_the_token_is_checked_at_the_start(token: str, expected: list[str], settings: Any) -> None:
    settings.ROLE, settings.BEHIND_PROXY, settings.PROXY_TOKEN = "ingest", LocalAddress("", "127.0.0.1", 9001), token
    assert [message.id for message in run_checks(tags=["certificates"]) if message.id == "msgsys.E111"] == expected


@posix
def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    from deploy.unix_server import listen

    path = tmp_path / "new" / "ingest.sock"
    listen(path).close()
    with listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@posix
def test_a_socket_that_is_served_is_left_alone(tmp_path: Path) -> None:
    from deploy.unix_server import listen

    path = tmp_path / "ingest.sock"
    with listen(path), pytest.raises(CommandError, match="served already"):
        listen(path)


@posix
def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    from deploy.unix_server import listen

    path = tmp_path / "ingest.sock"
    path.write_text("precious")
    with pytest.raises(CommandError, match="not a socket"):
        listen(path)
    assert path.read_text() == "precious"


def test_waitress_ends_what_is_under_way_before_it_stops() -> None:
    entered = threading.Event()

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        entered.set()
        time.sleep(0.5)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"done"]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = waitress.create_server(slow, **loopback_server.options(LocalAddress("", "127.0.0.1", port)))
    stop = threading.Event()
    thread = threading.Thread(target=loopback_server.run_until, args=(server, stop))
    thread.start()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert entered.wait(5)
        stop.set()
        with client.makefile("rb") as answer:
            assert answer.read().endswith(b"done")
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_under_gunicorn_nothing_else_configures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("gunicorn does not run here")
    from deploy.unix_server import _Gunicorn

    monkeypatch.setenv("WEB_CONCURRENCY", "7")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--bind 0.0.0.0:8000")
    made = _Gunicorn(socket.socket(socket.AF_UNIX), lambda: None).cfg
    assert made.workers == 1
    assert all(isinstance(address, int) for address in made.address)


def test_the_servers_are_imported_only_where_they_run() -> None:
    """On Windows there is no gunicorn: nothing that `serve` imports may need it."""
    script = "import sys; sys.modules['gunicorn'] = None; import deploy.roles; import deploy.loopback_server"
    environment_of_role = {"DJANGO_SETTINGS_MODULE": "msgsys_project.settings.test", "PYTHONPATH": "."}
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, **environment_of_role})
