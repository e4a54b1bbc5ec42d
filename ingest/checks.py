"""System checks of ingest and the worker."""

import os
from typing import Any
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning

from certs_app import checks as _certificate_checks  # noqa: F401  certs_app is no installed app here
from certs_app.per_client import BadNumbers
from certs_app.sealing_keys import SealingKeyError, load_public
from ingest import redis_servers
from ingest.durability import Finding, ask, judge
from ingest.queue import SyncQueue
from ingest.rate_limit import read_limits

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_TLS_FILES = ("REDIS_CA_FILE", "REDIS_CERTIFICATE_FILE", "REDIS_KEY_FILE")


@register("queue")
def queue_url(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """REDIS_URL must be one; off this machine it must be TLS."""
    if settings.ROLE == "operator":
        return []
    try:
        hosts = redis_servers.hosts()
    except ValueError as error:
        hint = "Use rediss://user@host:6379/0, or sentinel://user@host:26379;sentinel://other:26379 for Sentinels."
        return [Error(f"REDIS_URL is not a Redis URL: {error}.", hint=hint, id="msgsys.E301")]
    if not redis_servers.uses_tls() and not {host for host, _ in hosts} <= _LOOPBACK:
        hint = "Use rediss:// (with sentinel://: set REDIS_CA_FILE), or ids and the password travel in the clear."
        return [Error("REDIS_URL leaves this machine without TLS.", hint=hint, id="msgsys.E302")]
    if redis_servers.is_sentinel() and not settings.REDIS_SENTINEL_MASTER:
        hint = "Set it to the name in the Sentinels' line `sentinel monitor NAME ...`."
        return [Error("MSGSYS_REDIS_SENTINEL_MASTER is not set.", hint=hint, id="msgsys.E310")]
    if not settings.REDIS_PASSWORD and not urlsplit(settings.REDIS_URL.partition(";")[0]).password:
        return [CheckWarning("Redis has no password.", hint="Set REDIS_PASSWORD_FILE.", id="msgsys.W303")]
    return []


@register("queue")
def sentinel_login(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """What is set for the Sentinels must be of use."""
    user, password = settings.REDIS_SENTINEL_USER, settings.REDIS_SENTINEL_PASSWORD
    if settings.ROLE == "operator" or not (user or password):
        return []
    if not redis_servers.is_sentinel():
        hint = "Begin REDIS_URL with sentinel://, or unset them; the password of Redis itself is REDIS_PASSWORD_FILE."
        return [
            Error("A user or password is set for Sentinels, but REDIS_URL names none.", hint=hint, id="msgsys.E330")
        ]
    if user and not password:
        hint = "Set MSGSYS_REDIS_SENTINEL_PASSWORD_FILE."
        return [Error("MSGSYS_REDIS_SENTINEL_USER is set without a password.", hint=hint, id="msgsys.E330")]
    return []


@register("queue")
def queue_certificates(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The files for TLS to Redis must be usable, and must be used."""
    named = [name for name in _TLS_FILES if getattr(settings, name, "")]
    if settings.ROLE == "operator" or not named:
        return []
    if not redis_servers.uses_tls():
        hint = "Begin REDIS_URL with rediss://, or unset them."
        return [Error(f"{', '.join(named)}: set, but REDIS_URL is without TLS.", hint=hint, id="msgsys.E323")]
    try:
        redis_servers.tls_context()
    except OSError as error:
        hint = "PEM files, readable by this process; the certificate and its key go together."
        return [Error(f"{', '.join(named)}: cannot be used ({error}).", hint=hint, id="msgsys.E324")]
    return []


@register("queue")
def retry_period(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The visibility timeout must outlast a waiting retry, or every retry multiplies."""
    visibility, retry = getattr(settings, "VISIBILITY_TIMEOUT", None), getattr(settings, "RETRY_SECONDS", 0)
    if visibility is not None and visibility <= 2 * retry:
        return [
            Error(
                f"MSGSYS_VISIBILITY_TIMEOUT ({visibility} s) must be more than twice MSGSYS_RETRY_SECONDS ({retry} s).",
                hint="Otherwise what waits for its next try is delivered again and again.",
                id="msgsys.E304",
            )
        ]
    return []


@register("ledger")
def ledger_folder(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """Ingest must be able to write down what it accepts."""
    if settings.ROLE != "ingest":
        return []
    folder = next(one for one in (settings.LEDGER_DIR, *settings.LEDGER_DIR.parents) if one.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return []
    hint = "Let MSGSYS_LEDGER_DIR name a folder of the user that runs ingest."
    return [Error(f"The ledger cannot be written: {folder} is no folder to write in.", hint=hint, id="msgsys.E322")]


@register("keys")
def sealing_key(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """Ingest must have the registry's public key to seal to."""
    if settings.ROLE != "ingest":
        return []
    try:
        load_public(settings.SEALING_PUBLIC_FILE)
    except SealingKeyError as error:
        hint = "Copy sealing.json from the registry."
        return [Error(str(error), hint=hint, id="msgsys.E305")]
    return []


@register("urls")
def registry_url(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """The registry is reached by HTTPS only."""
    url = getattr(settings, "REGISTRY_URL", None)
    if url is not None and urlsplit(url).scheme != "https":
        return [
            Error(
                "MSGSYS_REGISTRY_URL must begin with https://.",
                hint="e.g. https://registry.example:8000",
                id="msgsys.E306",
            )
        ]
    return []


@register("queue")
def queue_keeps_messages(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """Redis must be set up to keep what it acknowledges. One that is not there yet is what readiness is for."""
    if settings.ROLE == "operator":
        return []
    try:
        with SyncQueue().client as client:
            found = list(judge(ask(client)))
    except (redis.RedisError, OSError, ValueError):
        return []
    return [_message(one) for one in found]


def _message(one: Finding) -> CheckMessage:
    # Ingest must not promise what Redis does not keep. The worker must go on: what is queued there is in danger.
    if one.useless or (one.stops and one.lasting and settings.ROLE == "ingest"):
        return Error(one.sentence, hint=one.hint, id=f"msgsys.E{one.number}")
    return CheckWarning(one.sentence, hint=one.hint, id=f"msgsys.W{one.number}")


@register("queue")
def rate_limits_file(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """A limits file that cannot be read would let everybody have the default."""
    file = getattr(settings, "RATE_LIMITS_FILE", None)
    if file is None:
        return []
    try:
        read_limits(file)
    except BadNumbers as error:
        hint = 'MSGSYS_RATE_LIMITS_FILE names a JSON file such as {"alice": 600}: messages per minute, 0 for no limit.'
        return [Error(f"The rate limits cannot be used: {error}", hint=hint, id="msgsys.E320")]
    return []
