"""Fixtures for every app's tests: keys and a CA of their own, and the people in them.

alice is a trusted client, bob is revoked, carol comes from another CA, erin has expired.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone
from django.utils.module_loading import import_string

from certs_app import sealing_keys
from certs_app.audit import Actor
from certs_app.authority import init_ca
from certs_app.files import write_atomic, write_secret
from certs_app.identity import Peer
from certs_app.issuing import Issued, Request, issue
from certs_app.models import Certificate
from certs_app.profiles import PROFILES, SERVER
from certs_app.revocation_lists import revoke
from registry import keyring


@pytest.fixture(scope="session", autouse=True)
def _keys() -> None:
    """Make the key ring and the sealing keys that every test's settings name."""
    if not django_settings.KEY_FILE.exists():
        keyring.create(django_settings.KEY_FILE)
        sealing_keys.create(django_settings.SEALING_KEY_FILE, django_settings.SEALING_PUBLIC_FILE)


class People:
    """A CA in a folder of its own, and a way to get certificates from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # Who has the CA do everything here.
    operator = Actor("operator:olga")

    def issue(self, name: str, role: str, **options: Any) -> Issued:
        """Issue a certificate and write NAME.crt and NAME.key (NAME-USAGE with a usage) into the folder."""
        usage = options.get("usage") or PROFILES[role].usages[0]
        if usage == SERVER and not (options.get("dns") or options.get("ip")):
            options["dns"] = [f"{name}.example.org"]
        issued = issue(Request(name=name, role=role, **options), timezone.now(), self.operator)
        stem = "-".join(part for part in (name, options.get("usage", "")) if part)
        write_atomic(self.folder / f"{stem}.crt", issued.chain_pem)
        if issued.key_pem:
            write_secret(self.folder / f"{stem}.key", issued.key_pem, replace=True)
        return issued

    def peer(self, name: str, role: str = "client") -> Peer:
        """Return the verified caller that TLS would report for a certificate of this person."""
        row = Certificate.objects.filter(name=name, role=role).last() or self.issue(name, role).row
        return Peer.from_der(bytes(row.der), django_settings.TRUST_DOMAIN)

    def revoke(self, name: str, reason: str = "") -> None:
        """Revoke whatever this person has. The list file follows at once."""
        revoke(Certificate.objects.filter(name=name), reason, timezone.now(), self.operator)


@pytest.fixture
def people(transactional_db: None, tmp_path: Path, settings: Any) -> People:
    """A fresh CA. The database is a transactional one: publishing a list waits for the commit."""
    settings.PKI_DIR = tmp_path
    settings.CA_FILE = tmp_path / "ca.crt"
    settings.CRL_FILE = tmp_path / "crl.pem"
    settings.CERTIFICATES_DIR = tmp_path
    settings.CA_KEYS_DIR = tmp_path / "ca"
    init_ca(timezone.now(), People.operator)
    return People(tmp_path)


@pytest.fixture
def as_role(settings: Any) -> Callable[[str], None]:
    """Serve requests of the test client with another role's URLs and middleware."""

    def serve(role: str) -> None:
        for name in ("ROOT_URLCONF", "MIDDLEWARE", "ROLE"):
            setattr(settings, name, import_string(f"msgsys_project.settings.{role}.{name}"))

    return serve
