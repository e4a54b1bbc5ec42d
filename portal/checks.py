"""System checks of the portal's signing keys."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

# RFC 7518 §3.2: an HS256 key is at least as long as the hash.
MIN_KEY_BYTES = 32
HINT = "Run `manage.py up` once, or write 50 random characters into the file that .env.example names."


@register("keys")
def signing_keys(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The keys that sign sessions, cursors and tokens must be there, and too long to guess."""
    if settings.ROLE != "portal":
        return []
    keys = {
        "SECRET_KEY": ("msgsys.E401", _secret_key()),
        "JWT_SECRET": ("msgsys.E402", settings.SIMPLE_JWT["SIGNING_KEY"]),
    }
    return [
        Error(f"{name} is missing or shorter than {MIN_KEY_BYTES} bytes.", hint=HINT, id=check_id)
        for name, (check_id, key) in keys.items()
        if len(str(key).encode()) < MIN_KEY_BYTES
    ]


def _secret_key() -> str:
    try:
        return str(settings.SECRET_KEY)
    except ImproperlyConfigured:  # how Django says that it is empty
        return ""
