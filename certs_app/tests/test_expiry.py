"""What comes to its end is told in time."""

from datetime import timedelta

import pytest
from django.utils import timezone

from certs_app import authority, expiry, metrics
from certs_app.models import Certificate, Issuer
from conftest import People


def names(now_in: timedelta = timedelta()) -> set[str]:
    return set(expiry.expiring(timezone.now() + now_in).values_list("name", flat=True))


def test_a_certificate_without_a_successor_is_told_a_month_before(people: People) -> None:
    people.issue("alice", "client", days=40)
    people.issue("bob", "client", days=20)
    people.issue("carl", "client", days=20)
    people.issue("carl", "client", days=100)

    assert names() == {"bob"}
    assert names(timedelta(days=11)) == {"alice", "bob"}

    expiry.watch(timezone.now())
    assert metrics.EXPIRING._value.get() == 1


def test_what_is_revoked_or_expired_is_told_no_more(people: People) -> None:
    people.issue("alice", "client", days=20)
    people.issue("bob", "client", days=10)
    people.revoke("alice")

    assert names() == {"bob"}
    assert names(timedelta(days=10)) == set()


def test_a_ca_that_nears_its_end_is_warned_of_once_a_day_until_it_has_a_successor(
    people: People, caplog: pytest.LogCaptureFixture
) -> None:
    def warned() -> list[str]:
        found = [vars(record)["ca"] for record in caplog.records if "nears its end" in record.message]
        caplog.clear()
        return found

    expiry.watch(timezone.now())
    assert warned() == []
    soon = Issuer.objects.get(name="clients").not_after - timedelta(days=100)

    expiry.watch(soon)
    assert warned() == ["clients", "servers"]
    expiry.watch(soon + timedelta(seconds=1))
    assert warned() == []

    authority.add_issuers(("clients",), soon, People.operator)
    expiry.watch(soon + timedelta(days=1))
    assert warned() == ["servers"]
    assert metrics.CA_NOT_AFTER.labels("clients-2")._value.get() == Issuer.objects.latest("id").not_after.timestamp()


def test_nothing_is_told_twice_over_the_same_owner(people: People) -> None:
    for _ in range(2):
        people.issue("alice", "client", days=20)
    later = Certificate.objects.latest("id")
    Certificate.objects.filter(pk=later.pk).update(not_after=later.not_after + timedelta(hours=1))

    assert list(expiry.expiring(timezone.now())) == [later]
