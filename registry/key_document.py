"""The key ring as a document: keys, their states, and the steps that a key may take. Nothing is changed in place.

    {"version": 2,
     "encryption": {"keys": {"1": {"state": "primary", "created": TIME, "changed": TIME, "key": "<32 bytes, base64>"}}},
     "index":      {"keys": {"1": {"state": "primary", "created": TIME, "changed": TIME, "key": "<32 bytes, base64>"}}}}

    staged     opens, and seals nothing yet: for as long as some process does not have it
    primary    opens, and seals what is new; there is one of each kind
    active     opens
    retired    opens no longer; its bytes are kept
    destroyed  its bytes are gone; its id stays, so that no other key ever has it

TIME is RFC 3339, or null where it is not known. Version 1, which is read as well, has no states: {"primary": 1,
"keys": {"1": "<32 bytes, base64>"}}, and all keys but the primary are active.
"""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

KEY_BYTES = 32
_VERSION = 2

ENCRYPTION, INDEX = "encryption", "index"
KINDS = (ENCRYPTION, INDEX)
STAGED, PRIMARY, ACTIVE, RETIRED, DESTROYED = "staged", "primary", "active", "retired", "destroyed"
STATES = (STAGED, PRIMARY, ACTIVE, RETIRED, DESTROYED)
OPENS = frozenset({STAGED, PRIMARY, ACTIVE})
_FROM = {
    PRIMARY: {STAGED, ACTIVE},
    RETIRED: {STAGED, ACTIVE},
    ACTIVE: {RETIRED},
    DESTROYED: {RETIRED},
}


class KeyRingError(Exception):
    """The key ring is missing, unsafe or damaged. The message says what to do."""


class StepRefused(Exception):
    """A key cannot take this step from the state it is in. The message says why."""


@dataclass(frozen=True)
class Key:
    """One master key. `material` is its 32 bytes, empty once it is destroyed."""

    state: str
    material: bytes = field(repr=False)
    created: datetime | None = None
    changed: datetime | None = None


@dataclass(frozen=True)
class KeyDocument:
    """All keys of both kinds, by id."""

    encryption: Mapping[int, Key]
    index: Mapping[int, Key]

    def __post_init__(self) -> None:
        for kind in KINDS:
            _check(kind, self.of(kind))

    def of(self, kind: str) -> Mapping[int, Key]:
        return self.encryption if kind == ENCRYPTION else self.index

    def primary(self, kind: str) -> int:
        """Return the id of the key that seals."""
        return next(key_id for key_id, key in self.of(kind).items() if key.state == PRIMARY)

    # -- steps: each returns another document

    def add(self, kind: str, now: datetime) -> tuple["KeyDocument", int]:
        """Add a fresh staged key; return its id as well."""
        key_id = max(self.of(kind)) + 1
        return self._with(kind, {key_id: fresh(STAGED, now)}), key_id

    def promote(self, kind: str, key_id: int, now: datetime) -> "KeyDocument":
        """Have a key seal what is new; the one that did becomes active. Raises StepRefused."""
        promoted = self._step(kind, key_id, PRIMARY, now)
        former = self.primary(kind)
        return self._with(kind, {former: replace(self.of(kind)[former], state=ACTIVE, changed=now), key_id: promoted})

    def retire(self, kind: str, key_id: int, now: datetime) -> "KeyDocument":
        """Have a key open nothing any more. Raises StepRefused."""
        return self._with(kind, {key_id: self._step(kind, key_id, RETIRED, now)})

    def reactivate(self, kind: str, key_id: int, now: datetime) -> "KeyDocument":
        """Take a retirement back. Raises StepRefused."""
        return self._with(kind, {key_id: self._step(kind, key_id, ACTIVE, now)})

    def destroy(self, kind: str, key_id: int, now: datetime) -> "KeyDocument":
        """Forget a retired key's bytes. Raises StepRefused."""
        return self._with(kind, {key_id: replace(self._step(kind, key_id, DESTROYED, now), material=b"")})

    def _step(self, kind: str, key_id: int, state: str, now: datetime) -> Key:
        key = self.of(kind).get(key_id)
        if key is None:
            raise StepRefused(f"there is no {kind} key {key_id}")
        if key.state not in _FROM[state]:
            allowed = " or ".join(sorted(_FROM[state]))
            raise StepRefused(f"{kind} key {key_id} is {key.state}: only one that is {allowed} can become {state}")
        return replace(key, state=state, changed=now)

    def _with(self, kind: str, changes: Mapping[int, Key]) -> "KeyDocument":
        parts = {ENCRYPTION: self.encryption, INDEX: self.index}
        parts[kind] = {**parts[kind], **changes}
        return KeyDocument(**parts)


