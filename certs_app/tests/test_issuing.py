"""Issuing: the role's profile decides everything, and a CSR brings its key only."""

import ipaddress
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from django.db import IntegrityError
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from certs_app import ca_keys
from certs_app.identity import ROLES, Peer
from certs_app.issuing import IssuingRefused, Request, issue
from certs_app.models import Certificate, Issuer
from certs_app.profiles import DEFAULT_DAYS, EKU, PROFILES
from conftest import People

KEY = ec.generate_private_key(ec.SECP256R1())
COMBINATIONS = [(role, usage) for role, profile in PROFILES.items() for usage in profile.usages]


def csr(key: Any = KEY, extensions: list[x509.ExtensionType] | None = None, **subject: str) -> bytes:
    attributes = [x509.NameAttribute(getattr(NameOID, name), value) for name, value in subject.items()]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    for extension in extensions or []:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def wrong(**changes: Any) -> str:
    """Ask for a certificate that must be refused; return the words of the refusal."""
    request = Request(**{"name": "alice", "role": "client", **changes})
    with pytest.raises(IssuingRefused) as refusal:
        issue(request, timezone.now(), People.operator)
    return str(refusal.value)


# --- the profile decides ----------------------------------------------------------------------------------------------


def test_every_role_has_a_profile() -> None:
    assert set(PROFILES) == set(ROLES)


@pytest.mark.parametrize(("role", "usage"), COMBINATIONS)
def test_a_certificate_has_exactly_what_its_profile_says(people: People, role: str, usage: str) -> None:
    names = {"dns": ["Node.example.org"], "ip": ["192.0.2.7", "2001:db8::7"]} if usage == "server" else {}
    certificate = people.issue("node", role, usage=usage, **names).row.certificate
    found = {extension.oid._name: extension for extension in certificate.extensions}

    assert set(found) == {
        "basicConstraints",
        "keyUsage",
        "extendedKeyUsage",
        "subjectAltName",
        "subjectKeyIdentifier",
        "authorityKeyIdentifier",
    }
    assert {name for name, extension in found.items() if extension.critical} == {"basicConstraints", "keyUsage"}
    assert list(found["extendedKeyUsage"].value) == [EKU[usage]]
    assert found["basicConstraints"].value.ca is False
    assert [name for name, used in vars(found["keyUsage"].value).items() if used] == ["_digital_signature"]
    expected: list[Any] = [f"spiffe://msgsys/{role}/node"]
    if names:
        expected += ["node.example.org", *(ipaddress.ip_address(address) for address in names["ip"])]
    assert [name.value for name in found["subjectAltName"].value] == expected
    assert certificate.subject.rfc4514_string() == "CN=node"


hostile_names = st.lists(
    st.sampled_from(
        [
            x509.UniformResourceIdentifier("spiffe://msgsys/admin/root"),
            x509.UniformResourceIdentifier("spiffe://elsewhere/client/alice"),
            x509.DNSName("registry.example.org"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.RFC822Name("root@example.org"),
        ]
    ),
    min_size=1,
)
hostile_extensions = st.lists(
    st.one_of(
        st.builds(x509.BasicConstraints, ca=st.just(True), path_length=st.none() | st.integers(0, 3)),
        st.builds(x509.SubjectAlternativeName, hostile_names),
        st.builds(x509.ExtendedKeyUsage, st.lists(st.sampled_from(list(EKU.values())), min_size=1, unique=True)),
        st.just(x509.NameConstraints([x509.DNSName("example.org")], None)),
        st.just(x509.TLSFeature([x509.TLSFeatureType.status_request])),
    ),
    unique_by=lambda extension: extension.oid,
)
hostile_subjects = st.fixed_dictionaries(
    {},
    optional={
        name: st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=16)
        for name in ("COMMON_NAME", "ORGANIZATION_NAME", "ORGANIZATIONAL_UNIT_NAME", "LOCALITY_NAME")
    },
)


