"""System checks of the registry's and the portal's keys and database."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.db import connection

from registry import keyring

HINT = "Run `manage.py up` once, or restore the key file from its backup."


@register("keys")
def key_ring(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The key ring must load: without it nothing can be stored or read."""
    if settings.ROLE == "operator":
        return []
    try:
        keyring.load(settings.KEY_FILE)
    except keyring.KeyRingError as error:
        return [Error(str(error), hint=HINT, id="msgsys.E201")]
    return []


@register("keys")
def sealing_keys(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The private sealing keys must load where envelopes are opened."""
    file = getattr(settings, "SEALING_KEY_FILE", None)
    if file is None or settings.ROLE == "operator":
        return []
    from certs_app import sealing_keys

    try:
        sealing_keys.load_private(file)
    except sealing_keys.SealingKeyError as error:
        return [Error(str(error), hint=HINT, id="msgsys.E202")]
    return []


@register("database_engine")
def engine(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """Only SQLite and MySQL/MariaDB have column types for the sealed fields."""
    if connection.vendor not in ("sqlite", "mysql"):
        return [
            Error(
                f"DATABASE_URL names {connection.vendor}, which is not supported.",
                hint="Use sqlite:///path or mysql://user:password@host:3306/name.",
                id="msgsys.E203",
            )
        ]
    return []
