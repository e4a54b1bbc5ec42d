"""A role behind a real nginx: who is calling is what nginx verified, and nobody can say otherwise."""

import http.client
import json
import socket
import ssl
import subprocess
import time

import pytest
import requests

from tests.nginx import PROGRAM, client_of, escaped, loopback_port, refusal, socket_of, watch
from tests.running import Installation, eventually
from tests.test_refused import as_person, certificate, stranger

pytestmark = [pytest.mark.system, pytest.mark.skipif(PROGRAM is None, reason="needs nginx (apt install nginx)")]


def test_a_message_goes_through_both_terminators(behind, alice):
    with as_person(behind, alice) as session:
        answer = behind.submit(session, "through nginx")
    assert answer.status_code == 202
    uid = answer.json()["id"]
    with behind.staff() as staff:
        found = eventually(lambda: [one for one in behind.messages(staff) if one["id"] == uid], within=20)
    assert (found[0]["client"], found[0]["message_body"]) == ("alice", "through nginx")


def test_many_messages_go_through_on_one_connection(behind, alice):
    with as_person(behind, alice) as session:
        assert {behind.submit(session, f"number {number}").status_code for number in range(50)} == {202}


@pytest.mark.parametrize("role", ["ingest", "registry"])
def test_without_a_certificate_there_is_a_problem_and_no_entry(role, behind):
    with behind.session("") as nobody:
        assert refusal(nobody.get(f"{behind.ready[role]}/healthz", timeout=5)) == (403, "certificate_required")


def test_a_certificate_of_another_ca_is_no_certificate(behind):
    with as_person(behind, stranger(behind)) as carol:
        assert refusal(behind.submit(carol, "hello")) == (403, "certificate_required")


def test_a_server_certificate_does_not_make_a_client(behind):
    folder = behind.home / "pki" / "certs"
    with as_person(behind, (str(folder / "portal.crt"), str(folder / "portal.key"))) as server:
        assert refusal(behind.submit(server, "hello")) == (403, "certificate_required")


@pytest.mark.parametrize(
    ("server", "path", "role"), [("ingest", "submit", "worker"), ("registry", "register", "client")]
)
def test_the_wrong_role_is_told_which_one_it_takes(server, path, role, behind):
    with behind.session(role) as session:
        answer = session.post(f"{behind.ready[server]}/{path}", json={}, timeout=5)
    assert refusal(answer) == (403, "role_not_allowed")


def test_a_revocation_bites_at_once_on_an_open_connection_and_soon_at_nginx(behind):
    pair = certificate(behind, "bob", "client")
    with as_person(behind, pair) as kept:
        assert behind.submit(kept, "before").status_code == 202
        behind.manage("revoke_cert", "bob", "--reason", "key_compromise")
        revoked = time.monotonic()
        # nginx may or may not have reloaded by now: before, it is we who refuse; after, it is nginx.
        assert refusal(behind.submit(kept, "after"))[0] == 403

        def nginx_refuses() -> bool:
            with as_person(behind, pair) as fresh:
                status, code = refusal(behind.submit(fresh, "after"))
            assert status == 403
            return code == "certificate_required"

        eventually(nginx_refuses, within=5)
        print(f"nginx refused {time.monotonic() - revoked:.2f} s after the revocation")


def test_a_revocation_is_checked_at_each_request_though_nginx_knows_nothing_of_it(behind):
    watcher = behind.processes.pop("watcher")
    watcher.terminate()
    assert watcher.wait(5) == 0
    try:
        pair = certificate(behind, "dave", "client")
        with as_person(behind, pair) as kept:
            assert behind.submit(kept, "before").status_code == 202
            behind.manage("revoke_cert", "dave", "--reason", "superseded")
            assert refusal(behind.submit(kept, "after")) == (403, "certificate_revoked")
    finally:
        watch(behind, *watcher.args)


def _submit_with(behind: Installation, session: requests.Session, headers: list[tuple[str, str]]) -> requests.Response:
    """Send a submission whose headers are written as they are, duplicates and all."""
    host, _, port = behind.ready["ingest"].removeprefix("https://").partition(":")
    context = ssl.create_default_context(cafile=behind.ready["ca"])
    context.load_cert_chain(*session.cert)
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=5)
    body = json.dumps({"sender_number": "+4915200000000", "message_body": "who am I"}).encode()
    connection.putrequest("POST", "/submit")
    for name, value in [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers]:
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    result = requests.Response()
    result.status_code, result._content = answer.status, answer.read()
    connection.close()
    return result