@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extensions=hostile_extensions, subject=hostile_subjects, combination=st.sampled_from(COMBINATIONS))
def test_nothing_a_csr_asks_for_is_granted(
    people: People, extensions: list[x509.ExtensionType], subject: dict[str, str], combination: tuple[str, str]
) -> None:
    role, usage = combination
    now = timezone.now()
    key = ec.generate_private_key(ec.SECP256R1())

    dns = ["node.example.org"] if usage == "server" else ()
    hostile, plain_csr = csr(key, extensions, **subject), csr(key)
    asked = issue(Request("node", role, usage, dns=dns, csr=hostile), now, People.operator).row.certificate
    plain = issue(Request("node", role, usage, dns=dns, csr=plain_csr), now, People.operator).row.certificate

    assert list(asked.extensions) == list(plain.extensions)
    assert asked.subject == plain.subject
    assert (asked.not_valid_before_utc, asked.not_valid_after_utc) == (
        plain.not_valid_before_utc,
        plain.not_valid_after_utc,
    )


def test_the_row_says_what_the_certificate_says(people: People) -> None:
    issued = people.issue("alice", "client")
    certificate = x509.load_pem_x509_certificate(issued.chain_pem)
    peer = Peer.from_der(certificate.public_bytes(Encoding.DER), "msgsys")

    assert certificate == issued.row.certificate
    assert (peer.role, peer.name) == (issued.row.role, issued.row.name)
    assert (peer.serial_number, peer.fingerprint) == (issued.row.serial_number, issued.row.fingerprint)
    assert certificate.not_valid_after_utc == issued.row.not_after


def test_the_chain_ends_below_the_root(people: People) -> None:
    leaf, issuing = x509.load_pem_x509_certificates(people.issue("alice", "client").chain_pem)

    leaf.verify_directly_issued_by(issuing)
    assert issuing == Issuer.objects.get(name=Issuer.CLIENTS).certificate
    with pytest.raises((InvalidSignature, ValueError)):
        leaf.verify_directly_issued_by(Issuer.objects.get(name=Issuer.ROOT).certificate)


# --- serial numbers and validity -----------------------------------------------------------------------------------


def test_serial_numbers_are_random_positive_and_short_enough(people: People) -> None:
    """RFC 5280 §4.1.2.2: at most 20 octets; 64 random bits and more against chosen-prefix collisions."""
    numbers = [people.issue("alice", "client").row.certificate.serial_number for _ in range(20)]

    assert len(set(numbers)) == 20
    assert all(0 < number < 1 << 159 for number in numbers)
    assert max(numbers) > 1 << 140


def test_the_database_refuses_a_serial_number_twice(people: People) -> None:
    row = people.issue("alice", "client").row
    row.pk, row.fingerprint = None, "0" * 64

    with pytest.raises(IntegrityError):
        row.save()


def test_validity_is_the_roles_own_or_what_was_asked(people: People) -> None:
    now = timezone.now()
    usual, asked = (
        issue(Request("a", "client"), now, People.operator).row,
        issue(Request("b", "client", days=5), now, People.operator).row,
    )

    assert usual.not_after == (now + timedelta(days=DEFAULT_DAYS)).replace(microsecond=0)
    assert asked.not_after == (now + timedelta(days=5)).replace(microsecond=0)
    # Clocks of other machines run behind.
    assert now - usual.not_before >= timedelta(minutes=5)


def test_a_leaf_never_outlives_its_issuer(people: People) -> None:
    issuer = Issuer.objects.get(name=Issuer.CLIENTS)

    late = issue(Request("alice", "client", days=90), issuer.not_after - timedelta(days=10), People.operator).row

    assert late.not_after == issuer.not_after


def test_an_expired_issuer_issues_nothing(people: People) -> None:
    issuer = Issuer.objects.get(name=Issuer.CLIENTS)

    with pytest.raises(IssuingRefused, match="init_ca --add-issuer clients"):
        issue(Request("alice", "client"), issuer.not_after + timedelta(seconds=1), People.operator)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "Alice", "alice smith", "-alice", "alice.", "alice/root", "älice", "a" * 65, "alice\n", "a\0b", "..", "*"],
)
def test_a_bad_name_is_refused_with_the_rule(people: People, name: str) -> None:
    assert "use 1 to 64 of a-z" in wrong(name=name)


@pytest.mark.parametrize("name", ["a", "0", "a" * 64, "pump-7.plant_2"])
def test_good_names_are_taken(people: People, name: str) -> None:
    peer = Peer.from_der(bytes(people.issue(name, "client").row.der), "msgsys")

    assert peer.name == name


