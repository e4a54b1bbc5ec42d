import base64
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.utils import timezone

from certs_app.models import Certificate
from registry.models import Message
from registry.tests.conftest import HOUR, Ingest, a_message, new_id
from wire import envelope, ids, messages


def rejected(outcomes):
    assert Message.objects.count() == 0
    return [(outcome["outcome"], outcome.get("code")) for outcome in outcomes]


@pytest.mark.parametrize(
    "blob", [b"", b"\x01", b"plain text", b"\x00" * 200, b"\x02\x01" + b"x" * 200, b"\x01\x02" + b"x" * 99]
)
def test_what_is_no_envelope_is_malformed(register, blob):
    assert rejected(register(blob)) == [("rejected", "malformed_envelope")]


def test_an_envelope_cut_short_is_malformed(ingest, register):
    assert rejected(register(ingest.envelope()[:130])) == [("rejected", "malformed_envelope")]


def test_an_envelope_over_the_limit_is_rejected_alone(ingest, register):
    large = ingest.envelope() + b"x" * envelope.MAX_BYTES
    outcomes = register(large, ingest.envelope())
    assert [outcome.get("code", outcome["outcome"]) for outcome in outcomes] == ["malformed_envelope", "stored"]


def test_what_is_not_base64_is_rejected_alone(ingest, call):
    good = base64.b64encode(ingest.envelope()).decode()
    answer = call("/register", {"envelopes": ["not base64!", good, "ÿ"]})
    assert [outcome["outcome"] for outcome in answer.json()["results"]] == ["rejected", "stored", "rejected"]


def test_a_signer_nobody_knows_is_refused(ingest, register):
    ingest.signer = bytes(32)
    assert rejected(register(ingest.envelope())) == [("rejected", "unknown_signer")]


@pytest.mark.parametrize("role", ["client", "worker", "gateway", "admin", "prometheus"])
def test_only_an_ingest_certificate_signs(people, register, role):
    people.issue("mallory", role)
    assert rejected(register(Ingest(people.folder, "mallory").envelope())) == [("rejected", "unknown_signer")]


def test_an_ingest_of_another_ca_is_refused(people, register, tmp_path_factory):
    issued = people.issue("carol", "ingest", usage="client")
    carol = Ingest(people.folder, "carol-client")
    # To this registry it was never issued: that is what another CA's certificate looks like here.
    Certificate.objects.filter(pk=issued.row.pk).delete()
    assert rejected(register(carol.envelope())) == [("rejected", "unknown_signer")]


def test_a_signature_by_another_key_is_bad(ingest, register):
    ingest.key = ec.generate_private_key(ec.SECP256R1())
    assert rejected(register(ingest.envelope())) == [("rejected", "bad_signature")]


@pytest.mark.parametrize("position", [6, 21, 60, 140, -1])
def test_one_changed_bit_spoils_the_signature(ingest, register, position):
    blob = bytearray(ingest.envelope())
    blob[position] ^= 1
    assert rejected(register(bytes(blob))) == [("rejected", "bad_signature")]


def test_an_empty_signature_is_bad(ingest, register):
    blob = ingest.envelope()
    length = int.from_bytes(blob[54:56])
    assert rejected(register(blob[:54] + b"\0\0" + blob[56 + length :])) == [("rejected", "bad_signature")]


def test_what_is_sealed_to_another_key_of_the_same_id_does_not_open(ingest, register):
    blob = ingest.envelope(recipient=X25519PrivateKey.generate().public_key())
    assert rejected(register(blob)) == [("rejected", "bad_seal")]


def test_a_seal_that_is_no_seal_does_not_open(ingest, register, monkeypatch):
    monkeypatch.setattr(envelope, "_HPKE", type("Broken", (), {"encrypt": lambda *a, **k: bytes(100)}))
    blob = ingest.envelope()
    monkeypatch.undo()
    assert rejected(register(blob)) == [("rejected", "bad_seal")]


def as_dict(**changes):
    return {**json.loads(messages.encode(a_message())), **changes}


