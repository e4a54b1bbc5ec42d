"""How much one client may submit: a token bucket per client, kept in Redis, where all processes draw from it.

Redis decides, on the commit's own round trip and by its own clock. What is known here from its last answer only spares
the work for a client that is over its limit: its body is not read, its messages are not sealed.
"""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certs_app import per_client
from certs_app.per_client import BadNumbers
from certs_app.revocation import FileIdentity, file_identity
from wire.problems import Problem

logger = logging.getLogger(__name__)

# A bucket holds what its client may submit in this many seconds, and is full again after as many.
WINDOW = 60
MOST_PER_MINUTE = 1_000_000_000
MOST_KNOWN = 10_000


def read_limits(file: Path) -> dict[str, int]:
    """Read {client name: messages per minute, 0 for no limit}. Raises BadNumbers."""
    return per_client.read(file, what="limit", most=MOST_PER_MINUTE)


class RateLimits:
    """Messages per minute by client: what the file says, else the default; 0 is no limit.

    The file is read again when it changes. While it cannot be used, the last good one stands.
    """

    LOOK_EVERY = 1.0

    def __init__(self, default: int, file: Path | None) -> None:
        self._default = default
        self._file = file
        self._of: dict[str, int] = {}
        self._seen: FileIdentity | None = None
        self._next_look = 0.0

    def of(self, client: str) -> int:
        if self._file is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self.LOOK_EVERY
            self._look(self._file)
        return self._of.get(client, self._default)

    def _look(self, file: Path) -> None:
        try:
            seen = file_identity(file)
        except OSError:
            seen = ()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._of = read_limits(file)
        except BadNumbers as error:
            logger.error("the rate limits file cannot be used: the last good one stands", extra={"reason": str(error)})


class RateLimiter:
    """What this process knows of the buckets. Tokens are messages; fractions are on their way to the next one."""

    def __init__(self, limits: RateLimits) -> None:
        self.limits = limits
        self._known: dict[str, tuple[float, float]] = {}

    def check(self, client: str, cost: int = 1) -> None:
        """Raise Problem when `cost` messages are known to be more than the client may submit now."""
        limit = self.limits.of(client)
        if not limit:
            return
        if cost > limit:
            raise Problem("too_large", f"A client may submit {limit} messages a minute: send at most {limit} at once.")
        left = self.left(client)
        if left < cost:
            raise self.refusal(client, cost, left)

    def left(self, client: str) -> float:
        """Return how many messages the client may submit now, as far as is known here."""
        limit = self.limits.of(client)
        tokens, at = self._known.get(client, (math.inf, 0.0))
        return min(limit, tokens + (time.monotonic() - at) * limit / WINDOW) if limit else math.inf

    def limits_of(self, clients: Mapping[str, Any]) -> dict[str, int]:
        """Return the limits of those clients that have one."""
        found = {client: self.limits.of(client) for client in clients}
        return {client: limit for client, limit in found.items() if limit}

    def learn(self, client: str, tokens: float) -> None:
        """Take over what the bucket held when Redis answered."""
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[client] = tokens, time.monotonic()

    def headers(self, client: str) -> dict[str, str]:
        """Return the RateLimit headers (draft-ietf-httpapi-ratelimit-headers); none without a limit."""
        limit = self.limits.of(client)
        if not limit:
            return {}
        left = self.left(client)
        return self._headers(limit, left, _seconds(limit - left, limit))

    def refusal(self, client: str, cost: int, left: float) -> Problem:
        """Return the answer to a request of `cost` messages, of which the bucket holds `left`."""
        # The file may have lifted the limit a moment ago.
        limit = self.limits.of(client) or MOST_PER_MINUTE
        wait = max(1, _seconds(cost - left, limit))
        detail = f"A client may submit {limit} messages a minute. Try again in {wait} s."
        return Problem("rate_limited", detail, headers={**self._headers(limit, left, wait), "Retry-After": str(wait)})

    @staticmethod
    def _headers(limit: int, left: float, seconds: int) -> dict[str, str]:
        left = max(0, min(limit, left))
        return {
            "RateLimit-Policy": f'"client";q={limit};w={WINDOW}',
            "RateLimit": f'"client";r={math.floor(left)};t={seconds}',
        }


def _seconds(tokens: float, limit: int) -> int:
    """Return the whole seconds in which so many tokens come."""
    return max(0, math.ceil(tokens * WINDOW / limit)) if math.isfinite(tokens) else 0
