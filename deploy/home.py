"""Make what is missing under MSGSYS_HOME: secrets, keys, database, CA, certificates, the first administrator.

Nothing that exists is replaced, and nothing is made anew whose old one data still depends on.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.utils import timezone

from certs_app import authority, ca_keys, revocation_lists, sealing_keys
from certs_app.files import UnsafeFile, read_secret, write_atomic, write_secret
from certs_app.issuing import Request, issue
from certs_app.models import Certificate, Issuer
from certs_app.profiles import CLIENT, SERVER
from portal.accounts import admin_exists, create_staff
from registry import keyring
from registry.models import Message


class HalfMade(Exception):
    """The home lacks something that cannot be made anew without losing data. The message says what to restore."""


class Unusable(Exception):
    """A setting cannot be used. The message says which, and why."""


@dataclass(frozen=True)
class Administrator:
    """The portal's first login. `generated`: the password was made just now and is shown once."""

    user: str
    password: str
    generated: bool


LOOPBACK_DNS = ("localhost",)
LOOPBACK_IP = ("127.0.0.1", "::1")

# (file stem, name, role, usage): every certificate that one machine's processes and its operator need.
CERTIFICATES = [
    ("ingest", "ingest", "ingest", SERVER),
    ("ingest-client", "ingest", "ingest", CLIENT),
    ("worker", "worker", "worker", CLIENT),
    ("worker-server", "worker", "worker", SERVER),
    ("registry", "registry", "registry", SERVER),
    ("portal", "portal", "portal", SERVER),
    ("jobs", "jobs", "jobs", SERVER),
    ("admin", "admin", "admin", CLIENT),
    ("prometheus", "prometheus", "prometheus", CLIENT),
    ("demo", "demo", "client", CLIENT),
]


def prepare(report: Callable[[str], None]) -> Administrator:
    """Make what is missing, saying what is made. Raises HalfMade, Unusable."""
    home: Path = settings.HOME
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_database()
    _make_keys(report)
    _make_ca(report, timezone.now())
    _make_certificates(report, timezone.now())
    return _make_administrator(report)


def _make_database() -> None:
    call_command("migrate", verbosity=0, interactive=False)


def _make_keys(report: Callable[[str], None]) -> None:
    if not settings.KEY_FILE.exists():
        if Message.objects.exists():
            raise HalfMade(f"{settings.KEY_FILE} is gone, but the database holds messages sealed with it: restore it")
        keyring.create(settings.KEY_FILE)
        report("made the key ring")
    if not settings.SEALING_KEY_FILE.exists():
        if settings.SEALING_PUBLIC_FILE.exists():
            raise HalfMade(
                f"{settings.SEALING_KEY_FILE} is gone, but envelopes sealed to it may be queued: restore it, "
                f"or delete {settings.SEALING_PUBLIC_FILE} to make a new one"
            )
        sealing_keys.create(settings.SEALING_KEY_FILE, settings.SEALING_PUBLIC_FILE)
        report("made the sealing key")


def _make_ca(report: Callable[[str], None], now: datetime) -> None:
    if not Issuer.objects.exists():
        try:
            authority.init_ca(now)
        except ca_keys.CaKeyError as error:
            raise HalfMade(str(error)) from None
        report("made the root CA and the issuing CA")
        return
    try:
        ca_keys.load(Issuer.ISSUING)
    except ca_keys.CaKeyError as error:
        raise HalfMade(f"{error}. Restore it from the backup of {settings.CA_KEYS_DIR}.") from None
    write_atomic(settings.CA_FILE, authority.ca_bundle())
    revocation_lists.publish(now)


def _make_certificates(report: Callable[[str], None], now: datetime) -> None:
    made = [stem for stem, name, role, usage in CERTIFICATES if _make_certificate(stem, name, role, usage, now)]
    if made:
        report(f"issued certificates: {', '.join(made)}")


def _make_certificate(stem: str, name: str, role: str, usage: str, now: datetime) -> bool:
    folder = settings.CERTIFICATES_DIR
    certificate_file, key_file = folder / f"{stem}.crt", folder / f"{stem}.key"
    if key_file.exists() and _still_good(certificate_file, now):
        return False
    server = usage == SERVER
    issued = issue(
        Request(
            name=name,
            role=role,
            usage=usage,
            dns=LOOPBACK_DNS if server else (),
            ip=LOOPBACK_IP if server else (),
        ),
        now,
    )
    write_secret(key_file, issued.key_pem, replace=True)
    write_atomic(certificate_file, issued.chain_pem)
    return True


def _still_good(file: Path, now: datetime) -> bool:
    """Tell whether a certificate is ours, stands, and has a third of its life left."""
    try:
        certificate = x509.load_pem_x509_certificates(file.read_bytes())[0]
    except (OSError, ValueError):
        return False
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    known = Certificate.objects.live(now).filter(serial_number=f"{certificate.serial_number:x}").exists()
    return known and certificate.not_valid_after_utc - now > life / 3


def _make_administrator(report: Callable[[str], None]) -> Administrator:
    file = settings.SECRETS_DIR / "admin_password"
    password: str = settings.ADMIN_PASS
    generated = False
    if not password:
        password = _stored_password(file)
    if not admin_exists():
        generated = not password
        if generated:
            password = secrets.token_urlsafe(15)
            write_secret(file, password.encode())
        try:
            create_staff(settings.ADMIN_USER, password, admin=True)
        except ValidationError as error:
            raise Unusable(f"ADMIN_PASS cannot be used: {' '.join(error.messages)}") from None
        report(f"made the administrator {settings.ADMIN_USER}")
    return Administrator(settings.ADMIN_USER, password, generated)


def _stored_password(file: Path) -> str:
    try:
        return read_secret(file).decode()
    except UnsafeFile:
        return ""
