"""System checks: each misconfiguration is told at start, by its own id."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from django.core.checks import run_checks
from django.utils import timezone

from certs_app.issuing import Request, issue
from certs_app.models import Crl, Issuer
from certs_app.revocation import pem_blocks
from certs_app.revocation_lists import publish
from conftest import People


@pytest.fixture
def configured(people: People, settings: Any) -> People:
    people.issue("localhost", "registry", dns=["localhost"])
    pair = {"certificate": people.folder / "localhost.crt", "key": people.folder / "localhost.key"}
    settings.SERVER_CERTIFICATE, settings.CLIENT_CERTIFICATE = pair, None
    return people


def found() -> list[str]:
    return [message.id or "" for message in run_checks(tags=["certificates"])]


def test_a_good_configuration_has_nothing_to_tell(configured: People) -> None:
    assert found() == []


def unreadable_certificate(folder: Path) -> None:
    (folder / "localhost.crt").unlink()


def junk_certificate(folder: Path) -> None:
    (folder / "localhost.crt").write_bytes(b"junk")


def open_key(folder: Path) -> None:
    (folder / "localhost.key").chmod(0o644)


def missing_key(folder: Path) -> None:
    (folder / "localhost.key").unlink()


def junk_key(folder: Path) -> None:
    (folder / "localhost.key").write_bytes(b"junk")


def key_of_another(folder: Path) -> None:
    (folder / "localhost.key").write_bytes(People(folder).issue("alice", "client").key_pem)


def expired(folder: Path) -> None:
    _issued(folder, timezone.now() - timedelta(days=5), days=4)


def soon_expired(folder: Path) -> None:
    _issued(folder, timezone.now(), days=13)


def _issued(folder: Path, when: Any, days: int) -> None:
    issued = issue(Request("localhost", "registry", days=days, dns=["localhost"]), when, People.operator)
    (folder / "localhost.crt").write_bytes(issued.chain_pem)
    (folder / "localhost.key").write_bytes(issued.key_pem)


def no_ca_bundle(folder: Path) -> None:
    (folder / "ca.crt").unlink()


def junk_ca_bundle(folder: Path) -> None:
    (folder / "ca.crt").write_bytes(b"junk")


def no_list(folder: Path) -> None:
    (folder / "crl.pem").unlink()


def list_cut_short(folder: Path) -> None:
    content = (folder / "crl.pem").read_bytes()
    (folder / "crl.pem").write_bytes(content[: len(content) - 40])


def no_list_of_the_root(folder: Path) -> None:
    lists = (_list_of(Issuer.CLIENTS), _list_of(Issuer.SERVERS))
    (folder / "crl.pem").write_bytes(b"".join(crl.public_bytes(Encoding.PEM) for crl in lists))


def forged_list(folder: Path) -> None:
    genuine = _list_of(Issuer.CLIENTS)
    forged = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(genuine.issuer)
        .last_update(timezone.now())
        .next_update(timezone.now() + timedelta(days=1))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    lists = (_list_of(Issuer.ROOT), forged, _list_of(Issuer.SERVERS))
    (folder / "crl.pem").write_bytes(b"".join(crl.public_bytes(Encoding.PEM) for crl in lists))


def lists_out_of_date(folder: Path) -> None:
    publish(timezone.now() - timedelta(days=30))


def one_list_out_of_date(folder: Path) -> None:
    good = (folder / "crl.pem").read_bytes()
    publish(timezone.now() - timedelta(days=30))
    *_, servers = pem_blocks(good)
    root, clients, _ = pem_blocks((folder / "crl.pem").read_bytes())
    (folder / "crl.pem").write_bytes(root + clients + servers)


def _list_of(issuer: str) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(bytes(Crl.objects.get(issuer__name=issuer).der))


@pytest.mark.parametrize(
    ("misconfigure", "id"),
    [
        (unreadable_certificate, "msgsys.E101"),
        (junk_certificate, "msgsys.E101"),
        (open_key, "msgsys.E102"),
        (missing_key, "msgsys.E102"),
        (junk_key, "msgsys.E102"),
        (key_of_another, "msgsys.E103"),
        (expired, "msgsys.E104"),
        (soon_expired, "msgsys.W105"),
        (no_ca_bundle, "msgsys.E106"),
        (junk_ca_bundle, "msgsys.E106"),
        (no_list, "msgsys.E107"),
        (list_cut_short, "msgsys.E107"),
        (no_list_of_the_root, "msgsys.E108"),
        (forged_list, "msgsys.E109"),
        (lists_out_of_date, "msgsys.E110"),
        (one_list_out_of_date, "msgsys.W112"),
    ],
)
def test_each_misconfiguration_has_its_id(configured: People, misconfigure: Callable[[Path], None], id: str) -> None:
    misconfigure(configured.folder)

    assert set(found()) == {id}


def test_the_client_pair_is_checked_as_well(configured: People, settings: Any) -> None:
    settings.CLIENT_CERTIFICATE = {"certificate": Path("none.crt"), "key": Path("none.key")}

    assert found() == ["msgsys.E101"]


def test_who_has_no_certificate_needs_no_list(configured: People, settings: Any) -> None:
    settings.SERVER_CERTIFICATE = None
    no_list(configured.folder)

    assert found() == []
