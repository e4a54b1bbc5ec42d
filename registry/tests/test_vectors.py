"""The stored form is frozen: these vectors must open for ever, by this code and by another implementation."""

import hmac
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from Crypto.Cipher import AES

from registry import blind_index, sealing
from registry.keyring import KeyRing, Masters
from registry.models import Message

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
SEALED = pytest.mark.parametrize("vector", VECTORS["sealed"], ids=lambda vector: vector["label"])
INDEX = pytest.mark.parametrize("vector", VECTORS["sender_index"], ids=lambda vector: vector["number"])


def ring_of(vector: dict[str, Any]) -> KeyRing:
    key_id, master = vector.get("key_id", 1), bytes.fromhex(vector["master_key"])
    return KeyRing(Masters(key_id, {key_id: master}), Masters(key_id, {key_id: master}))


@SEALED
def test_sealing_gives_the_frozen_bytes(vector):
    stored = sealing.seal(
        vector["text"],
        label=vector["label"],
        uid=bytes.fromhex(vector["uid"]),
        ring=ring_of(vector),
        nonce=bytes.fromhex(vector["nonce"]),
    )
    assert stored.hex() == vector["stored"]


@SEALED
def test_the_frozen_bytes_open(vector):
    stored, uid = bytes.fromhex(vector["stored"]), bytes.fromhex(vector["uid"])
    assert sealing.open_sealed(stored, label=vector["label"], uid=uid, ring=ring_of(vector)) == vector["text"]


@SEALED
def test_the_column_key_is_the_frozen_one(vector):
    ring = ring_of(vector)
    assert ring.encryption.derive(vector["key_id"], f"enc:{vector['label']}").hex() == vector["column_key"]


@SEALED
def test_another_implementation_opens_the_frozen_bytes(vector):
    stored, uid, label = bytes.fromhex(vector["stored"]), bytes.fromhex(vector["uid"]), vector["label"].encode()
    cipher = AES.new(_hkdf(vector["master_key"], f"enc:{vector['label']}"), AES.MODE_GCM, nonce=stored[6:18])
    cipher.update(b"msgsys" + struct.pack(">H", len(label)) + label + struct.pack(">H", 16) + uid + stored[:6])
    padded = cipher.decrypt_and_verify(stored[18:-16], stored[-16:])
    assert len(padded) % 32 == 0
    assert padded.rstrip(b"\0").removesuffix(b"\x80").decode() == vector["text"]


@INDEX
def test_the_sender_index_is_the_frozen_one(vector, monkeypatch):
    monkeypatch.setattr(blind_index, "ring", lambda: ring_of(vector))
    assert blind_index.sender(vector["number"]).hex() == vector["index"]


@INDEX
def test_another_implementation_finds_the_same_sender_index(vector):
    key = _hkdf(vector["master_key"], "idx:message.sender:exact")
    assert key.hex() == vector["index_key"]
    assert hmac.digest(key, b"n1|" + vector["number"].encode(), "sha256")[:8].hex() == vector["index"]


@pytest.mark.parametrize("column", ["sender_number", "message_body", "client_reference"])
def test_the_labels_of_the_columns_are_the_frozen_ones(column):
    label = Message._meta.get_field(column).label
    assert label == f"registry.message.{column}"
    assert label in {vector["label"] for vector in VECTORS["sealed"]}


def _hkdf(master: str, info: str) -> bytes:
    """RFC 5869, by hand; one block is all that 32 bytes need."""
    pseudorandom_key = hmac.digest(b"msgsys/v1", bytes.fromhex(master), "sha256")
    return hmac.digest(pseudorandom_key, info.encode() + b"\x01", "sha256")