SPELLINGS = ["X-SSL-Client-Cert", "X_SSL_Client_Cert", "x-ssl_client-cert", "X-SSL-Client-Verify", "X-SSL-Client-DN"]


def test_a_clients_own_header_never_changes_who_it_is(behind, alice):
    victim = escaped(certificate(behind, "victor", "client")[0])
    token = (behind.home / "secrets" / "ingest_proxy_token").read_text()
    with as_person(behind, alice) as session:
        for value in (victim, f"{token} {victim}", "SUCCESS", "CN=victor"):
            for name in SPELLINGS:
                for times in (1, 2):
                    answer = _submit_with(behind, session, [(name, value)] * times)
                    assert answer.status_code == 202, (name, times, answer.text)
        assert client_of(behind, answer.json()["id"]) == "alice"
    with behind.staff() as staff:
        eventually(lambda: len([1 for one in behind.messages(staff) if one["message_body"] == "who am I"]) == 40, 20)
        assert {one["client"] for one in behind.messages(staff) if one["message_body"] == "who am I"} == {"alice"}


def direct(behind: Installation, role: str, headers: dict[str, str]) -> tuple[int, str]:
    """Call a role past nginx, as another process of this machine would."""
    if role == "ingest":
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(socket_of(behind)))
    else:
        connection = http.client.HTTPConnection("127.0.0.1", loopback_port(behind), timeout=5)
    connection.request("GET", "/healthz", headers={"Host": "localhost", **headers})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body.get("code", "")


@pytest.mark.parametrize("role", ["ingest", "registry"])
def test_past_the_terminator_a_stolen_certificate_needs_the_token(role, behind, alice):
    token = (behind.home / "secrets" / f"{role}_proxy_token").read_text()
    other = {"ingest": "registry", "registry": "ingest"}[role]
    others_token = (behind.home / "secrets" / f"{other}_proxy_token").read_text()
    pem = escaped(alice[0])
    required = (403, "certificate_required")
    for value in (pem, f" {pem}", f"x{token} {pem}", f"{token[:-1]} {pem}", f"{others_token} {pem}", token):
        assert direct(behind, role, {"X-SSL-Client-Cert": value}) == required
    assert direct(behind, role, {}) == required
    assert direct(behind, role, {"X_SSL_Client_Cert": f"{token} {pem}"}) == required
    # And with it: the token is what makes the difference.
    assert direct(behind, role, {"X-SSL-Client-Cert": f"{token} {pem}"})[0] == 200


def openssl(behind: Installation, pair: tuple[str, str], *options: str) -> str:
    port = 8001 + behind.offset
    request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    command = ["openssl", "s_client", "-connect", f"localhost:{port}", "-CAfile", behind.ready["ca"]]
    command += ["-cert", pair[0], "-key", pair[1], "-ign_eof", *options]
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


def test_tls_1_2_is_refused(behind, alice):
    assert "HTTP/1.1 200" in openssl(behind, alice, "-tls1_3")
    said = openssl(behind, alice, "-tls1_2")
    assert "HTTP/1.1" not in said
    assert "alert protocol version" in said


def test_no_session_is_resumed_after_a_revocation(behind, tmp_path):
    pair = certificate(behind, "frank", "client")
    session = tmp_path / "session"
    first = openssl(behind, pair, "-tls1_3", "-sess_out", str(session))
    assert "HTTP/1.1 200" in first
    assert "New, TLSv1.3" in first
    behind.manage("revoke_cert", "frank", "--reason", "key_compromise")
    offered = ("-sess_in", str(session)) if session.exists() else ()
    again = openssl(behind, pair, "-tls1_3", *offered)
    assert "Reused, TLSv1.3" not in again
    assert "HTTP/1.1 200" not in again
    assert "HTTP/1.1 403" in again


def test_a_live_session_is_not_resumed_either(behind, alice, tmp_path):
    session = tmp_path / "session"
    openssl(behind, alice, "-tls1_3", "-sess_out", str(session))
    # Nothing was written when nginx gave no ticket.
    offered = ("-sess_in", str(session)) if session.exists() else ()
    assert "Reused, TLSv1.3" not in openssl(behind, alice, "-tls1_3", *offered)
