"""Every port of the running system refuses the same people, and its process says why: in its log and in its metrics."""

import re
import socket
import ssl
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from certs_app.tls import TlsFiles, client_context
from tests.running import ROOT, Installation, eventually, free_offset
from tests.test_refused import certificate, stranger

pytestmark = pytest.mark.system

ROLES = ("ingest", "registry", "worker", "portal", "jobs")
# The port of each process, and the role that is served there but for the portal's, which serves people.
MUTUAL = [*(f"{role} metrics" for role in ROLES), "ingest", "registry"]
EVERY = [*MUTUAL, "portal"]
# X509_V_ERR_HOSTNAME_MISMATCH (openssl/x509_vfy.h)
HOSTNAME_MISMATCH = 62

# What `issue_cert` has no option for: certificates of another day. Each argument is NAME=DAYS from now, for one day.
OF_ANOTHER_DAY = """
import sys, django
django.setup()
from datetime import timedelta
from pathlib import Path
from django.utils import timezone
from certs_app.audit import Actor
from certs_app.pairs import replace_pair
from certs_app.issuing import Request, issue
folder = Path(sys.argv[1])
for name, days in (argument.split("=") for argument in sys.argv[2:]):
    now = timezone.now() + timedelta(days=int(days))
    issued = issue(Request(name, "client", days=1), now, Actor("operator:test"))
    replace_pair(folder / f"{name}.crt", folder / f"{name}.key", issued.chain_pem, issued.key_pem)
"""


@dataclass(frozen=True)
class Strangers:
    """The pairs of those who must not come in: bob is revoked, carol comes from another CA, frank is a server.

    Erin's time is over and grace's has not begun. `sessions`: where bob put what each port gave him to resume by, in
    the days when he was trusted.
    """

    bob: tuple[str, str]
    carol: tuple[str, str]
    frank: tuple[str, str]
    erin: tuple[str, str]
    grace: tuple[str, str]
    sessions: dict[str, Path]


@pytest.fixture(scope="module")
def strangers(installation: Installation) -> Strangers:
    bob = certificate(installation, "bob", "client")
    sessions = {door: installation.home / f"{door}.session" for door in MUTUAL}
    for door, session in sessions.items():
        answer = s_client(url_of(installation, door), bob, installation.ready["ca"], "-sess_out", str(session))
        assert "HTTP/1.1 " in answer, door
    installation.manage("revoke_cert", "bob", "--reason", "key_compromise")
    people = installation.home / "people"
    environment = {**installation.environment, "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.operator"}
    command = [sys.executable, "-c", OF_ANOTHER_DAY, str(people), "erin=-2", "grace=1"]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=60)
    frank = files_of(installation.home / "pki" / "certs" / "portal")
    erin, grace = files_of(people / "erin"), files_of(people / "grace")
    return Strangers(bob, stranger(installation), frank, erin, grace, sessions)


def files_of(stem: Path) -> tuple[str, str]:
    return f"{stem}.crt", f"{stem}.key"


def s_client(url: str, pair: tuple[str, str], ca: str, *options: str) -> str:
    """Ask for a page by `openssl s_client`; return all that it says."""
    address = urllib.parse.urlsplit(url)
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{address.port}", "-servername", "localhost"]
    command += ["-CAfile", ca, "-cert", pair[0], "-key", pair[1], "-ign_eof", *options]
    request = f"GET {address.path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
    done = subprocess.run(command, input=request, capture_output=True, timeout=10, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


@pytest.fixture(scope="module")
def foreign_session(installation: Installation, strangers: Strangers) -> Path:
    """Make a session to offer, at a server that does give tickets."""
    session = installation.home / "foreign.session"
    with ticketing(installation) as url:

        def is_given() -> bool:
            s_client(url, strangers.bob, installation.ready["ca"], "-sess_out", str(session))
            return session.exists()

        eventually(is_given, within=5)
        again = s_client(url, strangers.bob, installation.ready["ca"], "-sess_in", str(session))
        assert "Reused, " in again, "it is one that can be resumed, where it comes from"
    return session


@contextmanager
def ticketing(installation: Installation) -> Iterator[str]:
    certificate_file, key = files_of(installation.home / "pki" / "certs" / "ingest")
    port = 8000 + free_offset()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificate_file, "-key", key]
    process = subprocess.Popen([*command, "-tls1_3", "-www", "-quiet"], stdin=subprocess.DEVNULL)
    try:
        yield f"https://localhost:{port}/"
    finally:
        process.terminate()
        process.wait(5)


def url_of(installation: Installation, door: str) -> str:
    role, _, metrics = door.partition(" ")
    return installation.ready["metrics"][role] if metrics else f"{installation.ready[role]}/healthz"


def connects(installation: Installation, door: str, pair: tuple[str, str] | None, *options: str) -> bool:
    """Tell whether curl gets any HTTP answer at all."""
    shown = ["--cert", pair[0], "--key", pair[1]] if pair else []
    command = ["curl", "-q", "--silent", "--noproxy", "*", "--max-time", "10", "--cacert", installation.ready["ca"]]
    command += [*shown, *options, "--output", "/dev/null", url_of(installation, door)]
    return subprocess.run(command, timeout=20, check=False).returncode == 0


