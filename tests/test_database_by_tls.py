"""MariaDB with TLS: encrypted or not at all, and for the host's own name only."""

import subprocess
import sys

import pytest

from certs_app.profiles import SERVER
from tests.running import ROOT, Installation

pytestmark = [pytest.mark.system, pytest.mark.mariadb]

CIPHER = "SHOW SESSION STATUS LIKE 'Ssl_cipher'"
ASK = (
    "import django; django.setup(); from django.db import connection; cursor = connection.cursor();"
    f'cursor.execute("{CIPHER}"); print(cursor.fetchone()[1])'
)


@pytest.fixture
def served(people, start_mariadb):
    """Serve a MariaDB that shows a certificate with this address."""

    def start(address):
        people.issue("database", "registry", usage=SERVER, ip=[address])
        files = {"ca": "ca.crt", "cert": "database-server.crt", "key": "database-server.key"}
        return start_mariadb(*(f"--ssl-{name}={people.folder / file}" for name, file in files.items()))

    return start


@pytest.fixture
def cipher(tmp_path, people):
    """Connect under the registry's settings; return the cipher, or what was said in its place."""

    def ask(server, **settings):
        own = {"DATABASE_URL": server.url, "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.registry", **settings}
        installed = Installation(tmp_path / "home", own)
        installed.home.mkdir(exist_ok=True)
        command = [sys.executable, "-c", ASK]
        done = subprocess.run(command, env=installed.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr.splitlines()[-1]}"

    return ask


def test_with_a_ca_file_the_connection_is_encrypted_and_without_it_is_not(served, cipher, people):
    server = served("127.0.0.1")
    assert cipher(server, DATABASE_CA_FILE=str(people.folder / "ca.crt")).startswith("TLS_")
    assert not cipher(server).startswith("TLS_")


def test_a_certificate_of_another_address_is_refused(served, cipher, people):
    said = cipher(served("127.0.0.9"), DATABASE_CA_FILE=str(people.folder / "ca.crt"))
    assert said.startswith("failed:")
    assert "SSL" in said or "TLS" in said


def test_a_certificate_of_another_ca_is_refused(served, cipher, tmp_path):
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-days", "2"]
    other = tmp_path / "other.crt"
    subprocess.run([*command, "-keyout", str(tmp_path / "other.key"), "-out", str(other)], check=True)
    said = cipher(served("127.0.0.1"), DATABASE_CA_FILE=str(other))
    assert said.startswith("failed:")
    assert "SSL" in said or "TLS" in said
