"""The CA's endpoints on the registry: who may have what issued, revoked and renewed."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from django.test import Client
from django.utils import timezone

from certs_app.admission import PEER
from certs_app.ca_keys import path_of
from certs_app.identity import ROLES, Peer
from certs_app.issuing import Request, issue
from certs_app.models import AuditEvent, Certificate, Crl, Issuer
from certs_app.profiles import MAY_ISSUE, MAY_REVOKE
from certs_app.revocation import pem_blocks
from conftest import People


def csr(key: Any = None) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


Call = Callable[..., Any]


@pytest.fixture
def post(people: People, client: Client, as_role: Callable[[str], None]) -> Call:
    as_role("registry")

    def go(path: str, peer: Peer, body: Any) -> Any:
        return client.post(path, json.dumps(body), content_type="application/json", **{PEER: peer})

    return go


@pytest.fixture
def get(people: People, client: Client, as_role: Callable[[str], None]) -> Call:
    as_role("registry")
    return lambda path, peer, **headers: client.get(path, headers=headers, **{PEER: peer})


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# --- generate_cert ----------------------------------------------------------------------------------------------------


def test_an_admin_has_a_client_certificate_issued(people: People, post: Call) -> None:
    root = people.peer("root", "admin")
    key = ec.generate_private_key(ec.SECP256R1())

    answer = post("/generate_cert", root, {"name": "pump-7", "role": "client", "csr": csr(key), "days": 30})

    assert answer.status_code == 201
    leaf, issuer = x509.load_pem_x509_certificates(answer.json()["certificate"].encode())
    leaf.verify_directly_issued_by(issuer)
    assert leaf.public_key() == key.public_key()
    row = Certificate.objects.get(serial_number=answer.json()["serial_number"])
    assert (row.role, row.name, row.usage) == ("client", "pump-7", "client")
    event = AuditEvent.objects.get(action="issued", subject="client/pump-7")
    assert (event.actor, event.actor_certificate) == ("admin/root", root.serial_number)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_who_may_have_what_issued_is_the_table(people: People, post: Call, role: str) -> None:
    """Nothing that could stand for a service or for another admin is issued over HTTPS."""
    answer = post("/generate_cert", people.peer("root", "admin"), {"name": "new", "role": role, "csr": csr()})

    allowed = role in MAY_ISSUE["admin"]
    assert answer.status_code == (201 if allowed else 403)
    assert Certificate.objects.filter(name="new").exists() == allowed


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"admin"}))
@pytest.mark.parametrize("path", ["/generate_cert", "/revoke_cert"])
def test_only_admins_come_in(people: People, post: Call, role: str, path: str) -> None:
    victim = people.issue("alice", "client").row
    body = (
        {"serial_number": victim.serial_number} if "revoke" in path else {"name": "x", "role": "client", "csr": csr()}
    )

    assert code(post(path, people.peer("mallory", role), body)) == (403, "role_not_allowed")
    assert Certificate.objects.get(pk=victim.pk).revoked_at is None
    assert not Certificate.objects.filter(name="x").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": 7}, "name"),
        ({"csr": None}, "csr"),
        ({"days": "30"}, "days"),
        ({"ca": True}, "ca"),
        ({"dns": ["localhost"]}, "dns"),
        ({"out": "/etc/passwd"}, "out"),
    ],
)
def test_a_field_that_does_not_fit_is_named(people: People, post: Call, change: dict[str, Any], field: str) -> None:
    body = {"name": "x", "role": "client", "csr": csr(), **change}

    answer = post("/generate_cert", people.peer("root", "admin"), body)

    assert code(answer) == (422, "invalid_request")
    assert answer.json()["errors"][0]["field"] == field


@pytest.mark.parametrize("change", [{"name": "No Name"}, {"csr": "junk"}, {"csr": "x" * 20000}, {"days": 9999}])
def test_a_request_that_breaks_a_rule_is_refused_with_it(people: People, post: Call, change: dict[str, Any]) -> None:
    body = {"name": "x", "role": "client", "csr": csr(), **change}

    assert code(post("/generate_cert", people.peer("root", "admin"), body)) == (422, "invalid_request")


def test_without_its_key_the_ca_says_later_and_names_no_path(people: People, post: Call) -> None:
    root = people.peer("root", "admin")
    path_of(Issuer.CLIENTS).unlink()

    answer = post("/generate_cert", root, {"name": "x", "role": "client", "csr": csr()})

    assert code(answer) == (503, "ca_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert str(people.folder) not in answer.content.decode()


# --- revoke_cert ------------------------------------------------------------------------------------------------------


def test_an_admin_revokes_by_serial_number_and_it_bites_at_once(people: People, post: Call, get: Call) -> None:
    bob = people.peer("bob")
    body = {"serial_number": bob.serial_number.upper(), "reason": "key_compromise"}

    answer = post("/revoke_cert", people.peer("root", "admin"), body)

    assert answer.json() == {"revoked": [{"serial_number": bob.serial_number, "role": "client", "name": "bob"}]}
    assert code(get("/ca.pem", bob)) == (403, "certificate_revoked")
    assert AuditEvent.objects.get(action="revoked").detail == "key_compromise"


def test_an_admin_revokes_all_live_ones_of_a_name(people: People, post: Call) -> None:
    for _ in range(2):
        people.issue("bob", "client")
    root = people.peer("root", "admin")

    assert len(post("/revoke_cert", root, {"name": "bob", "role": "client"}).json()["revoked"]) == 2
    assert post("/revoke_cert", root, {"name": "bob", "role": "client"}).json() == {"revoked": []}


@pytest.mark.parametrize("role", sorted(ROLES))
def test_who_may_have_what_revoked_is_the_table(people: People, post: Call, role: str) -> None:
    root, victim = people.peer("root", "admin"), people.issue("victim", role).row

    answer = post("/revoke_cert", root, {"serial_number": victim.serial_number})

    allowed = role in MAY_REVOKE["admin"]
    assert answer.status_code == (200 if allowed else 403)
    assert Certificate.objects.get(pk=victim.pk).revoked_at is None or allowed


@pytest.mark.parametrize(
    "body", [{}, {"name": "bob"}, {"serial_number": "a1", "name": "bob", "role": "client"}, {"reason": "superseded"}]
)
def test_it_must_be_said_which_one(people: People, post: Call, body: dict[str, str]) -> None:
    assert code(post("/revoke_cert", people.peer("root", "admin"), body)) == (422, "invalid_request")


def test_an_unknown_certificate_and_an_unknown_reason_are_told(people: People, post: Call) -> None:
    root = people.peer("root", "admin")

    assert code(post("/revoke_cert", root, {"serial_number": "abc"})) == (404, "not_found")
    body = {"serial_number": root.serial_number, "reason": "boredom"}
    assert code(post("/revoke_cert", root, body)) == (422, "invalid_request")


# --- renew_cert -------------------------------------------------------------------------------------------------------


def test_a_client_renews_itself_and_the_old_one_stands_until_the_new_one_is_used(
    people: People, post: Call, get: Call
) -> None:
    alice = people.peer("alice")
    old = Certificate.objects.get(serial_number=alice.serial_number)

    answer = post("/renew_cert", alice, {"csr": csr()})

    assert answer.status_code == 201
    new = Certificate.objects.get(serial_number=answer.json()["serial_number"])
    assert (new.role, new.name, new.usage, new.replaces) == ("client", "alice", "client", old)
    old.refresh_from_db()
    assert old.superseded_at is None
    assert get("/ca.pem", alice).status_code == 200

    assert get("/ca.pem", Peer.from_der(bytes(new.der), "msgsys")).status_code == 200

    old.refresh_from_db()
    assert old.superseded_at is not None
    assert AuditEvent.objects.get(action="superseded").subject_certificate == old.serial_number


@pytest.mark.parametrize("usage", ["server", "client"])
def test_a_service_renews_both_of_its_certificates_with_its_client_certificate(
    people: People, post: Call, usage: str
) -> None:
    people.issue("ingest", "ingest", usage="client")
    peer = people.peer("ingest", "ingest")
    other = people.issue("ingest", "ingest", usage=usage, **({"dns": ["in.example.org"]} if usage == "server" else {}))

    answer = post("/renew_cert", peer, {"csr": csr(), "serial_number": other.row.serial_number})

    new = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    old = other.row.certificate
    for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage):
        assert new.extensions.get_extension_for_class(kind).value == old.extensions.get_extension_for_class(kind).value
    body = {"serial_number": answer.json()["serial_number"]}
    assert post("/certificate_in_use", peer, body).status_code == 200
    assert Certificate.objects.get(pk=other.row.pk).superseded_at is not None


def test_nobody_renews_what_belongs_to_somebody_else(people: People, post: Call) -> None:
    alice, other = people.peer("alice"), people.issue("bob", "client").row
    namesake = people.issue("alice", "gateway").row

    for certificate in (other, namesake):
        for path, body in (("/renew_cert", {"csr": csr()}), ("/certificate_in_use", {})):
            answer = post(path, alice, {**body, "serial_number": certificate.serial_number})
            assert code(answer) == (404, "not_found")
    assert not Certificate.objects.exclude(replaces=None).exists()


def test_a_revoked_certificate_renews_nothing(people: People, post: Call) -> None:
    bob = people.peer("bob")
    people.revoke("bob")

    assert code(post("/renew_cert", bob, {"csr": csr()})) == (403, "certificate_revoked")


def test_a_revoked_sibling_is_not_renewed_by_a_live_one(people: People, post: Call) -> None:
    stolen = people.issue("bob", "client").row
    people.revoke("bob", "key_compromise")
    issue(Request("bob", "client"), timezone.now(), People.operator)
    bob = Peer.from_der(bytes(Certificate.objects.latest("id").der), "msgsys")

    answer = post("/renew_cert", bob, {"csr": csr(), "serial_number": stolen.serial_number})

    assert code(answer) == (409, "renewal_refused")


def test_a_superseded_certificate_renews_nothing_so_that_a_stolen_one_dies_out(
    people: People, post: Call, get: Call
) -> None:
    alice = people.peer("alice")
    post("/renew_cert", alice, {"csr": csr()})
    get("/ca.pem", Peer.from_der(bytes(Certificate.objects.latest("id").der), "msgsys"))

    assert code(post("/renew_cert", alice, {"csr": csr()})) == (409, "renewal_refused")


def test_renewing_without_using_comes_to_an_end(people: People, post: Call) -> None:
    alice = people.peer("alice")

    answers = [post("/renew_cert", alice, {"csr": csr()}).status_code for _ in range(12)]

    assert answers == [201] * 10 + [409] * 2


def test_what_a_csr_asks_for_is_not_granted_at_renewal_either(people: People, post: Call) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://msgsys/admin/root")]), critical=False
        )
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )

    answer = post("/renew_cert", people.peer("alice"), {"csr": greedy})

    leaf = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert Peer.from_der(leaf.public_bytes(Encoding.DER), "msgsys").role == "client"


# --- the public files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", sorted(ROLES))
def test_everybody_with_a_certificate_reads_the_public_files(people: People, get: Call, role: str) -> None:
    peer = people.peer("reader", role)

    assert len(x509.load_pem_x509_certificates(get("/ca.pem", peer).content)) == 3
    assert len(pem_blocks(get("/crl.pem", peer).content)) == 3
    listed = x509.load_der_x509_crl(get("/crl.der", peer).content)
    assert listed.issuer == Issuer.objects.get(name="clients").certificate.subject
    other = x509.load_der_x509_crl(get("/crl.der?issuer=servers", peer).content)
    assert other.issuer == Issuer.objects.get(name="servers").certificate.subject
    assert code(get("/crl.der?issuer=nobody", peer)) == (404, "not_found")


def test_an_unchanged_list_is_not_sent_again(people: People, get: Call) -> None:
    alice = people.peer("alice")
    tag = get("/crl.pem", alice).headers["ETag"]

    assert get("/crl.pem", alice, if_none_match=tag).status_code == 304
    people.issue("bob", "client")
    people.revoke("bob")
    assert get("/crl.pem", alice, if_none_match=tag).status_code == 200


@pytest.mark.parametrize("path", ["/ca.pem", "/crl.pem", "/crl.der"])
def test_the_public_files_are_read_only(people: People, post: Call, path: str) -> None:
    before = Crl.objects.count()

    assert post(path, people.peer("root", "admin"), {}).status_code == 405
    assert Crl.objects.count() == before


def test_a_leaf_renewed_late_never_outlives_its_issuer(people: People, post: Call) -> None:
    soon = timezone.now() + timedelta(days=20)
    Issuer.objects.filter(name="clients").update(not_after=soon)

    answer = post("/renew_cert", people.peer("alice"), {"csr": csr()})

    assert answer.status_code == 201
    assert Certificate.objects.latest("id").not_after <= soon
