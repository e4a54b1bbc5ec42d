"""A receipt of the real system, verified in each of the ways that docs/receipts.md describes."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from msgsys_project.environment import BASE_DIR
from tests.running import Installation, eventually

pytestmark = pytest.mark.system

MESSAGE = {"sender_number": "+4915212345678", "message_body": 'Grüße "aus" Tallinn \\ ✓\n\x7f'}


def blocks(kind: str) -> list[str]:
    text = (BASE_DIR / "docs" / "receipts.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a sender keeps: the receipt, the message, ca.crt, and the lists of today."""
    kept = tmp_path_factory.mktemp("kept")
    with installation.session() as alice:
        ingest = installation.ready["ingest"]
        accepted = alice.post(f"{ingest}/submit", json=MESSAGE, timeout=5)
        assert accepted.status_code == 202, accepted.text

        def receipt() -> str:
            return alice.get(f"{ingest}{accepted.headers['Location']}", timeout=5).json().get("receipt", "")

        (kept / "receipt.jws").write_text(eventually(receipt, within=20) + "\n")
    (kept / "message.json").write_text(json.dumps(MESSAGE), encoding="utf-8")
    (kept / "ca.crt").write_bytes(Path(installation.ready["ca"]).read_bytes())
    (kept / "crl.pem").write_bytes((installation.home / "pki" / "crl.pem").read_bytes())
    return kept


@pytest.fixture
def tampered(folder: Path, tmp_path: Path) -> Path:
    """The same with another client in the receipt."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    header, claims, signature = (folder / "receipt.jws").read_text().strip().split(".")
    plain = base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)).replace(b'"demo"', b'"eve"')
    forged = base64.urlsafe_b64encode(plain).rstrip(b"=").decode()
    (tmp_path / "receipt.jws").write_text(f"{header}.{forged}.{signature}\n")
    return tmp_path


def shell(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, encoding="utf-8", timeout=60)


def python(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, encoding="utf-8", timeout=60)


def test_the_openssl_way_verifies_it(folder):
    (script,) = blocks("bash")
    done = shell(script, folder)
    assert "Verified OK" in done.stdout, done.stdout + done.stderr
    assert "signer.pem: OK" in done.stdout
    assert "spiffe://msgsys/registry/registry" in done.stdout
    assert '"client":"demo"' in done.stdout


def test_the_openssl_way_sees_a_change_and_another_ca(folder, tampered):
    (script,) = blocks("bash")
    assert "Verification failure" in shell(script, tampered).stdout
    stranger = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=carol -out ca.crt -keyout k"
    )
    assert shell(stranger, tampered).returncode == 0
    (tampered / "receipt.jws").write_bytes((folder / "receipt.jws").read_bytes())
    done = shell(script, tampered)
    assert "Verified OK" in done.stdout
    assert "signer.pem: OK" not in done.stdout
    assert python(blocks("python")[0], tampered).returncode != 0


def test_the_python_way_verifies_it(folder):
    verify, content = blocks("python")
    done = python(verify, folder)
    assert done.returncode == 0, done.stderr
    digest = python(content, folder).stdout.strip()
    assert f"'content_sha256': '{digest}'" in done.stdout


def test_the_python_way_sees_a_change(tampered):
    done = python(blocks("python")[0], tampered)
    assert done.returncode != 0
    assert "InvalidSignature" in done.stderr


def documented(installation: Installation, folder: Path) -> "subprocess.CompletedProcess[str]":
    (line,) = blocks("text")
    arguments = [str(folder / part) if (folder / part).is_file() else part for part in line.split()[1:]]
    return installation.manage(*arguments, check=False)


def test_the_documented_command_verifies_it_and_compares_the_message(installation, folder, tampered):
    done = documented(installation, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Proven" in done.stdout
    assert "the very same" in done.stdout
    refused = documented(installation, tampered)
    assert refused.returncode == 1
    assert "was changed" in refused.stderr


def test_the_command_needs_no_database(installation, folder, monkeypatch):
    monkeypatch.setitem(installation.settings, "DATABASE_URL", "mysql://nobody:none@127.0.0.1:9/none")
    assert documented(installation, folder).returncode == 0
