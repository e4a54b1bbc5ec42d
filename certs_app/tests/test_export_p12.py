"""export_p12: one file for browsers and Windows, as openssl reads it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certs_app.management import asking
from certs_app.tests.test_commands import mode, refused, run
from conftest import People

PASSWORD = "päss word, with a comma"


@pytest.fixture
def alice(people: People) -> People:
    people.issue("alice", "client")
    (people.folder / "password.txt").write_text(f"{PASSWORD}\nsecond line\n", encoding="utf-8")
    return people


def export(people: People, *arguments: str) -> str:
    return run("export_p12", "alice", "--password-file", str(people.folder / "password.txt"), *arguments)


def openssl(file: Path, *arguments: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    given = ["-passin", "stdin", *arguments]
    command = ["openssl", "pkcs12", "-in", str(file), *given]
    return subprocess.run(command, input=password + "\n", capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("kind", [(), ("--legacy",)])
def test_openssl_reads_the_key_and_the_whole_chain_back(alice: People, kind: tuple[str, ...]) -> None:
    assert "2 CA certificates" in export(alice, *kind)

    read = openssl(alice.folder / "alice.p12", "-nodes")

    assert read.returncode == 0, read.stderr
    pem = read.stdout.encode()
    leaf, issuing, root = x509.load_pem_x509_certificates(pem)
    assert load_pem_private_key(pem, password=None).public_key() == leaf.public_key()
    assert leaf == x509.load_pem_x509_certificate((alice.folder / "alice.crt").read_bytes())
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    assert "friendlyName: alice" in read.stdout


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ((), ["PBES2, PBKDF2, AES-256-CBC, Iteration 600000, PRF hmacWithSHA256", "MAC: sha256"]),
        (("--legacy",), ["pbeWithSHA1And3-KeyTripleDES-CBC", "MAC: sha1"]),
    ],
)
def test_the_encryption_is_the_one_that_was_asked_for(alice: People, kind: tuple[str, ...], said: list[str]) -> None:
    export(alice, *kind)

    info = openssl(alice.folder / "alice.p12", "-info", "-noout").stderr

    assert all(line in info for line in said), info


def test_the_file_is_private_and_useless_without_its_password(alice: People) -> None:
    export(alice)

    file = alice.folder / "alice.p12"
    assert mode(file) == 0o600
    assert "invalid password" in openssl(file, "-noout", password="wrong").stderr
    assert b"PRIVATE KEY" not in file.read_bytes()


def test_a_file_that_is_there_stays_unless_forced(alice: People) -> None:
    file = alice.folder / "alice.p12"
    file.write_bytes(b"something else")
    asked = ["alice", "--password-file", str(alice.folder / "password.txt")]

    assert "not overwritten" in refused("export_p12", *asked)
    assert file.read_bytes() == b"something else"

    export(alice, "--force")
    assert openssl(file, "-noout").returncode == 0
    assert mode(file) == 0o600


def test_it_can_go_to_another_place(alice: People, tmp_path: Path) -> None:
    export(alice, "--out", str(tmp_path / "for alice" / "browser.p12"))

    assert openssl(tmp_path / "for alice" / "browser.p12", "-noout").returncode == 0


def test_the_password_is_asked_for_twice(alice: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    typed = iter([PASSWORD, PASSWORD, PASSWORD, "something else"])
    prompts: list[str] = []

    def getpass(prompt: str) -> str:
        prompts.append(prompt)
        return next(typed)

    monkeypatch.setattr(asking, "getpass", getpass)

    run("export_p12", "alice")
    assert openssl(alice.folder / "alice.p12", "-noout").returncode == 0
    assert "two passwords differ" in refused("export_p12", "alice", "--force")
    assert len(prompts) == 4


def test_without_a_terminal_nothing_waits_for_one(alice: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)

    assert "--password-file" in refused("export_p12", "alice")


def test_what_cannot_be_exported_is_told(alice: People, tmp_path: Path) -> None:
    asked: list[Any] = ["--password-file", str(tmp_path / "empty.txt")]
    (tmp_path / "empty.txt").write_text("\n")
    assert "password is empty" in refused("export_p12", "alice", *asked)
    assert "password file cannot be read" in refused("export_p12", "alice", "--password-file", str(tmp_path / "none"))
    assert "pairs in" in refused("export_p12", "nobody", *asked)
    assert "is a path" in refused("export_p12", "../alice", *asked)

    alice.issue("bob", "client")
    (alice.folder / "alice.key").write_bytes((alice.folder / "bob.key").read_bytes())
    assert "is not the key of" in refused("export_p12", "alice", *asked)
    (alice.folder / "alice.key").chmod(0o644)
    assert "others could read it" in refused("export_p12", "alice", *asked)
    assert not (alice.folder / "alice.p12").exists()
