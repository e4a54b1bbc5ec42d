"""System checks of the registry's and the portal's keys and database."""

import ssl
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.db import DatabaseError, connection

from certs_app.per_client import BadNumbers
from registry import canaries, database_server, keyring
from registry.key_document import KeyDocument

RESTORE = "Restore the key file that belongs to this database from the backup of the keys."
HINT = "Run `manage.py up` once, or restore the key file from its backup."


@register("keys")
def key_ring(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The key ring must load: without it nothing can be stored or read."""
    if settings.ROLE == "operator":
        return []
    try:
        keyring.document()
    except keyring.KeyRingError as error:
        return [Error(str(error), hint=HINT, id="msgsys.E201")]
    return []


@register("canaries")
def key_canaries(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The key ring must be the one that the data was written with."""
    if settings.ROLE == "operator":
        return []
    try:
        document = keyring.document()
        return [*_misfits(document), *_missing(document)]
    except keyring.KeyRingError:
        return []  # E201
    except DatabaseError as error:
        # Whether it can be asked is for the readiness check to watch: it may be away for a moment only.
        reason = type(error).__name__
        return [CheckWarning(f"The keys were not compared with the data, the database: {reason}.", id="msgsys.W213")]


def _misfits(document: KeyDocument) -> Iterator[CheckMessage]:
    for kind, key_id in canaries.misfits(document):
        problem = f"The {kind} key {key_id} is not the one that the data was written with."
        yield Error(problem, hint=RESTORE, id="msgsys.E211")


def _missing(document: KeyDocument) -> Iterator[CheckMessage]:
    for kind, key_id in canaries.missing(document):
        problem = f"The {kind} key {key_id} is missing, and data was written with it."
        yield Error(problem, hint=RESTORE, id="msgsys.E212")


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


@register("database_server")
def server(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The database must be set so that it keeps what it is given. One that does not answer is what readiness is for."""
    if settings.ROLE == "operator" or connection.vendor not in ("sqlite", "mysql"):
        return []
    try:
        found = list(database_server.judge(database_server.ask()))
    except DatabaseError:
        return []
    return [
        (Error if one.id.startswith("E") else CheckWarning)(one.sentence, hint=one.hint, id=f"msgsys.{one.id}")
        for one in found
    ]


@register("database_server")
def certificates(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The files for TLS to the database must be usable, or no connection comes about and nothing says why."""
    tls = connection.settings_dict["OPTIONS"].get("ssl")
    if settings.ROLE == "operator" or not tls:
        return []
    try:
        context = ssl.create_default_context(cafile=tls["ca"])
        if tls.get("cert"):
            context.load_cert_chain(tls["cert"], tls.get("key"))
    except (OSError, KeyError) as error:
        hint = "DATABASE_CA_FILE, DATABASE_CERTIFICATE_FILE and DATABASE_KEY_FILE are PEM files this process can read."
        return [Error(f"The files for TLS to the database cannot be used ({error}).", hint=hint, id="msgsys.E229")]
    return []


@register("retention")
def retention_policy(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """A policy that is half known would remove too much or too little."""
    if not hasattr(settings, "RETENTION_DAYS") or settings.ROLE == "operator":
        return []
    from registry import retention

    try:
        retention.policy()
    except BadNumbers as error:
        hint = 'MSGSYS_RETENTION_FILE names a JSON file such as {"alice": 90}: days, 0 for ever; else at least 2.'
        return [Error(f"The retention cannot be used: {error}", hint=hint, id="msgsys.E210")]
    return []
