"""The envelope: what is sealed opens, and nothing in it can be changed."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from wire import envelope
from wire.envelope import BadSeal, BadSignature, Envelope, EnvelopeError

RECIPIENT = X25519PrivateKey.generate()
SIGNING_KEY = ec.generate_private_key(ec.SECP256R1())
ID = UUID("019bf3a8-5c10-7000-8000-00000000002a")
SIGNER = bytes(range(32))
PLAIN = b'[{"message_body":"Pump 7"}]'
VECTOR: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))


def sealed(plain: bytes = PLAIN) -> bytes:
    return envelope.seal(
        plain, envelope_id=ID, key_id=7, recipient=RECIPIENT.public_key(), signer=SIGNER, signing_key=SIGNING_KEY
    )


def opened(blob: bytes) -> bytes:
    parsed = envelope.parse(blob)
    parsed.verify(SIGNING_KEY.public_key())
    return parsed.open(RECIPIENT)


def resigned(parsed: Envelope, *, header: bytes | None = None, seal: bytes | None = None) -> bytes:
    """Change an envelope and sign it again, as a dishonest signer could."""
    header, seal = header or parsed.header, seal or parsed.sealed
    signature = SIGNING_KEY.sign(b"msgsys signature v1" + header + seal, ec.ECDSA(envelope.hashes.SHA256()))
    return header + len(signature).to_bytes(2, "big") + signature + seal


@given(st.binary(max_size=1000))
def test_what_was_sealed_opens_padded(plain: bytes) -> None:
    content = opened(sealed(plain))

    assert content.startswith(plain)
    assert len(content) % 64 == 0
    assert len(content) < len(plain) + 64
    assert content[len(plain) :].strip(b" ") == b""


def test_the_header_says_who_and_for_whom() -> None:
    parsed = envelope.parse(sealed())

    assert (parsed.id, parsed.key_id, parsed.signer) == (ID, 7, SIGNER)


def test_two_seals_of_the_same_messages_differ() -> None:
    assert envelope.parse(sealed()).sealed != envelope.parse(sealed()).sealed


def test_every_changed_byte_is_refused() -> None:
    blob = sealed()
    for position in range(len(blob)):
        changed = bytearray(blob)
        changed[position] ^= 0x01
        with pytest.raises(EnvelopeError) as refusal:
            opened(bytes(changed))
        expected = {"malformed_envelope"} if position < 2 else {"bad_signature", "malformed_envelope"}
        assert refusal.value.code in expected, position


@pytest.mark.parametrize("region", ["header", "signature", "sealed"])
def test_a_change_breaks_the_signature(region: str) -> None:
    blob = sealed()
    length = int.from_bytes(blob[54:56], "big")
    position = {"header": 10, "signature": 56 + length // 2, "sealed": len(blob) - 1}[region]
    changed = blob[:position] + bytes([blob[position] ^ 0x80]) + blob[position + 1 :]

    with pytest.raises(BadSignature):
        opened(changed)


@pytest.mark.parametrize("position", [2, 5, 6, 21, 22, 53])
def test_the_seal_holds_the_header_even_when_it_is_signed_anew(position: int) -> None:
    parsed = envelope.parse(sealed())
    header = bytearray(parsed.header)
    header[position] ^= 0x01

    with pytest.raises(BadSeal):
        opened(resigned(parsed, header=bytes(header)))


@pytest.mark.parametrize("position", [0, 31, 32, -16, -1])
def test_a_changed_seal_is_refused_even_when_it_is_signed_anew(position: int) -> None:
    parsed = envelope.parse(sealed())
    seal = bytearray(parsed.sealed)
    # The top bit of the encapsulated key (byte 31) is one that X25519 itself ignores.
    seal[position] ^= 0x80

    with pytest.raises(BadSeal):
        opened(resigned(parsed, seal=bytes(seal)))


def test_an_encapsulated_key_of_low_order_is_refused() -> None:
    parsed = envelope.parse(sealed())

    with pytest.raises(BadSeal):
        opened(resigned(parsed, seal=bytes(32) + parsed.sealed[32:]))


def test_another_signer_is_refused() -> None:
    with pytest.raises(BadSignature):
        envelope.parse(sealed()).verify(ec.generate_private_key(ec.SECP256R1()).public_key())


def test_another_recipient_cannot_open() -> None:
    with pytest.raises(BadSeal):
        envelope.parse(sealed()).open(X25519PrivateKey.generate())


def test_every_truncation_is_refused() -> None:
    blob = sealed()
    for length in range(len(blob)):
        with pytest.raises(EnvelopeError):
            opened(blob[:length])


def test_an_extended_envelope_is_refused() -> None:
    with pytest.raises(BadSignature):
        opened(sealed() + b"\0")


@given(st.binary(max_size=300))
def test_noise_is_refused_as_an_envelope_error(noise: bytes) -> None:
    for blob in (noise, b"\x01\x01" + noise):
        with pytest.raises(EnvelopeError):
            opened(blob)


@pytest.mark.parametrize("start", [b"\x02\x01", b"\x01\x02", b"\x00\x00"])
def test_an_unknown_version_or_suite_is_named(start: bytes) -> None:
    with pytest.raises(EnvelopeError, match="is not known here"):
        envelope.parse(start + sealed()[2:])


def test_the_frozen_envelope_opens_for_ever() -> None:
    parsed = envelope.parse(bytes.fromhex(VECTOR["envelope"]))
    signer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes.fromhex(VECTOR["signer_public_key"]))

    parsed.verify(signer)
    content = parsed.open(X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["recipient_private_key"])))

    assert content.rstrip(b" ").decode() == VECTOR["messages"]
    assert len(content) == VECTOR["padded_length"]
    assert (parsed.key_id, str(parsed.id)) == (VECTOR["key_id"], VECTOR["envelope_id"])
