import base64

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from django.utils import timezone

from registry import receipts
from registry.models import Message
from registry.tests.conftest import BODY, SENDER, Column, a_row, new_id


@pytest.fixture
def registry_certificate(people, settings):
    """Let the registry sign with a certificate of the test's CA."""

    def renew():
        people.issue("registry", "registry", dns=["localhost"])
        pair = {"certificate": people.folder / "registry.crt", "key": people.folder / "registry.key"}
        settings.SERVER_CERTIFICATE = pair
        return x509.load_pem_x509_certificates(pair["certificate"].read_bytes())[0]

    return renew


@pytest.fixture
def ask(registry_certificate, people, call):
    """Ask for a client's message as ingest does."""
    registry_certificate()
    ingest = people.peer("ingest", "ingest")
    return lambda client, uid: call(f"/clients/{client}/messages/{uid}", peer=ingest)


@pytest.fixture
def message(people):
    row = a_row(id=new_id())
    row.save()
    return row


def claims_of(receipt, ca_file):
    """Verify a receipt as its owner would, with nothing but the receipt and the CA's file; return its claims."""
    chain = [base64.b64decode(der) for der in jwt.get_unverified_header(receipt)["x5c"]]
    leaf = x509.load_der_x509_certificate(chain[0])
    root, _, issuing = x509.load_pem_x509_certificates(ca_file.read_bytes())
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://msgsys/registry/registry"]
    claims = jwt.decode(receipt, leaf.public_key(), algorithms=["ES256"], issuer="spiffe://msgsys/registry/registry")
    assert leaf.not_valid_before_utc.timestamp() <= claims["iat"] < leaf.not_valid_after_utc.timestamp()
    return claims


def test_the_status_comes_with_a_receipt_that_verifies(ask, message, settings):
    answer = ask("alice", message.uid).json()
    assert (answer["id"], answer["status"]) == (str(message.uid), "registered")
    claims = claims_of(answer["receipt"], settings.CA_FILE)
    assert (claims["sub"], claims["client"]) == (str(message.uid), "alice")
    assert claims["received_at"] == answer["received_at"] == message.received_at.isoformat()
    assert claims["stored_at"] == answer["stored_at"]
    assert claims["content_sha256"] == receipts.content_sha256(SENDER, BODY)


def test_the_hash_of_the_content_is_the_frozen_one():
    frozen = "d6df61f8beabf7c0815de50bf6d559339a3e173712bd34885996a40af349aeb0"
    assert receipts.content_sha256("+4915200000000", "Hello, wörld") == frozen


def test_the_receipt_holds_no_content(ask, message):
    receipt = ask("alice", message.uid).json()["receipt"]
    assert BODY not in str(jwt.decode(receipt, options={"verify_signature": False}))
    assert SENDER not in str(jwt.decode(receipt, options={"verify_signature": False}))


def test_a_later_status_is_in_the_answer_and_in_no_receipt(ask, message, settings):
    message.advance("delivered", timezone.now(), "", "gateway/gsm")
    answer = ask("alice", message.uid).json()
    assert answer["status"] == "delivered"
    assert "status" not in claims_of(answer["receipt"], settings.CA_FILE)


def test_another_clients_message_is_not_found(ask, message):
    answer = ask("bob", message.uid)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_an_unknown_message_is_not_found(ask):
    assert ask("alice", new_id()).status_code == 404
    assert ask("alice", "no-uuid").status_code == 404


@pytest.mark.parametrize("role", ["client", "worker", "gateway", "admin", "prometheus", "portal"])
def test_only_ingest_asks(call, people, message, role):
    answer = call(f"/clients/alice/messages/{message.uid}", peer=people.peer("somebody", role))
    assert (answer.status_code, answer.json()["code"]) == (403, "role_not_allowed")


def test_a_receipt_by_another_key_does_not_verify(ask, message):
    receipt = ask("alice", message.uid).json()["receipt"]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(receipt, ec.generate_private_key(ec.SECP256R1()).public_key(), algorithms=["ES256"])


def test_a_renewed_certificate_signs_without_a_restart(ask, message, registry_certificate):
    ask("alice", message.uid)
    renewed = registry_certificate()
    header = jwt.get_unverified_header(ask("alice", message.uid).json()["receipt"])
    assert x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0])) == renewed


def test_an_unreadable_message_still_has_its_status(ask, message, caplog):
    Column(Message.objects.get()).write(b"damaged")
    answer = ask("alice", message.uid)
    assert (answer.status_code, answer.json()["status"], answer.json()["receipt"]) == (200, "registered", None)
    assert "a stored value cannot be read" in caplog.text
