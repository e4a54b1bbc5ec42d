"""What a node believes of the lists it fetches: signed by our CAs, newer, in date. Everything else changes nothing."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from django.test import override_settings
from django.utils import timezone

from certs_app import authority, ca_keys, fetching, metrics, revocation_lists
from certs_app.ca_client import CaAway
from certs_app.fetching import FetchedLists, ListRefused, accept, add_authorities
from certs_app.local_ca import LocalLists
from certs_app.models import Issuer
from certs_app.revocation import number_of, pem_blocks
from conftest import People

Lists = dict[x509.Name, x509.CertificateRevocationList]


@pytest.fixture
def node(people: People, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another machine: it has what the CA published so far."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("ca.crt", "crl.pem"):
        (folder / name).write_bytes((people.folder / name).read_bytes())
    return folder


def lists() -> Lists:
    blocks = pem_blocks(revocation_lists.bundle(timezone.now()))
    return {crl.issuer: crl for crl in (x509.load_pem_x509_crl(block) for block in blocks)}


def take(node: Path, fetched: Lists, now: datetime | None = None) -> bool:
    return accept(fetched, node / "ca.crt", node / "crl.pem", now or timezone.now())


def numbers(node: Path) -> list[int]:
    return [number_of(x509.load_pem_x509_crl(block)) for block in pem_blocks((node / "crl.pem").read_bytes())]


def names_in(node: Path) -> list[bytes]:
    blocks = pem_blocks((node / "crl.pem").read_bytes())
    return [x509.load_pem_x509_crl(block).issuer.rfc4514_string().encode() for block in blocks]


def clients() -> x509.Name:
    return Issuer.objects.get(name="clients").certificate.subject


# Above every number that the CA gives.
LATER = 1 << 40


def made(
    number: int,
    *,
    key: Any = None,
    issuer: x509.Name | None = None,
    begins: timedelta = timedelta(days=-3),
    ends: timedelta = timedelta(days=1),
) -> Any:
    now = timezone.now()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer or clients())
        .last_update(now + begins)
        .next_update(now + ends)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    return builder.sign(key or ca_keys.load("clients"), hashes.SHA256())


def test_a_newer_list_is_taken(people: People, node: Path) -> None:
    people.issue("bob", "client")
    people.revoke("bob")

    before = numbers(node)

    assert take(node, lists())

    assert [after > was for after, was in zip(numbers(node), before, strict=True)] == [False, True, True]
    assert not take(node, lists()), "the same again is nothing new"


def bad_number(good: Lists) -> Lists:
    return {**good, clients(): made(1)}


def bad_signature(good: Lists) -> Lists:
    return {**good, clients(): made(LATER, key=ec.generate_private_key(ec.SECP256R1()))}


def signed_by_a_sister(good: Lists) -> Lists:
    return {**good, clients(): made(LATER, key=ca_keys.load("servers"))}


def from_the_future(good: Lists) -> Lists:
    return {**good, clients(): made(LATER, begins=timedelta(minutes=2))}


def left_out(good: Lists) -> Lists:
    return {issuer: crl for issuer, crl in good.items() if issuer != clients()}


def out_of_date(good: Lists) -> Lists:
    return {**good, clients(): made(LATER, ends=-timedelta(seconds=1))}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (bad_number, "is older: number 1, held is"),
        (bad_signature, "is not signed by it"),
        (signed_by_a_sister, "is not signed by it"),
        (out_of_date, "out of date"),
        (from_the_future, "this machine's clock is behind"),
        (left_out, "is missing"),
    ],
)
def test_one_bad_list_and_nothing_is_taken(
    people: People, node: Path, spoil: Callable[[Lists], Lists], words: str
) -> None:
    people.issue("bob", "client")
    people.revoke("bob")
    take(node, lists())
    before = (node / "crl.pem").read_bytes()
    revocation_lists.publish(timezone.now())

    with pytest.raises(ListRefused, match=words):
        take(node, spoil(lists()))

    assert (node / "crl.pem").read_bytes() == before


def test_a_list_cannot_be_taken_back_in_two_steps(people: People, node: Path) -> None:
    """Left out once, its number would be forgotten, and the list of before bob's revocation be newer than none."""
    before = lists()
    people.issue("bob", "client")
    people.revoke("bob")
    take(node, lists())
    revocation_lists.publish(timezone.now())
    for offered in (left_out(lists()), {**lists(), clients(): before[clients()]}):
        with pytest.raises(ListRefused):
            take(node, offered)


def test_of_a_ca_that_has_ended_no_list_is_needed_any_more(people: People, node: Path) -> None:
    ended = Issuer.objects.get(name="clients").not_after + timedelta(days=1)
    revocation_lists.publish(ended)

    assert take(node, left_out(lists()), ended)


