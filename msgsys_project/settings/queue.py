"""Where the queue is: for ingest and the worker only."""

from urllib.parse import quote, urlsplit, urlunsplit

from msgsys_project import environment as env
from msgsys_project.settings import base

QUEUE_NAME = "deliver"
DEAD_LETTERS = f"{QUEUE_NAME}.dead_letters"
REDIS_TIMEOUT = 1.0

_url = (
    env.text(
        "REDIS_URL",
        "",
        "Redis or Valkey, e.g. rediss://user@host:6379/0, or its Sentinels, sentinel://user@one:26379;sentinel://two. "
        "Empty: the embedded Valkey that `up` starts.",
    )
    or f"redis://127.0.0.1:{base.PORT_OFFSET + 6390}/0"
)
REDIS_PASSWORD = env.secret("REDIS_PASSWORD", base.SECRETS_DIR / "redis_password", "Password for REDIS_URL.")


REDIS_CA_FILE = env.text(
    "REDIS_CA_FILE", "", "Who must have signed the certificate of Redis, PEM; with sentinel:// it switches TLS on."
)
REDIS_CERTIFICATE_FILE = env.text("REDIS_CERTIFICATE_FILE", "", "Certificate to show to Redis, PEM, when it wants one.")
REDIS_KEY_FILE = env.text("REDIS_KEY_FILE", "", "Private key of REDIS_CERTIFICATE_FILE, PEM.")
REDIS_SENTINEL_MASTER = env.text(
    "MSGSYS_REDIS_SENTINEL_MASTER", "", "What the Sentinels call the master, when REDIS_URL is sentinel://."
)
REDIS_SENTINEL_USER = env.text(
    "MSGSYS_REDIS_SENTINEL_USER", "", "User at the Sentinels themselves. Empty: their password is that of requirepass."
)
REDIS_SENTINEL_PASSWORD = env.secret(
    "MSGSYS_REDIS_SENTINEL_PASSWORD",
    base.SECRETS_DIR / "redis_sentinel_password",
    "Password of the Sentinels themselves; REDIS_PASSWORD is that of the Redis they lead to.",
)


def _complete(urls: str, password: str) -> str:
    """Add the password. Give each Sentinel the first one's user, password and database: Celery takes them in turn."""
    first, *others = [urlsplit(url.strip()) for url in urls.split(";")]
    entry = first.netloc.rpartition("@")[0]
    if password and not first.password:
        entry = f"{first.username or ''}:{quote(password, safe='')}"
    hosts = [part.netloc.rpartition("@")[2] for part in (first, *others)]
    netlocs = [f"{entry}@{host}" if entry else host for host in hosts]
    return ";".join(
        urlunsplit(part._replace(netloc=netloc, path=first.path))
        for part, netloc in zip((first, *others), netlocs, strict=True)
    )


REDIS_URL = _complete(_url, REDIS_PASSWORD)

MAX_QUEUE_LENGTH = env.integer(
    "MSGSYS_MAX_QUEUE_LENGTH", 1_000_000, "Envelopes the queue holds before ingest answers 503 queue_full.", minimum=1
)
QUEUE_MEMORY_PERCENT = env.integer(
    "MSGSYS_QUEUE_MEMORY_PERCENT",
    80,
    "Share of Redis' maxmemory that may be in use before ingest answers 503 queue_full.",
    minimum=10,
    maximum=95,
)
ALLOW_VOLATILE_QUEUE = env.integer(
    "MSGSYS_ALLOW_VOLATILE_QUEUE",
    0,
    "1 accepts a Redis without an append-only file: when it stops, what was accepted and not delivered is lost.",
    maximum=1,
)