BAD_CONTENT = {
    "not JSON": b"hello",
    "not UTF-8": b'[{"id": "\xff"}]',
    "no list": messages.encode(as_dict()),
    "empty": b"[]",
    "too many": messages.encode([a_message() for _ in range(101)]),
    "nested without end": b"[" * 100_000,
    "not a message": b"[5]",
    "unknown field": messages.encode([as_dict(role="admin")]),
    "field missing": messages.encode([{"id": str(new_id())}]),
    "not a UUIDv7": messages.encode([as_dict(id=str(uuid4()))]),
    "a time out of range": messages.encode([as_dict(id=str(UUID(int=ids.new_id(0).int | ((1 << 48) - 1) << 80)))]),
    "the same id twice": messages.encode([as_dict(id=str(new_id(datetime(2026, 1, 1, tzinfo=UTC))))] * 2),
    "no body": messages.encode([as_dict(message_body="")]),
    "a long body": messages.encode([as_dict(message_body="x" * 10_001)]),
    "a long number": messages.encode([as_dict(sender_number="+" + "1" * 40)]),
    "a number of wide digits": messages.encode([as_dict(sender_number="+" + "\uff11" * 15)]),
    "no client": messages.encode([as_dict(client="")]),
    "a client in upper case": messages.encode([as_dict(client="Alice")]),
    "a long client": messages.encode([as_dict(client="a" * 65)]),
    "a long serial number": messages.encode([as_dict(certificate="a" * 41)]),
    "a long reference": messages.encode([as_dict(client_reference="r" * 129)]),
    "idempotency not hex": messages.encode([as_dict(idempotency="x" * 64)]),
    "idempotency too short": messages.encode([as_dict(idempotency="ab" * 31)]),
    "a time without offset": messages.encode([as_dict(sent_at="2026-01-01T00:00:00")]),
    "a time before the first year": messages.encode([as_dict(sent_at="0001-01-01T00:00:00+14:00")]),
    "a lone surrogate": b'[{"id": "\\ud800"}]',
}


@pytest.mark.parametrize("plain", BAD_CONTENT.values(), ids=BAD_CONTENT)
def test_content_that_can_never_be_stored_is_rejected_and_not_tried_for_ever(ingest, register, plain):
    assert rejected(register(ingest.seal(plain))) == [("rejected", "bad_content")]


def test_one_bad_envelope_does_not_block_the_others(ingest, register):
    bad = bytearray(ingest.envelope())
    bad[-1] ^= 1
    outcomes = register(b"junk", ingest.envelope(), bytes(bad), ingest.envelope(), ingest.seal(b"[]"))
    assert [outcome["outcome"] for outcome in outcomes] == ["rejected", "stored", "rejected", "stored", "rejected"]
    assert Message.objects.count() == 2


def test_a_stolen_signing_key_is_never_trusted_again(people, ingest, register):
    before = ingest.envelope(at=timezone.now() - HOUR)
    people.revoke("ingest", "key_compromise")
    assert rejected(register(before)) == [("rejected", "signer_revoked")]


@pytest.mark.parametrize("reason", ["", "superseded", "cessation_of_operation"])
def test_what_was_signed_before_a_planned_revocation_stays_good(people, ingest, register, reason):
    before, after = ingest.envelope(), ingest.envelope(at=timezone.now() + HOUR)
    people.revoke("ingest", reason)
    outcomes = register(before, after)
    assert [outcome.get("code", outcome["outcome"]) for outcome in outcomes] == ["stored", "signer_revoked"]


def test_an_ingest_clock_a_little_ahead_loses_nothing_to_a_planned_revocation(people, ingest, register):
    before = ingest.envelope(at=timezone.now() + timedelta(minutes=4))
    people.revoke("ingest", "superseded")
    assert register(before)[0]["outcome"] == "stored"


@pytest.mark.parametrize("behind", [timedelta(minutes=10), timedelta(days=20_000)])
def test_an_ingest_clock_that_is_behind_loses_nothing(ingest, register, behind):
    moment = timezone.now() - behind
    message = a_message(id=new_id(moment))
    assert register(ingest.envelope(message, at=moment))[0]["outcome"] == "stored"


def test_an_expired_signer_is_refused(ingest, register):
    assert rejected(register(ingest.envelope(at=timezone.now() + 400 * 24 * HOUR))) == [("rejected", "unknown_signer")]


def test_an_envelope_without_a_time_of_signing_is_rejected(ingest, register, monkeypatch):
    monkeypatch.setattr("registry.tests.conftest.new_id", lambda at=None: uuid4())
    assert rejected(register(ingest.envelope(a_message(id=ids.new_id(0))))) == [("rejected", "bad_content")]


def test_an_unknown_sealing_key_is_the_operators_to_repair_so_nothing_is_lost(ingest, call):
    blobs = [ingest.envelope(), ingest.envelope(key_id=9), ingest.envelope()]
    answer = call("/register", {"envelopes": [base64.b64encode(blob).decode() for blob in blobs]})
    assert answer.status_code == 503
    assert answer.json()["code"] == "sealing_key_missing"
    assert int(answer["Retry-After"]) > 0
    assert Message.objects.count() == 0


def test_an_unknown_sealing_key_in_what_nobody_signed_stops_nothing(ingest, register):
    forged = bytearray(ingest.envelope(key_id=9))
    forged[-1] ^= 1
    assert [outcome["outcome"] for outcome in register(bytes(forged), ingest.envelope())] == ["rejected", "stored"]


def test_a_rejection_is_logged_without_content(ingest, register, caplog):
    register(ingest.seal(b'["body-canary"]'))
    assert "an envelope was rejected for good" in caplog.text
    assert "canary" not in caplog.text + str([vars(record) for record in caplog.records])
