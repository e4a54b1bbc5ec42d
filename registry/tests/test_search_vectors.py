"""The search index is frozen: these vectors hold for ever, by this code and by another implementation."""

import hashlib
import hmac
import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

from registry.keyring import KeyRing, Masters
from registry.search import manifests, postings, terms, words
from registry.search.terms import Term

VECTORS = json.loads((Path(__file__).parent / "search_vectors.json").read_text(encoding="utf-8"))
TERM = pytest.mark.parametrize("vector", VECTORS["terms"], ids=lambda vector: vector["text"])
LIST = pytest.mark.parametrize("vector", VECTORS["postings"], ids=lambda vector: f"{len(vector['rows'])} rows")
MANIFEST = pytest.mark.parametrize("vector", VECTORS["manifests"])


@pytest.fixture(autouse=True)
def _frozen_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    masters = Masters(1, {1: bytes.fromhex(VECTORS["terms"][0]["index_master"])})
    for module in (terms, manifests):
        monkeypatch.setattr(module, "ring", lambda: KeyRing(masters, masters))


def by_hand(master: str, purpose: str) -> bytes:
    """Derive an index key with another implementation."""
    return HKDF(bytes.fromhex(master), 32, b"msgsys/v1", SHA256, context=f"idx:{purpose}".encode())


def test_the_version_of_the_words_is_the_frozen_one() -> None:
    assert VECTORS["version"] == words.VERSION


@pytest.mark.parametrize("vector", VECTORS["words"], ids=lambda vector: vector["text"][:8])
def test_texts_split_into_the_frozen_words(vector: dict[str, Any]) -> None:
    assert words.split(vector["text"]) == vector["words"]


@TERM
def test_a_term_has_its_frozen_token_label_and_key(vector: dict[str, Any]) -> None:
    token = terms.token(Term(vector["kind"], vector["text"]), vector["key_id"])
    assert token.hex() == vector["token"]
    assert terms.label(token, vector["run"], vector["key_id"]).hex() == vector["label"]
    assert terms.list_key(token, vector["run"], vector["key_id"]).hex() == vector["list_key"]


@TERM
def test_another_implementation_comes_to_the_same_token_label_and_key(vector: dict[str, Any]) -> None:
    def code(purpose: str, value: bytes) -> bytes:
        return hmac.new(by_hand(vector["index_master"], purpose), value, hashlib.sha256).digest()

    version = "w1|" if vector["kind"] == "message.body:word" else "n1|"
    token = code(vector["kind"], (version + vector["text"]).encode())
    run = vector["run"].to_bytes(4, "big")
    assert token.hex() == vector["token"]
    assert code("search:label", token + run)[:8].hex() == vector["label"]
    assert code("search:list", token + run).hex() == vector["list_key"]


@LIST
def test_a_list_has_its_frozen_bytes(vector: dict[str, Any]) -> None:
    key, nonce = bytes.fromhex(vector["list_key"]), bytes.fromhex(vector["nonce"])
    stored = postings.seal(array("H", vector["rows"]), vector["messages"], key, vector["run"], nonce)
    assert stored.hex() == vector["stored"]
    opened = postings.unseal(stored, key, vector["run"])
    assert list(opened.descending()) == vector["rows"][::-1]
    assert len(opened) == len(vector["rows"])


@LIST
def test_another_implementation_opens_a_list(vector: dict[str, Any]) -> None:
    stored = bytes.fromhex(vector["stored"])
    cipher = AES.new(bytes.fromhex(vector["list_key"]), AES.MODE_GCM, nonce=stored[:12])
    cipher.update(b"msgsys-postings-1" + vector["run"].to_bytes(4, "big"))
    plain = cipher.decrypt_and_verify(stored[12:-16], stored[-16:])
    count, content = int.from_bytes(plain[:4], "big"), plain[4:]
    if len(content) == 8192:
        rows = [row for row in range(65536) if content[row // 8] >> row % 8 & 1]
    else:
        rows = [int.from_bytes(content[place : place + 2], "big") for place in range(0, 2 * count, 2)]
    assert rows == vector["rows"]
    assert count == len(rows)


@MANIFEST
def test_a_manifest_has_its_frozen_digest(vector: dict[str, Any]) -> None:
    lists = {bytes.fromhex(token): array("H", rows) for token, rows in vector["lists"].items()}
    digest = manifests.digest(vector["run"], vector["segment"], 1, array("H", vector["members"]), lists)
    assert digest.hex() == vector["digest"]


@MANIFEST
def test_another_implementation_comes_to_the_same_digest(vector: dict[str, Any]) -> None:
    def plain(rows: list[int]) -> bytes:
        assert len(rows) <= 4, "longer lists have another form: see the vectors of lists"
        return len(rows).to_bytes(4, "big") + b"".join(row.to_bytes(2, "big") for row in rows).ljust(8, b"\0")

    content = vector["run"].to_bytes(4, "big") + vector["segment"].to_bytes(4, "big") + plain(vector["members"])
    content += b"".join(bytes.fromhex(token) + plain(vector["lists"][token]) for token in sorted(vector["lists"]))
    key = by_hand(vector["index_master"], "search:manifest")
    assert hmac.new(key, content, hashlib.sha256).hexdigest() == vector["digest"]


@LIST
@pytest.mark.parametrize("place", [0, 11, 12, 20, -1])
def test_a_changed_list_does_not_open(vector: dict[str, Any], place: int) -> None:
    changed = bytearray.fromhex(vector["stored"])
    changed[place] ^= 1
    with pytest.raises(postings.Tampered):
        postings.unseal(bytes(changed), bytes.fromhex(vector["list_key"]), vector["run"])


@LIST
def test_a_list_moved_to_another_run_does_not_open(vector: dict[str, Any]) -> None:
    with pytest.raises(postings.Tampered):
        postings.unseal(bytes.fromhex(vector["stored"]), bytes.fromhex(vector["list_key"]), vector["run"] + 1)


def test_a_list_cut_short_does_not_open() -> None:
    for length in range(40):
        with pytest.raises(postings.Tampered):
            postings.unseal(bytes(length), bytes(32), 1)
