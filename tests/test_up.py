"""`up` on a home in any state: what is missing is made, what is lost is named, what is running keeps running."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, Installation, eventually, free_offset

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


def fails(installed: Installation, *arguments: str, **environment: str) -> str:
    """Run a command that cannot do its work; return its error, which must not be a traceback."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        env={**installed.environment, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def refused(installed: Installation, *arguments: str, command: str = "up", **environment: str) -> str:
    """As `fails`, in one line."""
    error = fails(installed, command, *arguments, **environment)
    assert len(error.strip().splitlines()) == 1, error
    return error


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
        ("secrets/ca/clients.key", "clients"),
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


def test_a_lost_folder_of_public_files_is_made_anew_and_what_was_sealed_stays_readable(prepared):
    sealing = (prepared.home / "pki" / "sealing.json").read_bytes()
    shutil.rmtree(prepared.home / "pki")
    prepared.up()
    eventually(lambda: "One message went all the way" in log(prepared), within=20)
    assert (prepared.home / "pki" / "sealing.json").read_bytes() == sealing
    assert len(list(prepared.messages(prepared.staff()))) == 2


def test_a_home_runs_once_whatever_the_ports(prepared):
    prepared.up("--no-demo")
    for offset in (prepared.offset, free_offset()):
        error = refused(prepared, "--port-offset", str(offset))
        assert f"running already in {prepared.home}" in error
    assert all(alive(pid) for pid in prepared.ready["pids"].values()), "the second start leaves the first alone"
    with prepared.session() as client:
        assert prepared.submit(client, "still here").status_code == 202


def test_a_valkey_left_on_other_ports_is_named_and_its_file_not_shared(prepared):
    prepared.up("--no-demo")
    pids = dict(prepared.ready["pids"])
    left = pids.pop("valkey")
    prepared.stop("up", signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids.values()), within=15)
    try:
        assert f"port {prepared.offset + 6390}" in refused(prepared, "--port-offset", str(free_offset()))
    finally:
        os.kill(left, signal.SIGTERM)


def test_a_valkey_that_somebody_uses_is_not_shut_down(prepared):
    prepared.up("--no-demo")
    pids = prepared.ready["pids"]
    (prepared.home / "up.lock").unlink()
    assert "(valkey)" in refused(prepared)
    assert alive(pids["valkey"])


def test_the_ca_works_before_up_ever_ran(tmp_path):
    fresh, out = Installation(tmp_path / "not" / "there"), tmp_path / "out"
    fresh.manage("migrate")
    fresh.manage("init_ca")
    fresh.manage("issue_cert", "alice", "--role", "client", "--out", str(out))
    assert sorted(file.name for file in out.iterdir()) == ["alice.crt", "alice.key", "ca.crt"]
    assert "alice" in fresh.manage("list_certs").stdout
    fresh.manage("revoke_cert", "alice")
    fresh.manage("publish_crl")
    try:
        fresh.up()
        assert "alice" in fresh.manage("list_certs").stdout
    finally:
        fresh.stop_all()


@pytest.mark.parametrize("home", ["", "missing"])
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("init_ca", []),
        ("list_certs", ["--live"]),
        ("issue_cert", ["alice", "--role", "client"]),
        ("revoke_cert", ["alice"]),
        ("publish_crl", []),
    ],
)
def test_without_tables_the_ca_commands_say_what_makes_them(command, arguments, home, tmp_path):
    assert "manage.py migrate" in refused(Installation(tmp_path / home), *arguments, command=command)


@pytest.mark.parametrize("offset", ["abc", "60000", "-5"])
def test_a_port_offset_that_cannot_be_is_told(offset, tmp_path):
    error = refused(Installation(tmp_path), "--port-offset", offset)
    assert "PORT_OFFSET" in error
    assert offset in error


def test_a_port_that_cannot_be_is_named(tmp_path):
    error = refused(Installation(tmp_path), "--port-offset", "40000", MSGSYS_PORTAL_PORT="30000")
    assert "70000 (portal)" in error


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert str(tmp_path / "file" / "home") in refused(Installation(tmp_path), "--home", f"{tmp_path}/file/home")


def test_a_damaged_database_is_named(tmp_path):
    (tmp_path / "msgsys.sqlite3").write_bytes(b"no database at all" * 1000)
    error = refused(Installation(tmp_path))
    assert "msgsys.sqlite3" in error
    assert "restore" in error


def test_an_empty_secret_is_made_anew(prepared):
    for name in ("redis_password", "jwt_secret", "django_secret_key"):
        (prepared.home / "secrets" / name).write_text("\n")
    prepared.up()
    assert len((prepared.home / "secrets" / "redis_password").read_text()) > 40
    eventually(lambda: "One message went all the way" in log(prepared), within=20)


def test_a_process_that_cannot_start_says_why_at_once(tmp_path):
    error = fails(Installation(tmp_path), "up", MSGSYS_INGEST_CERT=str(tmp_path / "nowhere.crt"))
    assert "ingest stopped at its start" in error
    assert "nowhere.crt cannot be read" in error
    assert str(tmp_path / "logs" / "ingest.stderr.log") in error


def test_what_is_to_be_pasted_survives_a_space_in_the_home(tmp_path):
    installed = Installation(tmp_path / "a home")
    try:
        installed.up("--no-demo")
        eventually(lambda: "Ready." in log(installed), within=20)
        pasted = log(installed).partition("Submit ")[2].partition("\nLogs")[0].replace("\\\n", " ")
        words = shlex.split(pasted)
        for option in ("--cacert", "--cert", "--key"):
            assert Path(words[words.index(option) + 1]).is_file()
    finally:
        installed.stop_all()


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


def test_another_administrator_of_the_environment_is_not_invented(prepared):
    prepared.settings |= {"ADMIN_USER": "ada@example.com", "ADMIN_PASS": "a rather long Passphrase 1"}
    prepared.up("--no-demo")
    assert prepared.ready["admin_user"] == "admin@example.com"
    prepared.staff().close()
    eventually(lambda: "Ready." in log(prepared), within=20)
    assert "admin@example.com exists already; manage.py create_staff makes more" in log(prepared)
    assert str(prepared.home / "secrets" / "admin_password") in log(prepared)


def test_a_password_that_opens_nothing_is_not_handed_out(prepared):
    (prepared.home / "secrets" / "admin_password").write_text("of another installation")
    prepared.settings["ADMIN_PASS"] = "a rather long Passphrase 1"
    prepared.up()
    assert prepared.ready["admin_password"] is None
    assert "ADMIN_PASS is not the password of admin@example.com" in log(prepared)
    eventually(lambda: "Ready." in log(prepared), within=20)


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