def fresh(state: str, now: datetime) -> Key:
    """Return a key of random bytes."""
    return Key(state, os.urandom(KEY_BYTES), created=now, changed=now)


def first(now: datetime) -> KeyDocument:
    """Return a document with one primary key of each kind."""
    return KeyDocument({1: fresh(PRIMARY, now)}, {1: fresh(PRIMARY, now)})


def check_id(key_id: int) -> None:
    """Raise KeyRingError for what does not fit into the header of a sealed value."""
    if not 0 < key_id < 1 << 32:
        raise KeyRingError(f"key id {key_id} does not fit into 4 bytes")


def check_length(key_id: int, material: bytes) -> None:
    """Raise KeyRingError for a key of another length than 32 bytes."""
    if len(material) != KEY_BYTES:
        raise KeyRingError(f"key {key_id} has {len(material)} bytes instead of {KEY_BYTES}")


def _check(kind: str, keys: Mapping[int, Key]) -> None:
    primaries = sum(key.state == PRIMARY for key in keys.values())
    if primaries != 1:
        raise KeyRingError(f"there must be one primary {kind} key, not {primaries}")
    for key_id, key in keys.items():
        check_id(key_id)
        if key.state not in STATES:
            raise KeyRingError(f"{kind} key {key_id} has the state {key.state!r}, which is not known here")
        if key.state != DESTROYED:
            check_length(key_id, key.material)
        elif key.material:
            raise KeyRingError(f"{kind} key {key_id} is destroyed, yet its bytes are there")


# -- as JSON


def decode(content: bytes, source: str) -> KeyDocument:
    """Read a document; `source` says in errors where it is from. Raises KeyRingError."""
    try:
        document = json.loads(content)
        read = {1: _without_states, 2: _with_states}.get(document["version"])
        if read is None:
            raise KeyRingError(f"the key ring {source} has version {document['version']}, which is not known here")
        return KeyDocument(read(document[ENCRYPTION]), read(document[INDEX]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise KeyRingError(f"the key ring {source} is damaged: restore it from the backup of the keys") from None


def encode(document: KeyDocument) -> bytes:
    """Write a document, in version 2."""
    content = {"version": _VERSION, **{kind: {"keys": _as_dicts(document.of(kind))} for kind in KINDS}}
    return json.dumps(content, indent=1).encode()


def _without_states(part: Mapping[str, Any]) -> dict[int, Key]:
    primary = int(part["primary"])
    keys = {int(key_id): base64.b64decode(value, validate=True) for key_id, value in part["keys"].items()}
    if primary not in keys:
        raise KeyRingError(f"the primary key {primary} is not among the keys")
    return {key_id: Key(PRIMARY if key_id == primary else ACTIVE, material) for key_id, material in keys.items()}


def _with_states(part: Mapping[str, Any]) -> dict[int, Key]:
    return {int(key_id): _key(value) for key_id, value in part["keys"].items()}


def _key(value: Mapping[str, Any]) -> Key:
    created, changed = (_time(value.get(name)) for name in ("created", "changed"))
    return Key(str(value["state"]), base64.b64decode(value.get("key", ""), validate=True), created, changed)


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def iso(moment: datetime | None) -> str | None:
    """Return a time as it stands in a document."""
    return None if moment is None else moment.isoformat(timespec="seconds")


def _as_dicts(keys: Mapping[int, Key]) -> dict[str, dict[str, str | None]]:
    return {
        str(key_id): {
            "state": key.state,
            "created": iso(key.created),
            "changed": iso(key.changed),
            **({"key": base64.b64encode(key.material).decode()} if key.material else {}),
        }
        for key_id, key in keys.items()
    }