def test_the_list_of_a_root_this_node_was_not_given_yet_holds_up_no_other(people: People, node: Path) -> None:
    authority.add_root(timezone.now(), People.operator)
    people.issue("bob", "client")
    people.revoke("bob")

    assert take(node, lists())
    assert len(numbers(node)) == 3


def test_a_revoked_ca_whose_list_has_ended_holds_up_no_other(people: People, node: Path) -> None:
    revocation_lists.revoke_issuer(Issuer.objects.get(name="clients"), "ca_compromise", timezone.now(), People.operator)
    outdated = {**lists(), clients(): made(LATER, ends=-timedelta(seconds=1))}

    assert take(node, outdated)
    assert fetching.are_usable(node / "ca.crt", node / "crl.pem", timezone.now())


def test_a_damaged_file_is_replaced_by_what_our_cas_signed(people: People, node: Path) -> None:
    (node / "crl.pem").write_bytes(b"junk")

    assert take(node, lists())
    assert numbers(node) == [number_of(crl) for crl in lists().values()]


def test_a_new_issuing_ca_is_trusted_because_our_root_signed_it(people: People, node: Path) -> None:
    authority.add_issuers(("clients",), timezone.now(), People.operator)
    new = Issuer.objects.get(name="clients-2").certificate.subject
    take(node, lists())
    assert new.rfc4514_string().encode() not in b"".join(names_in(node))

    add_authorities(authority.ca_bundle(timezone.now()), node / "ca.crt", timezone.now())

    assert len(x509.load_pem_x509_certificates((node / "ca.crt").read_bytes())) == 4
    assert take(node, lists())
    assert new.rfc4514_string().encode() in names_in(node)


def test_a_root_or_a_ca_that_no_root_of_ours_signed_is_never_added(people: People, node: Path) -> None:
    before = (node / "ca.crt").read_bytes()
    root = authority.add_root(timezone.now(), People.operator)
    authority.add_issuers(("clients",), timezone.now(), People.operator)
    leaf = people.issue("alice", "client").row.certificate.public_bytes(Encoding.PEM)
    strange = [root, *Issuer.objects.filter(name="clients-2")]

    offered = b"".join(one.certificate.public_bytes(Encoding.PEM) for one in strange) + leaf
    add_authorities(offered, node / "ca.crt", timezone.now())

    assert (node / "ca.crt").read_bytes() == before


class Registry:
    """Answers as the registry would, or not at all."""

    def __init__(self) -> None:
        self.content: bytes | None = b""
        self.error: Exception | None = None

    def get(self, path: str, tag: str = "") -> tuple[bytes | None, str]:
        if self.error:
            raise self.error
        return (authority.ca_bundle(timezone.now()), "") if path == "/ca.pem" else (self.content, "tag")


@pytest.fixture
def fetched(node: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[FetchedLists, Registry]:
    settings.CA_FILE, settings.CRL_FILE = node / "ca.crt", node / "crl.pem"
    registry = Registry()
    monkeypatch.setattr(fetching, "RemoteCa", lambda: registry)
    return FetchedLists(), registry


def outcomes(fetched: FetchedLists) -> str:
    before = {name: metrics.CRL_FETCHES.labels(name)._value.get() for name in OUTCOMES}
    fetched.refresh(timezone.now())
    (changed,) = [name for name in OUTCOMES if metrics.CRL_FETCHES.labels(name)._value.get() > before[name]]
    return changed


OUTCOMES = ("newer", "unchanged", "refused", "failed")


def test_each_look_is_counted_and_none_ever_raises(fetched: tuple[FetchedLists, Registry], people: People) -> None:
    looking, registry = fetched
    registry.content = revocation_lists.bundle(timezone.now())
    assert outcomes(looking) == "unchanged"
    registry.content = None
    assert outcomes(looking) == "unchanged"
    registry.content = b"<html>a proxy's page</html>"
    assert outcomes(looking) == "refused"
    registry.error = CaAway("no answer")
    assert outcomes(looking) == "failed"
    registry.error = None
    with override_settings(CA_FILE=people.folder / "ca.crt", CRL_FILE=people.folder / "crl.pem"):
        authority.add_issuers(("servers",), timezone.now(), People.operator)
    registry.content = revocation_lists.bundle(timezone.now())
    assert outcomes(looking) == "newer"
    ends = min(crl.next_update_utc.timestamp() for crl in lists().values() if crl.next_update_utc)
    assert metrics.CRL_NEXT_UPDATE._value.get() == ends


def test_a_process_beside_the_ca_follows_what_others_publish(people: People) -> None:
    looking = LocalLists()
    looking.refresh(timezone.now())
    (people.folder / "ca.crt").unlink()
    people.issue("bob", "client")
    people.revoke("bob")
    newest = (people.folder / "crl.pem").read_bytes()
    (people.folder / "crl.pem").write_bytes(b"another machine's, of before")

    looking.refresh(timezone.now())

    assert (people.folder / "crl.pem").read_bytes() == newest
    assert (people.folder / "ca.crt").exists()
