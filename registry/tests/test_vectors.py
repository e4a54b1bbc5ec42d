"""The stored form is frozen: these vectors must open for ever, by this code and by another implementation."""

import hmac
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from Crypto.Cipher import AES
from Crypto.Hash import HMAC, SHA256
from Crypto.Protocol.KDF import HKDF
from django.apps import apps

from registry import blind_index, canaries, sealing
from registry.fields import EncryptedTextField
from registry.keyring import KeyRing, Masters
from registry.models import Message
from registry.search import manifests, terms

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


DERIVED, CANARIES = VECTORS["derived_keys"], VECTORS["canaries"]


def in_use():
    """Return what keys are derived for, as the code has it."""
    models = apps.get_app_config("registry").get_models()
    fields = [field for model in models for field in model._meta.concrete_fields]
    labels = {field.label for field in fields if isinstance(field, EncryptedTextField)} | {canaries.LABEL}
    of_terms = {terms.WORD, terms.LAST4, terms.PREFIX, terms._LABEL, terms._LIST}
    purposes = of_terms | {blind_index.PURPOSE, manifests._PURPOSE, canaries.PURPOSE}
    return {f"enc:{label}" for label in labels} | {f"idx:{purpose}" for purpose in purposes}


def test_every_purpose_that_keys_are_derived_for_is_frozen():
    assert in_use() == set(DERIVED["keys"])


@pytest.mark.parametrize("info", DERIVED["keys"])
def test_a_derived_key_is_the_frozen_one(info):
    ring, (kind, purpose) = ring_of(DERIVED), info.split(":", 1)
    key = ring.index_key(purpose, 1) if kind == "idx" else ring.encryption.derive(1, info)
    assert key.hex() == DERIVED["keys"][info]


@pytest.mark.parametrize("info", DERIVED["keys"])
def test_another_implementation_derives_the_same_key(info):
    salt = bytes.fromhex(DERIVED["salt"])
    key = HKDF(bytes.fromhex(DERIVED["master_key"]), 32, salt, SHA256, context=info.encode())
    assert key.hex() == DERIVED["keys"][info]


@pytest.mark.parametrize("kind", ["encryption", "index"])
def test_the_canaries_are_the_frozen_ones(kind):
    value = bytes.fromhex(CANARIES[kind])
    canary = canaries.Canary(kind=kind, key_id=CANARIES["key_id"], value=value)
    assert CANARIES["text"] == canaries.TEXT
    assert canaries._fits(canary, bytes.fromhex(CANARIES["master_key"]))
    assert not canaries._fits(canary, bytes(32))


def test_another_implementation_opens_the_canary_and_finds_the_same_hash():
    key_id, stored = CANARIES["key_id"], bytes.fromhex(CANARIES["encryption"])
    cipher = AES.new(_hkdf(CANARIES["master_key"], "enc:registry.canary"), AES.MODE_GCM, nonce=stored[6:18])
    cipher.update(b"msgsys\0\x0fregistry.canary\0\x10" + key_id.to_bytes(16) + stored[:6])
    assert cipher.decrypt_and_verify(stored[18:-16], stored[-16:]).startswith(CANARIES["text"].encode() + b"\x80")
    key = _hkdf(CANARIES["master_key"], "idx:canary")
    assert HMAC.new(key, CANARIES["text"].encode(), SHA256).hexdigest() == CANARIES["index"]


def _hkdf(master: str, info: str) -> bytes:
    """RFC 5869, by hand; one block is all that 32 bytes need."""
    pseudorandom_key = hmac.digest(b"msgsys/v1", bytes.fromhex(master), "sha256")
    return hmac.digest(pseudorandom_key, info.encode() + b"\x01", "sha256")
