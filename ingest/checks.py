"""System checks of ingest and the worker."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning

from certs_app import checks as _certificate_checks  # noqa: F401  certs_app is no installed app here
from certs_app.sealing_keys import SealingKeyError, load_public

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@register("queue")
def queue_url(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """REDIS_URL must be one; off this machine it must be TLS."""
    if settings.ROLE == "operator":
        return []
    parts = urlsplit(settings.REDIS_URL)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        hint = "Use rediss://user@host:6379/0."
        return [Error("REDIS_URL is not a Redis URL.", hint=hint, id="msgsys.E301")]
    if parts.scheme == "redis" and parts.hostname not in _LOOPBACK:
        hint = "Use rediss://: without TLS, envelope ids and the password travel in the clear."
        return [Error("REDIS_URL leaves this machine without TLS.", hint=hint, id="msgsys.E302")]
    if not settings.REDIS_PASSWORD and not parts.password:
        return [CheckWarning("Redis has no password.", hint="Set REDIS_PASSWORD_FILE.", id="msgsys.W303")]
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