def test_an_unknown_role_is_refused_with_the_known_ones(people: People) -> None:
    assert "roles are client, gateway" in wrong(role="root")


def test_a_usage_the_role_lacks_is_refused(people: People) -> None:
    assert "role client has no server certificates" in wrong(usage="server")


@pytest.mark.parametrize(("role", "most"), [("client", 730), ("admin", 397)])
def test_a_validity_beyond_the_roles_limit_is_refused(people: People, role: str, most: int) -> None:
    for days in (-1, most + 1):
        assert f"role {role} is valid for 1 to {most} days, not {days}" in wrong(role=role, days=days)
    assert issue(Request("alice", role, days=most), timezone.now(), People.operator).row.role == role


@pytest.mark.parametrize("names", [{"dns": ["a.example.org"]}, {"ip": ["192.0.2.1"]}])
def test_a_client_certificate_carries_no_host_names(people: People, names: dict[str, list[str]]) -> None:
    assert "only server certificates" in wrong(**names)


@pytest.mark.parametrize(
    "dns",
    ["", "a b", "*.example.org", "a..b", "-a.example.org", "a\n", "https://a", "ä.example.org", "a" * 64, "a.b" * 99],
)
def test_a_bad_host_name_is_refused(people: People, dns: str) -> None:
    assert "is no host name" in wrong(role="registry", dns=[dns])


def test_an_address_among_the_host_names_is_refused(people: People) -> None:
    assert "'127.0.0.1' is an address" in wrong(role="registry", dns=["127.0.0.1"])


@pytest.mark.parametrize("ip", ["", "localhost", "300.0.0.1", "192.0.2.0/24"])
def test_a_bad_address_is_refused(people: People, ip: str) -> None:
    assert "an address cannot be used" in wrong(role="registry", ip=[ip])


@pytest.mark.django_db
def test_without_a_ca_nothing_is_issued() -> None:
    assert "run `manage.py init_ca` first" in wrong()


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 3072),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p384", "ed25519", "rsa3072", "rsa2048"],
)
def test_strong_keys_are_taken_and_no_key_is_made(people: People, key: Any) -> None:
    issued = people.issue("alice", "client", csr=csr(key))

    assert issued.row.certificate.public_key() == key.public_key()
    assert issued.key_pem == b""


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        dsa.generate_private_key(2048),
    ],
    ids=["rsa1024", "p521", "secp256k1", "dsa"],
)
def test_weak_and_unusual_keys_are_refused(people: People, key: Any) -> None:
    assert "keys are EC P-256 or P-384" in wrong(csr=csr(key))


def test_a_csr_that_its_key_did_not_sign_is_refused(people: People) -> None:
    der = bytearray(x509.load_pem_x509_csr(csr()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)

    assert "signature does not fit" in wrong(csr=forged)


@pytest.mark.parametrize(
    "junk", [b"junk", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_a_csr_that_cannot_be_read_is_refused(people: People, junk: bytes) -> None:
    assert "must be PEM" in wrong(csr=junk)


def test_the_key_of_a_revoked_certificate_is_burnt_for_everybody(people: People) -> None:
    people.issue("alice", "client", csr=csr())
    people.revoke("alice", "key_compromise")

    for name in ("alice", "mallory"):
        assert "belonged to a revoked certificate" in wrong(name=name, csr=csr())


def test_the_key_of_another_owner_is_refused(people: People) -> None:
    people.issue("alice", "client", csr=csr())

    assert "another certificate's owner" in wrong(name="mallory", csr=csr())
    assert "another certificate's owner" in wrong(role="admin", csr=csr())


@pytest.mark.parametrize("ca", ["root", "clients", "servers"])
def test_the_key_of_a_ca_is_refused(people: People, ca: str) -> None:
    assert "this key is a CA's" in wrong(csr=csr(ca_keys.load(ca)))


def test_an_owner_may_renew_with_the_same_key(people: People) -> None:
    people.issue("alice", "client", csr=csr())
    people.issue("alice", "client", csr=csr())

    assert Certificate.objects.filter(name="alice").count() == 2


def test_a_refused_request_leaves_no_row(people: People) -> None:
    wrong(role="registry", dns=["a b"])

    assert not Certificate.objects.exists()
