"""The random secrets that settings read from files. Needs no settings itself: it runs before they are read."""

import secrets
from pathlib import Path

from certs_app.files import write_secret

NAMES = (
    "django_secret_key",
    "jwt_secret",
    "redis_password",
    # What the TLS terminator of each role shows; only used behind one.
    "ingest_proxy_token",
    "registry_proxy_token",
    "portal_proxy_token",
)


def make_missing(folder: Path) -> None:
    """Make those that are not there yet, or empty, as a full disk or a power cut leaves them."""
    for name in NAMES:
        file = folder / name
        if not file.exists() or not file.read_bytes().strip():
            write_secret(file, secrets.token_urlsafe(48).encode(), replace=True)
