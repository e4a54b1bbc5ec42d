"""Those who must not come in, and how each is kept out."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from django.utils import timezone

from certs_app import ca_keys
from certs_app.issuing import Request, issue
from conftest import People


def strangers(people: People) -> None:
    """Make bob (revoked), frank (a server), erin (expired), dave (not yet valid) and carol (of another CA)."""
    people.issue("bob", "client")
    people.revoke("bob", "key_compromise")
    people.issue("frank", "registry", dns=["frank.example.org"])
    _at(people, "erin", timezone.now() - timedelta(days=2))
    _at(people, "dave", timezone.now() + timedelta(days=2))
    _carol(people)


def serial_number(people: People, name: str) -> str:
    return f"{_shown(people, name).serial_number:x}"


def _shown(people: People, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((people.folder / f"{name}.crt").read_bytes())


def _at(people: People, name: str, now: datetime) -> None:
    issued = issue(Request(name=name, role="client", days=1), now, People.operator)
    (people.folder / f"{name}.crt").write_bytes(issued.chain_pem)
    (people.folder / f"{name}.key").write_bytes(issued.key_pem)


def _carol(people: People) -> None:
    """Copy alice's certificate under a CA of the very same name, with a key of its own."""
    other_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    genuine = _shown(people, "alice")
    ca = (
        _blank(genuine, other_key)
        .subject_name(genuine.issuer)
        .public_key(other_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(other_key, hashes.SHA256())
    )
    copied = _blank(genuine, other_key).subject_name(genuine.subject).public_key(key.public_key())
    for extension in genuine.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            copied = copied.add_extension(extension.value, extension.critical)
    certificate = copied.serial_number(genuine.serial_number + 1).sign(other_key, hashes.SHA256())
    chain = certificate.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM)
    (people.folder / "carol.crt").write_bytes(chain)
    (people.folder / "carol.key").write_bytes(ca_keys.private_pem(key))


def _blank(genuine: x509.Certificate, issuer_key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(genuine.issuer)
        .not_valid_before(genuine.not_valid_before_utc)
        .not_valid_after(genuine.not_valid_after_utc)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
