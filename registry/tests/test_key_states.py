"""The states of a key, as a document: what follows what, and what is kept."""

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import key_document
from registry.key_document import ENCRYPTION, INDEX, KINDS, STATES, KeyRingError, StepRefused
from registry.keyring import KeyMissing, KeyRing
from registry.tests.conftest import HOUR, NOW

LATER = NOW + HOUR


def states(document, kind=ENCRYPTION):
    return {key_id: key.state for key_id, key in document.of(kind).items()}


@pytest.fixture
def rotated():
    """Key 1 is active, key 2 primary, key 3 staged."""
    document, _ = key_document.first(NOW).add(ENCRYPTION, NOW)
    document, _ = document.promote(ENCRYPTION, 2, LATER).add(ENCRYPTION, LATER)
    return document


def test_a_key_goes_from_staged_to_destroyed(rotated):
    assert states(rotated) == {1: "active", 2: "primary", 3: "staged"}
    retired = rotated.retire(ENCRYPTION, 1, LATER)
    assert states(retired)[1] == "retired"
    assert retired.encryption[1].material == rotated.encryption[1].material, "its bytes are kept"
    destroyed = retired.destroy(ENCRYPTION, 1, LATER)
    assert states(destroyed)[1] == "destroyed"
    assert destroyed.encryption[1].material == b""


def test_a_step_leaves_the_document_and_the_other_kind_as_they_were(rotated):
    before = key_document.encode(rotated)
    after = rotated.promote(ENCRYPTION, 3, LATER)
    assert key_document.encode(rotated) == before
    assert after.index == rotated.index
    assert states(after) == {1: "active", 2: "active", 3: "primary"}


def test_a_staged_and_an_active_key_open_and_the_primary_seals(rotated):
    ring = KeyRing.of(rotated)
    assert ring.encryption.primary == 2
    assert set(ring.encryption.keys) == {1, 2, 3}


def test_a_retired_key_opens_nothing_until_that_is_taken_back(rotated):
    retired = rotated.retire(ENCRYPTION, 1, LATER)
    with pytest.raises(KeyMissing):
        KeyRing.of(retired).aead(1, "x")
    assert KeyRing.of(retired.reactivate(ENCRYPTION, 1, LATER)).aead(1, "x")


def test_the_id_of_a_destroyed_key_is_never_used_again(rotated):
    gone = rotated.retire(ENCRYPTION, 3, LATER).destroy(ENCRYPTION, 3, LATER)
    _, key_id = key_document.decode(key_document.encode(gone), "x").add(ENCRYPTION, LATER)
    assert key_id == 4


@pytest.mark.parametrize(
    ("step", "key_id", "why"),
    [
        ("retire", 2, "is primary"),
        ("destroy", 1, "is active"),
        ("destroy", 2, "is primary"),
        ("destroy", 3, "is staged"),
        ("promote", 2, "is primary"),
        ("reactivate", 1, "is active"),
        ("promote", 9, "no encryption key 9"),
    ],
)
def test_a_step_that_leaves_one_out_is_refused(rotated, step, key_id, why):
    with pytest.raises(StepRefused, match=why):
        getattr(rotated, step)(ENCRYPTION, key_id, LATER)


def test_a_destroyed_key_takes_no_step(rotated):
    gone = rotated.retire(ENCRYPTION, 1, LATER).destroy(ENCRYPTION, 1, LATER)
    for step in (gone.promote, gone.retire, gone.reactivate, gone.destroy):
        with pytest.raises(StepRefused, match="is destroyed"):
            step(ENCRYPTION, 1, LATER)


def test_a_document_of_version_2_is_read_as_it_was_written(rotated):
    assert key_document.decode(key_document.encode(rotated), "x") == rotated


def test_times_say_when_a_key_was_made_and_last_changed(rotated):
    key = json.loads(key_document.encode(rotated))["encryption"]["keys"]["1"]
    assert key["created"] == "2026-05-04T12:00:00+00:00"
    assert key["changed"] == "2026-05-04T13:00:00+00:00"


def test_a_document_of_version_1_becomes_one_of_version_2():
    keys = {"1": "QUFB" * 10 + "QUE=", "2": "QkJC" * 10 + "QkI="}
    old = {"version": 1, "encryption": {"primary": 2, "keys": keys}, "index": {"primary": 1, "keys": {"1": keys["1"]}}}
    document = key_document.decode(json.dumps(old).encode(), "x")
    assert states(document) == {1: "active", 2: "primary"}
    assert key_document.decode(key_document.encode(document), "x") == document
    assert document.encryption[1].created is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": "active"}, "one primary encryption key, not 0"),
        ({"state": "unheard of"}, "one primary encryption key, not 0"),
        ({"key": "AAAA"}, "3 bytes instead of 32"),
        ({"key": None}, "damaged"),
    ],
)
def test_a_wrong_document_is_refused_by_what_is_wrong(changes, why):
    document = json.loads(key_document.encode(key_document.first(NOW)))
    document["encryption"]["keys"]["1"].update(changes)
    with pytest.raises(KeyRingError, match=why):
        key_document.decode(json.dumps(document).encode(), "x")


def test_a_destroyed_key_that_has_bytes_is_refused(rotated):
    document = json.loads(key_document.encode(rotated))
    document["encryption"]["keys"]["1"]["state"] = "destroyed"
    with pytest.raises(KeyRingError, match="its bytes are there"):
        key_document.decode(json.dumps(document).encode(), "x")


def test_keys_are_not_shown_by_their_repr(rotated):
    assert str(rotated.encryption[1].material) not in repr(rotated)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "promote", "retire", "reactivate", "destroy"]),
        st.sampled_from(KINDS),
        st.integers(1, 5),
    ),
    max_size=30,
)


@given(STEPS)
def test_whatever_steps_are_taken_one_key_seals_and_no_id_has_two_keys(steps):
    document, seen = key_document.first(NOW), {}
    for number, (step, kind, key_id) in enumerate(steps):
        now = NOW + timedelta(minutes=number)
        try:
            document = document.add(kind, now)[0] if step == "add" else getattr(document, step)(kind, key_id, now)
        except StepRefused:
            continue
        for kind in (ENCRYPTION, INDEX):
            assert list(states(document, kind).values()).count("primary") == 1
            assert set(states(document, kind).values()) <= set(STATES)
            for key_id, key in document.of(kind).items():
                first = seen.setdefault((kind, key_id), key.material)
                assert key.material in (first, b""), "an id keeps its key until it is destroyed"
                assert first != b"", "and never comes back"
        assert key_document.decode(key_document.encode(document), "x") == document
