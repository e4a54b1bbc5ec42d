"""The check at every request: fail closed, keep the last good list, be cheap."""

import dataclasses
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
from certs_app.models import Issuer
from certs_app.revocation import Revocations, pem_blocks
from certs_app.revocation_lists import publish, revoke_issuer
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
    return Revocations(django_settings.CRL_FILE, django_settings.CA_FILE)


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

    revocations = Revocations(django_settings.CRL_FILE, django_settings.CA_FILE)
    assert verdict(revocations, people.peer("alice")) == "revocation_unknown"


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


def test_an_older_list_is_not_taken_and_the_log_names_both_numbers(
    people: People, always_looking: Revocations, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = people.peer("alice"), people.peer("bob")
    older = django_settings.CRL_FILE.read_bytes()
    people.revoke("bob")
    assert verdict(always_looking, bob) == "certificate_revoked"

    django_settings.CRL_FILE.write_bytes(older)

    assert verdict(always_looking, alice) == "welcome"
    assert verdict(always_looking, bob) == "certificate_revoked"
    (line,) = [record for record in caplog.records if "older revocation list" in record.getMessage()]
    assert (line.levelname, line.held, line.offered) == ("ERROR", line.offered + 1, line.held - 1)
    assert "CN=" in line.issuer


def test_a_list_that_leaves_a_ca_out_is_not_taken(
    people: People, always_looking: Revocations, caplog: pytest.LogCaptureFixture
) -> None:
    alice = people.peer("alice")
    assert verdict(always_looking, alice) == "welcome"

    only_the_roots(django_settings.CRL_FILE)

    assert verdict(always_looking, alice) == "welcome"
    (line,) = [record for record in caplog.records if "older revocation list" in record.getMessage()]
    assert line.offered is None


def test_the_same_lists_written_again_are_fine(people: People, always_looking: Revocations) -> None:
    alice = people.peer("alice")
    assert verdict(always_looking, alice) == "welcome"
    lists = pem_blocks(django_settings.CRL_FILE.read_bytes())

    django_settings.CRL_FILE.write_bytes(b"".join(reversed(lists)))

    assert verdict(always_looking, alice) == "welcome"


def test_the_very_next_call_after_a_revocation_is_refused(people: People) -> None:
    revocations = Revocations(django_settings.CRL_FILE, django_settings.CA_FILE)
    bob = people.peer("bob")
    assert verdict(revocations, bob) == "welcome"

    people.revoke("bob")

    assert verdict(revocations, bob) == "certificate_revoked"


def test_an_unchanged_file_is_read_once(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    revocations = Revocations(django_settings.CRL_FILE, django_settings.CA_FILE)
    alice = people.peer("alice")
    assert verdict(revocations, alice) == "welcome"
    monkeypatch.setattr(revocation, "_read", None)

    assert verdict(revocations, alice) == "welcome"


def test_nobody_is_refused_while_the_first_list_is_being_read(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = people.peer("alice")
    reading, go_on = threading.Event(), threading.Event()
    read = revocation._read

    def slowly(*files: Path) -> Any:
        reading.set()
        assert go_on.wait(5)
        return read(*files)

    monkeypatch.setattr(revocation, "_read", slowly)
    revocations = Revocations(django_settings.CRL_FILE, django_settings.CA_FILE)
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


def test_whoever_has_a_revoked_cas_key_is_refused_with_certificates_that_no_list_names(people: People) -> None:
    revocations = Revocations(django_settings.CRL_FILE, django_settings.CA_FILE)
    alice = people.peer("alice")
    minted = dataclasses.replace(alice, serial_number="beef", fingerprint="0" * 64)
    server = people.peer("node", "registry")
    assert verdict(revocations, minted) == "welcome"

    revoke_issuer(Issuer.objects.get(name="clients"), "ca_compromise", timezone.now(), People.operator)

    assert verdict(revocations, minted) == "certificate_revoked"
    assert verdict(revocations, alice) == "certificate_revoked"
    assert verdict(revocations, server) == "welcome"
