"""Who a certificate belongs to: its single SAN URI and nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from certs_app.identity import IdentityError, Peer, spiffe_uri

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime(2026, 1, 31, tzinfo=UTC)


def certificate(*uris: str, san: bool = True, **subject: str) -> bytes:
    name = x509.Name([x509.NameAttribute(getattr(NameOID, oid), value) for oid, value in subject.items()])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(KEY.public_key())
    builder = builder.serial_number(0x0ABC).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    if san:
        names: list[Any] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example.org"), *names]), False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def refusal(der: bytes) -> str:
    with pytest.raises(IdentityError) as error:
        Peer.from_der(der, "msgsys")
    return str(error.value)


def test_role_and_name_come_from_the_uri() -> None:
    peer = Peer.from_der(certificate("spiffe://msgsys/client/alice"), "msgsys")

    assert (peer.role, peer.name, peer.serial_number) == ("client", "alice", "abc")
    assert peer.not_after == NOW + timedelta(days=1)


def test_common_name_and_unit_are_never_looked_at() -> None:
    subject = {"COMMON_NAME": "root", "ORGANIZATIONAL_UNIT_NAME": "admin"}

    assert Peer.from_der(certificate("spiffe://msgsys/client/alice", **subject), "msgsys").role == "client"
    assert "not 0" in refusal(certificate(**subject))
    assert "no SAN" in refusal(certificate(san=False, **subject))


def test_two_uris_are_refused() -> None:
    assert "not 2" in refusal(certificate("spiffe://msgsys/client/alice", "spiffe://msgsys/admin/alice"))
    assert "not 2" in refusal(certificate("spiffe://msgsys/client/alice", "https://example.org"))


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://elsewhere/client/alice",
        "spiffe://msgsys.example.org/client/alice",
        "spiffe://MSGSYS/client/alice",
        "https://msgsys/client/alice",
        "spiffe://msgsys/client",
        "spiffe://msgsys/client/alice/more",
        "spiffe:///client/alice",
        "spiffe://user@msgsys/client/alice",
        "spiffe://msgsys:443/client/alice",
        "msgsys/client/alice",
        "",
    ],
)
def test_another_trust_domain_or_form_is_refused(uri: str) -> None:
    assert "not of this trust domain" in refusal(certificate(uri))


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://msgsys/root/alice",
        "spiffe://msgsys/Client/alice",
        "spiffe://msgsys/client/",
        "spiffe://msgsys/client/Alice",
        "spiffe://msgsys/client/alice?admin",
        "spiffe://msgsys/client/alice#admin",
        "spiffe://msgsys/client/%61lice",
        "spiffe://msgsys/client/..",
        "spiffe://msgsys//alice",
    ],
)
def test_an_unknown_role_or_name_is_refused(uri: str) -> None:
    assert "role or name is not known" in refusal(certificate(uri))


@given(st.binary(max_size=300))
def test_noise_is_an_identity_error(der: bytes) -> None:
    assert "cannot be read" in refusal(der)


def test_the_uri_is_what_the_certificate_is_read_by() -> None:
    peer = Peer.from_der(certificate(spiffe_uri("msgsys", "worker", "pump-7.plant_2")), "msgsys")

    assert (peer.role, peer.name) == ("worker", "pump-7.plant_2")
