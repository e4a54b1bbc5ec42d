"""How much one client may submit: a count per minute, shared through Redis on the commit's own round trip."""

from wire.problems import Problem

WINDOW = 60


class RateLimiter:
    """Counts messages per client and minute. What other processes took is learned with each commit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._minute = 0
        self._used: dict[str, int] = {}

    def admit(self, client: str, messages: int, now: float) -> dict[str, str]:
        """Count `messages` and return the RateLimit headers. Raises Problem when the client has used up its minute.

        With 0 messages it only looks, which costs nothing: a client over its limit is refused before its body is read.
        Headers: draft-ietf-httpapi-ratelimit-headers.
        """
        if not self.limit:
            return {}
        self._turn(now)
        used = self._used.get(client, 0)
        left_seconds = WINDOW - int(now) % WINDOW
        policy = {"RateLimit-Policy": f'"client";q={self.limit};w={WINDOW}'}
        if used + max(1, messages) > self.limit:
            headers = {**policy, "RateLimit": f'"client";r={max(0, self.limit - used)};t={left_seconds}'}
            detail = f"A client may submit {self.limit} messages a minute. Try again in {left_seconds} s."
            raise Problem("rate_limited", detail, headers={**headers, "Retry-After": str(left_seconds)})
        self._used[client] = used + messages
        return {**policy, "RateLimit": f'"client";r={self.limit - used - messages};t={left_seconds}'}

    def learn(self, client: str, minute: int, total: int) -> None:
        """Take over the count of all processes, as Redis told it."""
        if minute == self._minute:
            self._used[client] = max(total, self._used.get(client, 0))

    def _turn(self, now: float) -> None:
        minute = int(now) // WINDOW
        if minute != self._minute:
            self._minute = minute
            self._used.clear()
