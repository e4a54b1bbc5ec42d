"""Where the queue is: for ingest and the worker only."""

from urllib.parse import quote, urlsplit, urlunsplit

from msgsys_project import environment as env
from msgsys_project.settings import base

QUEUE_NAME = "deliver"
DEAD_LETTER_QUEUE = f"{QUEUE_NAME}.dead"
REDIS_TIMEOUT = 1.0

_url = (
    env.text(
        "REDIS_URL", "", "Redis or Valkey, e.g. rediss://user@host:6379/0. Empty: the embedded Valkey that `up` starts."
    )
    or f"redis://127.0.0.1:{base.PORT_OFFSET + 6390}/0"
)
REDIS_PASSWORD = env.secret("REDIS_PASSWORD", base.SECRETS_DIR / "redis_password", "Password for REDIS_URL.")


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    if not password or parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{host}"))


REDIS_URL = _with_password(_url, REDIS_PASSWORD)

MAX_QUEUE_LENGTH = env.integer(
    "MSGSYS_MAX_QUEUE_LENGTH", 1_000_000, "Envelopes the queue holds before ingest answers 503 queue_full.", minimum=1
)