class Told:
    """What a door's process has told of refused handshakes since this was made."""

    def __init__(self, installation: Installation, door: str, reason: str) -> None:
        self.installation, self.role, self.reason = installation, door.partition(" ")[0], reason
        self.log = Path(installation.home / "logs" / f"{self.role}.log")
        self.seen = self.log.stat().st_size
        self.counted = self.count()

    def count(self) -> float:
        name = re.escape(f'msgsys_tls_handshakes_refused_total{{reason="{self.reason}"}}')
        found = re.search(rf"^{name} (\S+)$", self.installation.metrics(self.role), re.MULTILINE)
        assert found, f"{self.role} does not count {self.reason}"
        return float(found[1])

    def check(self, serial_number: str) -> None:
        line = f"reason={self.reason} serial_number={serial_number} "

        def logged() -> bool:
            news = self.log.read_bytes()[self.seen :].decode()
            return any("a handshake was refused" in one and line in one for one in news.splitlines())

        logged.__name__ = f"{self.role}'s log: {line}"
        eventually(logged, within=5)
        assert self.count() >= self.counted + 1


def serial_number(pair: tuple[str, str]) -> str:
    return f"{x509.load_pem_x509_certificate(Path(pair[0]).read_bytes()).serial_number:x}"


@pytest.mark.parametrize("door", MUTUAL)
def test_strangers_are_refused_at_the_handshake(door, installation, strangers):
    assert connects(installation, door, (installation.ready["client_cert"], installation.ready["client_key"]))
    for shown, reason in (
        (None, "no_certificate"),
        (strangers.bob, "revoked"),
        (strangers.carol, "untrusted"),
        (strangers.frank, "wrong_purpose"),
        (strangers.erin, "expired"),
        (strangers.grace, "not_yet_valid"),
    ):
        told = Told(installation, door, reason)
        assert not connects(installation, door, shown), reason
        told.check(serial_number(shown) if shown else "")


@pytest.mark.parametrize("door", MUTUAL)
def test_a_revoked_client_resumes_no_session(door, installation, strangers, foreign_session):
    assert not strangers.sessions[door].exists(), "with nothing given, there is nothing to resume"
    told = Told(installation, door, "revoked")

    answer = s_client(
        url_of(installation, door), strangers.bob, installation.ready["ca"], "-sess_in", str(foreign_session)
    )

    assert "HTTP/1.1 " not in answer
    assert "Reused, " not in answer
    told.check(serial_number(strangers.bob))


@pytest.mark.parametrize("door", EVERY)
def test_a_client_refuses_the_right_role_at_the_wrong_host(door, installation):
    """The server is the one that was meant, but not under this name: an attacker may have led the client there."""
    own = (installation.ready["client_cert"], installation.ready["client_key"])
    pki = installation.home / "pki"
    context = client_context(TlsFiles(*map(Path, own), pki / "ca.crt", pki / "crl.pem"))
    port = urllib.parse.urlsplit(url_of(installation, door)).port
    told = Told(installation, door, "other")
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        pytest.raises(ssl.SSLCertVerificationError) as refusal,
    ):
        context.wrap_socket(plain, server_hostname="elsewhere.example.org")
    assert refusal.value.verify_code == HOSTNAME_MISMATCH
    # The client's word for it is an alert: the server knows no more than that it was not believed.
    told.check("")


@pytest.mark.parametrize("door", EVERY)
def test_older_tls_is_refused(door, installation):
    told = Told(installation, door, "tls_version")
    assert not connects(installation, door, good_pair(installation, door), "--tls-max", "1.2")
    told.check("")


@pytest.mark.parametrize("door", EVERY)
@pytest.mark.parametrize("name", ["X-SSL-Client-Cert", "x_ssl_client_cert"])
def test_nobody_is_believed_a_header(name, door, installation):
    pair = good_pair(installation, door)
    with installation.session("") as session:
        session.cert = pair
        answer = session.get(url_of(installation, door), headers={name: "-----BEGIN%20CERTIFICATE-----"}, timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (400, "header_not_allowed")


@pytest.mark.parametrize("door", MUTUAL)
def test_the_wrong_role_is_told_so_after_the_handshake(door, installation):
    method, path, role = {
        "ingest": ("POST", "/submit", "worker"),
        "registry": ("POST", "/register", "client"),
    }.get(door, ("GET", "/metrics", "client"))
    url = urllib.parse.urljoin(url_of(installation, door), path)
    with installation.session(role) as session:
        answer = session.request(method, url, json={} if method == "POST" else None, timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (403, "role_not_allowed")


def test_a_parked_connection_is_closed_within_a_second_of_its_revocation(installation):
    pair = certificate(installation, "dave", "client")
    context = ssl.create_default_context(cafile=installation.ready["ca"])
    context.load_cert_chain(*pair)
    port = urllib.parse.urlsplit(installation.ready["ingest"]).port
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += tls.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")

        installation.manage("revoke_cert", "dave", "--reason", "superseded")

        tls.settimeout(1)
        assert tls.recv(1) == b"", "closed, with nothing said"
    assert 'msgsys_tls_connections_closed_total{reason="certificate_revoked"} 1.0' in installation.metrics("ingest")


def good_pair(installation: Installation, door: str) -> tuple[str, str] | None:
    return None if door == "portal" else (installation.ready["prometheus_cert"], installation.ready["prometheus_key"])
