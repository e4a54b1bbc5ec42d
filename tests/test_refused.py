"""Who is refused, and how: the seed's manual test plan, step 5, through the running system."""

import subprocess

import pytest
import requests

from ingest.tests.malformed import CASES
from tests.running import Installation

pytestmark = pytest.mark.system


def certificate(installation: Installation, name: str, role: str, *options: str) -> tuple[str, str]:
    """Issue a certificate by the command and return its files."""
    folder = installation.home / "people"
    installation.manage("issue_cert", name, "--role", role, "--out", str(folder), *options)
    return str(folder / f"{name}.crt"), str(folder / f"{name}.key")


def as_person(installation: Installation, pair: tuple[str, str] | None) -> requests.Session:
    session = installation.session("")
    session.cert = pair
    return session


def stranger(installation: Installation) -> tuple[str, str]:
    """Make carol: the right identity, signed by a CA of her own."""
    folder = installation.home / "stranger"
    folder.mkdir()
    certificate_file, key = str(folder / "carol.crt"), str(folder / "carol.key")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=carol", "-addext", "subjectAltName=URI:spiffe://msgsys/client/carol"]
    command += ["-addext", "extendedKeyUsage=clientAuth", "-keyout", key, "-out", certificate_file]
    subprocess.run(command, check=True, capture_output=True)
    return certificate_file, key


def test_a_trusted_client_is_served(installation):
    with as_person(installation, certificate(installation, "alice", "client")) as alice:
        assert installation.submit(alice, "hello").status_code == 202


def test_a_revoked_client_is_refused_at_the_handshake_and_on_a_kept_alive_connection(installation):
    pair = certificate(installation, "bob", "client")
    with as_person(installation, pair) as kept, as_person(installation, pair) as fresh:
        assert installation.submit(kept, "before").status_code == 202
        installation.manage("revoke_cert", "bob", "--reason", "key_compromise")
        with pytest.raises(requests.ConnectionError):
            installation.submit(fresh, "after")
        try:
            answer = installation.submit(kept, "after")
        except requests.ConnectionError:
            return  # the server had closed it already, and the client tried again
        assert (answer.status_code, answer.json()["code"]) == (403, "certificate_revoked")


@pytest.mark.parametrize("server", ["ingest", "registry"])
def test_without_a_certificate_there_is_no_connection(server, installation):
    with installation.session("") as nobody, pytest.raises(requests.ConnectionError):
        nobody.get(f"{installation.ready[server]}/healthz", timeout=5)


def test_a_certificate_of_another_ca_is_no_certificate(installation):
    with as_person(installation, stranger(installation)) as carol, pytest.raises(requests.ConnectionError):
        installation.submit(carol, "hello")


def test_a_server_certificate_does_not_make_a_client(installation):
    folder = installation.home / "pki" / "certs"
    pair = str(folder / "portal.crt"), str(folder / "portal.key")
    with as_person(installation, pair) as server, pytest.raises(requests.ConnectionError):
        installation.submit(server, "hello")


@pytest.mark.parametrize(
    ("server", "path", "role"), [("ingest", "submit", "worker"), ("registry", "register", "client")]
)
def test_the_wrong_role_is_told_which_one_it_takes(server, path, role, installation):
    with installation.session(role) as session:
        answer = session.post(f"{installation.ready[server]}/{path}", json={}, timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (403, "role_not_allowed")


def test_malformed_requests_get_a_problem_and_never_a_500(installation):
    with installation.session() as alice:
        for name, (call, status, code, _, _) in CASES.items():
            headers = {"Content-Type": call.content_type} if call.content_type else {}
            answer = alice.request(
                call.method,
                installation.ready["ingest"] + call.path,
                data=call.raw,
                headers={**headers, **dict(call.headers)},
                timeout=5,
            )
            assert (answer.status_code, answer.json()["code"]) == (status, code), name


def test_a_body_over_the_limit_is_refused_before_it_is_read(installation):
    with installation.session() as alice:
        answer = alice.post(f"{installation.ready['ingest']}/submit", data=b"x" * 5_000_000, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
