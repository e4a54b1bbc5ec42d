"""The check at every request: fail closed, keep the last good list, be cheap."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from certs_app import revocation
from certs_app.identity import Peer
from certs_app.revocation import Revocations, pem_blocks
from certs_app.revocation_lists import publish
from conftest import People
from wire.problems import Problem


def verdict(revocations: Revocations, peer: Peer, **later: float) -> str:
    try:
        revocations.check(peer, timezone.now() + timedelta(**later))
    except Problem as problem:
        return problem.code
    return "welcome"


@pytest.fixture
def always_looking(people: People) -> Revocations:
    return Revocations(django_settings.CRL_FILE)


def test_alice_is_welcome_and_bob_is_not(people: People, always_looking: Revocations) -> None:
    alice, bob = people.peer("alice"), people.peer("bob")
    assert verdict(always_looking, bob) == "welcome"

    people.revoke("bob")

    assert verdict(always_looking, bob) == "certificate_revoked"
    assert verdict(always_looking, alice) == "welcome"


def test_a_certificate_that_expires_during_a_connection_is_refused(people: People, always_looking: Revocations) -> None:
    people.issue("erin", "client", days=1)

    assert verdict(always_looking, people.peer("erin"), days=1) == "certificate_expired"


def test_a_list_past_its_time_refuses_everybody(people: People, always_looking: Revocations) -> None:
    assert verdict(always_looking, people.peer("alice"), hours=django_settings.CRL_HOURS) == "revocation_unknown"


def drop(file: Path) -> None:
    file.unlink()


def junk(file: Path) -> None:
    file.write_bytes(b"junk")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut_short(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - 40])


def only_the_roots(file: Path) -> None:
    file.write_bytes(pem_blocks(file.read_bytes())[0])


@pytest.mark.parametrize("damage", [drop, junk, empty, cut_short, only_the_roots])
def test_without_a_usable_list_nobody_is_trusted(people: People, damage: Callable[[Path], None]) -> None:
    damage(django_settings.CRL_FILE)

    assert verdict(Revocations(django_settings.CRL_FILE), people.peer("alice")) == "revocation_unknown"


@pytest.mark.parametrize("damage", [drop, junk, empty, cut_short])
def test_a_damaged_list_leaves_the_last_good_one_in_force(
    people: People, always_looking: Revocations, damage: Callable[[Path], None]
) -> None:
    alice, bob = people.peer("alice"), people.peer("bob")
    people.revoke("bob")
    assert verdict(always_looking, bob) == "certificate_revoked"

    damage(django_settings.CRL_FILE)

    assert verdict(always_looking, alice) == "welcome"
    assert verdict(always_looking, bob) == "certificate_revoked"


def test_a_repaired_list_is_taken_up(people: People, always_looking: Revocations) -> None:
    alice = people.peer("alice")
    junk(django_settings.CRL_FILE)
    assert verdict(always_looking, alice) == "revocation_unknown"

    publish(timezone.now())

    assert verdict(always_looking, alice) == "welcome"


def test_the_very_next_call_after_a_revocation_is_refused(people: People) -> None:
    revocations = Revocations(django_settings.CRL_FILE)
    bob = people.peer("bob")
    assert verdict(revocations, bob) == "welcome"

    people.revoke("bob")

    assert verdict(revocations, bob) == "certificate_revoked"


def test_an_unchanged_file_is_read_once(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    revocations = Revocations(django_settings.CRL_FILE)
    alice = people.peer("alice")
    assert verdict(revocations, alice) == "welcome"
    monkeypatch.setattr(revocation, "_read", None)

    assert verdict(revocations, alice) == "welcome"


def test_nobody_is_refused_while_the_first_list_is_being_read(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = people.peer("alice")
    reading, go_on = threading.Event(), threading.Event()
    read = revocation._read

    def slowly(file: Path) -> Any:
        reading.set()
        assert go_on.wait(5)
        return read(file)

    monkeypatch.setattr(revocation, "_read", slowly)
    revocations = Revocations(django_settings.CRL_FILE)
    verdicts: list[str] = []
    threads = [threading.Thread(target=lambda: verdicts.append(verdict(revocations, alice))) for _ in range(2)]
    threads[0].start()
    assert reading.wait(5)
    threads[1].start()
    threads[1].join(0.05)
    go_on.set()
    for thread in threads:
        thread.join()

    assert verdicts == ["welcome", "welcome"]
