"""The random secrets that settings read from files. Needs no settings itself: it runs before they are read."""

import secrets
from pathlib import Path

from certs_app.files import write_secret

NAMES = ("django_secret_key", "jwt_secret", "redis_password")


def make_missing(folder: Path) -> None:
    """Make those that are not there yet."""
    for name in NAMES:
        if not (folder / name).exists():
            write_secret(folder / name, secrets.token_urlsafe(48).encode())
