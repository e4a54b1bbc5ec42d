"""`up` on a home in any state: what is missing is made, what is lost is named, what is running keeps running."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.running import ROOT, Installation, eventually

pytestmark = pytest.mark.system


@pytest.fixture
def prepared(tmp_path):
    """A home that ran once and holds one message."""
    installed = Installation(tmp_path)
    try:
        installed.up()
        eventually(lambda: "Ready." in log(installed), within=20)
        installed.stop("up", signal.SIGINT)
        (tmp_path / "up.test.log").unlink()
        yield installed
    finally:
        installed.stop_all()


def log(installed: Installation) -> str:
    return (installed.home / "up.test.log").read_text()


def refused(installed: Installation, *arguments: str, **environment: str) -> str:
    """Run `up` where it cannot start; return its error, which must be one line and no traceback."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "up", *arguments],
        env={**installed.environment, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_a_second_start_makes_nothing_new_and_keeps_what_there_is(prepared):
    prepared.up("--no-demo")
    eventually(lambda: "Ready." in log(prepared), within=20)
    assert "made" not in log(prepared)
    assert "issued" not in log(prepared)
    password = prepared.ready["admin_password"]
    assert password, "a script can still sign in"
    assert password not in log(prepared), "shown once means once"
    assert len(list(prepared.messages(prepared.staff()))) == 1


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("secrets/keyring.json", "keyring.json is gone"),
        ("secrets/sealing.json", "sealing.json is gone"),
        ("secrets/ca/issuing.key", "issuing"),
    ],
)
def test_a_lost_key_is_named_and_never_made_anew(lost, named, prepared):
    (prepared.home / lost).unlink()
    assert named in refused(prepared)
    assert not (prepared.home / lost).exists()


def test_a_lost_database_beside_ca_keys_is_named(prepared):
    for file in prepared.home.glob("msgsys.sqlite3*"):
        file.unlink()
    assert "root.key exists already" in refused(prepared)


def test_what_can_be_made_anew_is(prepared):
    for name in ("pki/ca.crt", "pki/crl.pem", "pki/certs/worker.crt", "pki/certs/demo.key"):
        (prepared.home / name).unlink()
    prepared.up()
    eventually(lambda: "One message went all the way" in log(prepared), within=20)


def test_a_taken_port_is_named(tmp_path):
    installed = Installation(tmp_path)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", installed.offset + 8001))
        squatter.listen()
        error = refused(installed)
    assert f"{installed.offset + 8001} (ingest)" in error
    assert "--port-offset" in error


def test_a_weak_admin_password_is_refused_in_words(tmp_path):
    error = refused(Installation(tmp_path), ADMIN_PASS="short")
    assert "ADMIN_PASS" in error
    assert "too short" in error


def test_the_administrator_of_the_environment_can_sign_in(tmp_path):
    installed = Installation(tmp_path, {"ADMIN_USER": "ada@example.com", "ADMIN_PASS": "a rather long Passphrase 1"})
    try:
        installed.up("--no-demo")
        assert installed.ready["admin_user"] == "ada@example.com"
        installed.staff().close()
        assert "Passphrase" not in log(installed)
    finally:
        installed.stop_all()


def test_when_up_is_killed_its_children_stop_and_the_next_start_works(prepared):
    prepared.up("--no-demo")
    pids = {role: pid for role, pid in prepared.ready["pids"].items() if role != "valkey"}
    prepared.stop("up", signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids.values()), within=15)
    assert alive(prepared.ready["pids"]["valkey"]), "the queue's server outlives us; the next start takes care of it"
    prepared.up()
    assert "left behind" in log(prepared)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_crashed_process_is_reported_restarted_and_the_ready_file_rewritten(prepared):
    prepared.up("--no-demo")
    old = prepared.ready["pids"]["registry"]
    os.kill(old, signal.SIGKILL)

    def replaced() -> bool:
        prepared.reload()
        return prepared.ready["pids"]["registry"] != old

    eventually(replaced, within=20)
    assert "registry stopped (exit code -9); starting it again in 1 s" in log(prepared)
    assert "Everything is ready again." in log(prepared)
