"""What a message can be found by, and the keyed hashes that stand for it.

A token is HMAC-SHA256 of the term under the index key of its kind. It never lies in the database: what does, the label
of a list and the key that seals it, is derived from the token and the run it belongs to. So the same word in two runs
has nothing in common, and whoever holds the tables alone cannot tell how often a word occurs.
"""

import functools
import hashlib
import hmac
from collections.abc import Iterable
from typing import NamedTuple

from registry.keyring import ring
from registry.search import words

WORD, LAST4, PREFIX = "message.body:word", "message.sender:last4", "message.sender:prefix"
LAST_DIGITS = 4
# Lengths of "+" and digits. What is asked for beyond the longest is compared with the opened number.
PREFIX_LENGTHS = range(2, 7)

_LABEL, _LIST = "search:label", "search:list"
LABEL_BYTES = 8
# The version of the normalisation goes into the hash, as in registry.blind_index.
_NORMALISATION = {WORD: f"w{words.VERSION}|", LAST4: "n1|", PREFIX: "n1|"}


class Term(NamedTuple):
    """One thing to look for: a word, the last four digits, or the first characters of a number. Normalised."""

    kind: str
    text: str


def of_number(number: str) -> set[Term]:
    """Return the terms of an E.164 number."""
    prefixes = {Term(PREFIX, number[:length]) for length in PREFIX_LENGTHS}
    return prefixes | {Term(LAST4, number[-LAST_DIGITS:])}


def of_body(text: str) -> set[Term]:
    """Return the terms of a body."""
    return of_words(words.split(text))


def of_words(split: Iterable[str]) -> set[Term]:
    """Return the terms of words as registry.search.words splits them."""
    return {Term(WORD, word) for word in words.indexable(split)}


def prefix(start: str) -> Term:
    """Return the term to look for a number's first characters by: at least 2, of which at most 6 count."""
    return Term(PREFIX, start[: PREFIX_LENGTHS[-1]])


def token(term: Term, key_id: int) -> bytes:
    """Return the 32 bytes that stand for a term under one index key. Raises KeyMissing."""
    return _token(ring().index_key(term.kind, key_id), term)


@functools.lru_cache(maxsize=1 << 16)
def _token(key: bytes, term: Term) -> bytes:
    text = _NORMALISATION[term.kind] + term.text
    return hmac.digest(key, text.encode(), hashlib.sha256)


def label(token: bytes, run: int, key_id: int) -> bytes:
    """Return the 8 bytes that a term's list is found by in one run."""
    return hmac.digest(ring().index_key(_LABEL, key_id), token + _run(run), hashlib.sha256)[:LABEL_BYTES]


def list_key(token: bytes, run: int, key_id: int) -> bytes:
    """Return the AES-256 key of a term's list in one run."""
    return hmac.digest(ring().index_key(_LIST, key_id), token + _run(run), hashlib.sha256)


def _run(run: int) -> bytes:
    return run.to_bytes(4)
