"""docs/wire.md suffices: its vector is opened with primitives alone, and none of our code or libraries."""

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.PublicKey import ECC
from Crypto.Signature import DSS
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from wire import envelope, messages
from wire.problems import CODES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
FROZEN = (Path(__file__).parent / "vectors.json").read_text(encoding="utf-8")

PRIME = 2**255 - 19


def documented() -> dict[str, Any]:
    (block,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    return dict(json.loads(block))


def x25519(scalar: bytes, point: bytes) -> bytes:
    """RFC 7748 §5: the Montgomery ladder."""
    k = (int.from_bytes(scalar, "little") & ~7 & (2**255 - 1)) | 2**254
    x1 = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3 = 1, 0, x1, 1
    for position in reversed(range(255)):
        bit = k >> position & 1
        if bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        x3, z3 = pow(da + cb, 2, PRIME), x1 * pow(da - cb, 2, PRIME) % PRIME
        x2, z2 = aa * bb % PRIME, (aa - bb) * (aa + 121665 * (aa - bb)) % PRIME
        if bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, PRIME - 2, PRIME) % PRIME).to_bytes(32, "little")


def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    """RFC 9180 §4: LabeledExtract."""
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """RFC 9180 §4: LabeledExpand, for at most one hash length."""
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, labelled + b"\x01", "sha256")[:length]


def open_base(private_key: bytes, public_key: bytes, sealed: bytes, info: bytes) -> bytes:
    """RFC 9180 §6.1, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM."""
    encapsulated, ciphertext, tag = sealed[:32], sealed[32:-16], sealed[-16:]
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    eae = extract(kem, b"", b"eae_prk", x25519(private_key, encapsulated))
    shared = expand(kem, eae, b"shared_secret", encapsulated + public_key, 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    key, nonce = expand(suite, secret, b"key", context, 32), expand(suite, secret, b"base_nonce", context, 12)
    return AES.new(key, AES.MODE_GCM, nonce=nonce).decrypt_and_verify(ciphertext, tag)


def read(blob: bytes, private_key: bytes, public_key: bytes, signer: bytes) -> bytes:
    """Open an envelope, reading docs/wire.md from top to bottom."""
    header, length = blob[:54], int.from_bytes(blob[54:56], "big")
    signature, sealed = blob[56 : 56 + length], blob[56 + length :]
    assert header[:2] == b"\x01\x01"
    verifier = DSS.new(ECC.import_key(signer, curve_name="P-256"), "fips-186-3", encoding="der")
    verifier.verify(SHA256.new(b"msgsys signature v1" + header + sealed), signature)
    return open_base(private_key, public_key, sealed, b"msgsys envelope v1" + header)


def test_the_ladder_is_right() -> None:
    """RFC 7748 §5.2, first vector."""
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")

    assert x25519(scalar, point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


def test_the_documented_vector_is_the_frozen_one() -> None:
    assert documented() == json.loads(FROZEN)


def test_the_documented_vector_opens_with_primitives_alone() -> None:
    vector = documented()
    private_key, public_key = (bytes.fromhex(vector[f"recipient_{half}_key"]) for half in ("private", "public"))
    assert x25519(private_key, (9).to_bytes(32, "little")) == public_key

    plain = read(bytes.fromhex(vector["envelope"]), private_key, public_key, bytes.fromhex(vector["signer_public_key"]))

    assert plain == vector["messages"].encode().ljust(vector["padded_length"])
    assert len(json.loads(plain)) == 2


def test_the_documented_parts_make_the_envelope() -> None:
    vector = documented()
    signature = bytes.fromhex(vector["signature"])
    certificate = bytes.fromhex(vector["signer_certificate"])
    parts = ("header", len(signature).to_bytes(2, "big").hex(), "signature", "encapsulated_key", "ciphertext_and_tag")

    assert "".join(vector.get(part, part) for part in parts) == vector["envelope"]
    assert bytes.fromhex(vector["header"])[22:] == hashlib.sha256(certificate).digest()
    public_key = x509.load_der_x509_certificate(certificate).public_key()
    assert public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint).hex() == vector["signer_public_key"]


def test_the_documented_messages_are_canonical() -> None:
    vector = documented()

    decoded = messages.decode_list(vector["messages"].encode())

    assert messages.encode(decoded).decode() == vector["messages"]


def test_what_our_code_seals_opens_with_primitives_alone() -> None:
    vector = documented()
    private_key, public_key = (bytes.fromhex(vector[f"recipient_{half}_key"]) for half in ("private", "public"))
    signing_key = ec.generate_private_key(ec.SECP256R1())
    blob = envelope.seal(
        b"[]",
        envelope_id=UUID(vector["envelope_id"]),
        key_id=7,
        recipient=X25519PrivateKey.from_private_bytes(private_key).public_key(),
        signer=bytes(32),
        signing_key=signing_key,
    )
    point = signing_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    assert read(blob, private_key, public_key, point) == b"[]".ljust(64)


def test_every_problem_code_is_documented_with_its_status() -> None:
    rows = {code: int(status) for code, status in re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", DOCUMENT, re.MULTILINE)}

    assert rows == {code: status for code, (status, _) in CODES.items()}
