"""Where the queue's Redis is, and clients that reach it: our own, and what Celery must be told to reach the same.

    redis://      one server
    rediss://     one server by TLS
    sentinel://   Sentinels, separated by `;`, who say which server is the master; by TLS when REDIS_CA_FILE is set.
                  The URL's user and password are for the master, REDIS_SENTINEL_USER and _PASSWORD for the Sentinels

A certificate is always verified: with REDIS_CA_FILE, or for rediss:// without it, with the system's authorities.
"""

import ssl
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.sentinel
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}
# Seconds: a Sentinel that hangs must leave a caller of ingest time to ask the next one.
SENTINEL_TIMEOUT = 0.3

# redis-py leaves them untyped.
_Sentinel: Any = redis.sentinel.Sentinel
_AsyncSentinel: Any = redis.asyncio.sentinel.Sentinel


def client(**options: Any) -> redis.Redis:
    """Return a client that never tries twice by itself: a script whose answer is lost may have run."""
    options = {"retry": Retry(NoBackoff(), 0), **options}
    if not is_sentinel():
        return redis.Redis.from_url(settings.REDIS_URL, **options, **_tls())
    watch = _Sentinel(hosts(), sentinel_kwargs=_to_sentinel(Retry(NoBackoff(), 0)))
    found: redis.Redis = watch.master_for(settings.REDIS_SENTINEL_MASTER, **_master(), **options, **_managed_tls())
    return found


def async_client(**options: Any) -> "redis.asyncio.Redis":
    """Return the same for asyncio."""
    options = {"retry": redis.asyncio.retry.Retry(NoBackoff(), 0), **options}
    if not is_sentinel():
        return redis.asyncio.Redis.from_url(settings.REDIS_URL, **options, **_tls())
    to_sentinel = _to_sentinel(redis.asyncio.retry.Retry(NoBackoff(), 0))
    watch = _AsyncSentinel(hosts(), sentinel_kwargs=to_sentinel)
    found: redis.asyncio.Redis = watch.master_for(
        settings.REDIS_SENTINEL_MASTER, **_master(), **options, **_managed_tls()
    )
    return found


async def close(client: "redis.asyncio.Redis") -> None:
    """Close a client of async_client, with its connections to the Sentinels."""
    await client.aclose()
    watch = getattr(client.connection_pool, "sentinel_manager", None)
    for one in watch.sentinels if watch else ():
        await one.aclose()


def celery_settings() -> dict[str, Any]:
    """Build Celery's settings for the same server, to be merged with its other ones."""
    chosen = "SentinelTransport" if is_sentinel() else "Transport"
    options = {}
    if is_sentinel():
        options = {
            "master_name": settings.REDIS_SENTINEL_MASTER,
            "sentinel_kwargs": _to_sentinel(Retry(NoBackoff(), 0)),
        }
    return {
        "broker_url": settings.REDIS_URL,
        "broker_transport": f"ingest.transport:{chosen}",
        # Without it, kombu would take rediss:// for redis://, because the transport is ours.
        "broker_use_ssl": _tls() or None,
        "broker_transport_options": options,
    }


def is_sentinel() -> bool:
    return str(settings.REDIS_URL).startswith("sentinel://")


def hosts() -> list[tuple[str, int]]:
    """Return where REDIS_URL leads: one server, or the Sentinels. Raises ValueError saying what is wrong with it."""
    parts = [urlsplit(url) for url in settings.REDIS_URL.split(";")]
    schemes = {part.scheme for part in parts}
    if len(schemes) > 1 or not schemes <= set(_PORTS):
        raise ValueError(f"it begins with {' and '.join(sorted(schemes)) or 'nothing'}")
    if len(parts) > 1 and not is_sentinel():
        raise ValueError("only Sentinels are several")
    if not all(part.hostname for part in parts):
        raise ValueError("it names no host")
    _database(parts[0])
    return [(part.hostname or "", part.port or _PORTS[part.scheme]) for part in parts]


def _master() -> dict[str, Any]:
    """Return how the Sentinels' master is entered: the first URL says it."""
    first = urlsplit(settings.REDIS_URL.split(";")[0])
    return {
        "username": unquote(first.username or "") or None,
        "password": unquote(first.password or "") or None,
        "db": _database(first),
    }


def _database(part: SplitResult) -> int:
    return int(part.path.strip("/") or 0)


def uses_tls() -> bool:
    return str(settings.REDIS_URL).startswith("rediss://") or (is_sentinel() and bool(settings.REDIS_CA_FILE))


def tls_context() -> ssl.SSLContext:
    """Load the files that REDIS_CA_FILE and the others name. Raises OSError for what cannot be used."""
    context = ssl.create_default_context(cafile=settings.REDIS_CA_FILE or None)
    if settings.REDIS_CERTIFICATE_FILE:
        context.load_cert_chain(settings.REDIS_CERTIFICATE_FILE, settings.REDIS_KEY_FILE or None)
    return context


def _tls() -> dict[str, Any]:
    if not uses_tls():
        return {}
    return {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        "ssl_ca_certs": settings.REDIS_CA_FILE or None,
        "ssl_certfile": settings.REDIS_CERTIFICATE_FILE or None,
        "ssl_keyfile": settings.REDIS_KEY_FILE or None,
    }


def _managed_tls() -> dict[str, Any]:
    return {"ssl": True, **_tls()} if uses_tls() else {}


def _to_sentinel(retry: Any) -> dict[str, Any]:
    timeouts = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
    entry = {
        "username": settings.REDIS_SENTINEL_USER or None,
        "password": settings.REDIS_SENTINEL_PASSWORD or None,
    }
    return {"retry": retry, **entry, **timeouts, **_managed_tls()}
