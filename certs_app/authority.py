"""Make the CAs: an offline-able root, and below it one issuing CA for clients and one for servers."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from django.conf import settings
from django.db import transaction

from certs_app import audit, ca_keys, lint, profiles, revocation_lists
from certs_app.audit import Actor
from certs_app.ca_keys import CaKey, KeyKind
from certs_app.files import write_atomic
from certs_app.models import Issuer

ROOT_LIFE = timedelta(days=3650)
ISSUING_LIFE = timedelta(days=1095)
# Clocks of other machines may run behind ours; a certificate "not yet valid" locks people out.
BACKDATE = timedelta(minutes=5)

ISSUING_KINDS = (Issuer.CLIENTS, Issuer.SERVERS)
USAGE = {Issuer.CLIENTS: profiles.CLIENT, Issuer.SERVERS: profiles.SERVER}
_TITLES = {Issuer.ROOT: "Root CA", Issuer.CLIENTS: "Clients CA", Issuer.SERVERS: "Servers CA"}


class AlreadyInitialised(Exception):
    """There is a CA already."""


class NoRoot(Exception):
    """There is no root that could sign a new issuing CA."""


def init_ca(now: datetime, by: Actor, kind: KeyKind | None = None) -> None:
    """Make the root, both issuing CAs, their first revocation lists and the public files.

    Raises AlreadyInitialised, CaKeyError.
    """
    with _all_or_nothing(now) as made:
        # Inside: of two who begin at once, one finds the other's.
        if Issuer.objects.exists():
            raise AlreadyInitialised("there is a CA already: it is never replaced (--add-issuer adds an issuing CA)")
        root = _add(Issuer.ROOT, None, now, by, kind, made)
        for issuing in ISSUING_KINDS:
            _add(issuing, root, now, by, kind, made)
        revocation_lists.publish(now)


def add_root(now: datetime, by: Actor, kind: KeyKind | None = None) -> Issuer:
    """Make a root beside those there are; it signs the issuing CAs that are added from now on. Raises CaKeyError."""
    with _all_or_nothing(now) as made:
        Issuer.objects.locked()
        root = _add(Issuer.ROOT, None, now, by, kind, made)
        revocation_lists.publish(now)
    return root


def add_issuers(kinds: tuple[str, ...], now: datetime, by: Actor, kind: KeyKind | None = None) -> list[Issuer]:
    """Add an issuing CA of each kind, signed by the newest root. Raises NoRoot, CaKeyError."""
    with _all_or_nothing(now) as made:
        Issuer.objects.locked()
        root = Issuer.objects.newest(Issuer.ROOT, now)
        if root is None:
            raise NoRoot("there is no root CA that still stands: run `manage.py init_ca` first")
        added = [_add(issuing, root, now, by, kind, made) for issuing in kinds]
        revocation_lists.publish(now)
    return added


@contextmanager
def _all_or_nothing(now: datetime) -> Iterator[list[str]]:
    """Run a transaction that makes CAs; when it fails, remove the keys it made (their names are in the list).

    A key without its certificate would stand in the way of the next try.
    """
    made: list[str] = []
    try:
        with transaction.atomic():
            # The lists' file follows the commit. When that fails the CAs are made all the same, and need their keys.
            transaction.on_commit(made.clear)
            yield made
            # Inside: a CA whose certificate cannot be written is no CA.
            write_bundle(now)
    except BaseException:
        for name in made:
            ca_keys.path_of(name).unlink(missing_ok=True)
        raise


def missing_kinds(now: datetime) -> tuple[str, ...]:
    """Return the kinds of issuing CA of which none can sign."""
    return tuple(kind for kind in ISSUING_KINDS if Issuer.objects.newest(kind, now) is None)


def ca_bundle(now: datetime) -> bytes:
    """Return the certificates of all CAs that have not expired as PEM, roots first.

    A revoked one stays: its root's list takes the trust away, and whoever reads that list has to know whom it means.
    """
    roots_first = sorted(
        Issuer.objects.filter(not_after__gt=now).order_by("id"), key=lambda issuer: issuer.kind != Issuer.ROOT
    )
    return b"".join(issuer.certificate.public_bytes(Encoding.PEM) for issuer in roots_first)


def write_bundle(now: datetime) -> None:
    """Write the file of CA certificates that every process reads.

    Not when the database holds none: it may be one that is yet to be restored.
    """
    content = ca_bundle(now)
    if content:
        write_atomic(settings.CA_FILE, content)


def _add(
    kind: str, parent: Issuer | None, now: datetime, by: Actor, key_kind: KeyKind | None, made: list[str]
) -> Issuer:
    number = Issuer.objects.filter(kind=kind).count() + 1
    name = kind if number == 1 else f"{kind}-{number}"
    key = ca_keys.create(name, key_kind)
    made.append(name)
    certificate = _certificate(kind, _subject(f"{_TITLES[kind]} {number}"), key, parent, now)
    issuer = Issuer.objects.create(
        kind=kind,
        name=name,
        der=certificate.public_bytes(Encoding.DER),
        not_after=certificate.not_valid_after_utc,
    )
    audit.record(audit.CA_MADE, by, issuer, now)
    return issuer


def _subject(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, settings.TRUST_DOMAIN),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{settings.TRUST_DOMAIN} {common_name}"),
        ]
    )


def _certificate(kind: str, subject: x509.Name, key: CaKey, parent: Issuer | None, now: datetime) -> x509.Certificate:
    issuer = parent.certificate if parent else None
    life = ISSUING_LIFE if parent else ROOT_LIFE
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(now + life, parent.not_after) if parent else now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if parent else 1), critical=True)
        .add_extension(profiles.key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is not None:
        issuer_key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key_id), critical=False
        ).add_extension(x509.ExtendedKeyUsage([profiles.EKU[USAGE[kind]]]), critical=False)
    lint.check_ca(builder, issuer)
    return builder.sign(ca_keys.load(parent.name) if parent else key, hashes.SHA256())
