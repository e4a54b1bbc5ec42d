"""Make what is missing under MSGSYS_HOME: secrets, keys, database, CA, certificates, the first administrator.

Nothing that exists is replaced, and nothing is made anew whose old one data still depends on.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import DatabaseError
from django.utils import timezone

from certs_app import authority, ca_keys, revocation_lists, sealing_keys
from certs_app.audit import Actor
from certs_app.files import UnsafeFile, read_secret, write_secret
from certs_app.identity import serial_hex
from certs_app.issuing import Request, issue
from certs_app.models import Certificate, Issuer
from certs_app.own_certificates import renewal_time
from certs_app.pairs import replace_pair
from certs_app.profiles import CLIENT, SERVER
from certs_app.renewing import renew
from portal.accounts import admin_exists, create_staff, find_admin
from registry import keyring
from registry.models import Message


class HalfMade(Exception):
    """The home lacks something that cannot be made anew without losing data. The message says what to restore."""


class Unusable(Exception):
    """A setting cannot be used. The message says which, and why."""


@dataclass(frozen=True)
class Administrator:
    """A login for the portal. `password` is empty when only its owner knows it; `kept` says where it is written.

    `generated`: the password was made just now and is shown once.
    """

    user: str
    password: str
    kept: str
    generated: bool = False


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
    ("portal-client", "portal", "portal", CLIENT),
    ("jobs", "jobs", "jobs", SERVER),
    ("admin", "admin", "admin", CLIENT),
    ("prometheus", "prometheus", "prometheus", CLIENT),
    ("demo", "demo", "client", CLIENT),
]


def prepare(report: Callable[[str], None]) -> Administrator:
    """Make what is missing, saying what is made. Raises HalfMade, Unusable."""
    _make_database()
    _make_keys(report)
    _make_ca(report, timezone.now())
    _make_certificates(report, timezone.now())
    return _make_administrator(report)


def _make_database() -> None:
    try:
        call_command("migrate", verbosity=0, interactive=False)
    except DatabaseError as error:
        name = settings.DATABASES["default"]["NAME"]
        raise Unusable(f"the database {name} cannot be used: {error}. If it is damaged, restore its backup.") from None


def _make_keys(report: Callable[[str], None]) -> None:
    if not settings.KEY_COMMAND and not settings.KEY_FILE.exists():
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
    elif not settings.SEALING_PUBLIC_FILE.exists():
        try:
            sealing_keys.publish(settings.SEALING_KEY_FILE, settings.SEALING_PUBLIC_FILE)
        except sealing_keys.SealingKeyError as error:
            raise HalfMade(str(error)) from None
        report("wrote the public sealing key again")


def _make_ca(report: Callable[[str], None], now: datetime) -> None:
    if not Issuer.objects.exists():
        try:
            authority.init_ca(now, Actor.operator())
        except ca_keys.CaKeyError as error:
            raise HalfMade(str(error)) from None
        report("made the root CA and its two issuing CAs")
        return
    try:
        for issuer in Issuer.objects.live(now).exclude(kind=Issuer.ROOT):
            ca_keys.load(issuer.name)
        missing = authority.missing_kinds(now)
        if missing:
            authority.add_issuers(missing, now, Actor.operator())
            report(f"made issuing CAs: {', '.join(missing)}")
    except (ca_keys.CaKeyError, authority.NoRoot) as error:
        raise HalfMade(f"{error}. Restore it from the backup of {settings.CA_KEYS_DIR}.") from None
    authority.write_bundle(now)
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
    present = _present(certificate_file, now)
    if present is not None:
        issued = renew(present, b"", now, Actor.operator())
    else:
        hosts: dict[str, Any] = {"dns": LOOPBACK_DNS, "ip": LOOPBACK_IP} if usage == SERVER else {}
        issued = issue(Request(name, role, usage, **hosts), now, Actor.operator())
    replace_pair(certificate_file, key_file, issued.chain_pem, issued.key_pem)
    return True


def _still_good(file: Path, now: datetime) -> bool:
    """Tell whether a certificate is ours, stands, and is not due for renewal."""
    present = _present(file, now)
    return present is not None and now < renewal_time(present.certificate)


def _present(file: Path, now: datetime) -> Certificate | None:
    """Return the certificate in a file, if this CA issued it and it stands."""
    try:
        certificate = x509.load_pem_x509_certificates(file.read_bytes())[0]
    except (OSError, ValueError):
        return None
    return Certificate.objects.current(now).filter(serial_number=serial_hex(certificate.serial_number)).first()


def _make_administrator(report: Callable[[str], None]) -> Administrator:
    if not admin_exists():
        return _first_administrator(report)
    found = find_admin(settings.ADMIN_USER)
    assert found is not None
    user = found.get_username()
    if user != settings.ADMIN_USER:
        report(f"the administrator {user} exists already; manage.py create_staff makes more (ADMIN_USER is ignored)")
    for password, kept in _known_passwords():
        # A file outlives a change of password in the portal: what does not open the door must not be shown.
        if found.check_password(password):
            return Administrator(user, password, kept)
    if settings.ADMIN_PASS not in ("", _stored_password()):
        report(f"ADMIN_PASS is not the password of {user}; manage.py changepassword changes it")
    return Administrator(user, "", "")


def _first_administrator(report: Callable[[str], None]) -> Administrator:
    password, kept = next(_known_passwords(), ("", str(_password_file())))
    generated = not password
    if generated:
        password = secrets.token_urlsafe(15)
        # Replaced, when it is there, because it is empty.
        write_secret(_password_file(), password.encode(), replace=True)
    try:
        create_staff(settings.ADMIN_USER, password, admin=True)
    except ValidationError as error:
        raise Unusable(f"ADMIN_USER and ADMIN_PASS cannot be used: {' '.join(error.messages)}") from None
    report(f"made the administrator {settings.ADMIN_USER}")
    return Administrator(settings.ADMIN_USER, password, kept, generated)


def _known_passwords() -> Iterator[tuple[str, str]]:
    """Yield each password that the administrator may have, and where it is written."""
    stored = _stored_password()
    # ADMIN_PASS is what that file holds, unless somebody set it.
    if settings.ADMIN_PASS not in ("", stored):
        yield settings.ADMIN_PASS, "ADMIN_PASS"
    if stored:
        yield stored, str(_password_file())


def _password_file() -> Path:
    return Path(settings.SECRETS_DIR) / "admin_password"


def _stored_password() -> str:
    try:
        return read_secret(_password_file()).decode().strip()
    except (UnsafeFile, UnicodeDecodeError):
        return ""
