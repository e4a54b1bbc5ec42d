"""The breaker between the worker and the registry: after a failure it waits, then lets one try through.

CLOSED ──failure──▶ OPEN ──after the pause──▶ HALF_OPEN ──success──▶ CLOSED
                      ▲──────────failure──────────┘
"""

import random
import threading
import time
from collections.abc import Callable

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"

# Workers that all lost the registry at one moment do not all try at one moment.
JITTER = 0.1


class Breaker:
    """Keeps the state; `changed` is called after each change of it, in whatever thread made it.

    It has no thread of its own, which could fail to start and leave it open for good: whoever waits asks it.
    """

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._state = CLOSED
        self._try_at = 0.0

    @property
    def state(self) -> str:
        return self._state

    def fail(self, pause: float) -> bool:
        """Open for `pause` seconds, give or take a tenth; False when it was open already."""
        with self._lock:
            if self._state == OPEN:
                return False
            self._try_at = time.monotonic() + pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  no secret
            self._state = OPEN
        self._changed(OPEN)
        return True

    def seconds_left(self) -> float | None:
        """Return how long it stays open; None when it is not."""
        return max(0.0, self._try_at - time.monotonic()) if self._state == OPEN else None

    def look(self) -> None:
        """Let one try through, when the pause is over."""
        with self._lock:
            if self.seconds_left() != 0:
                return
            self._state = HALF_OPEN
        self._changed(HALF_OPEN)

    def succeed(self) -> None:
        """Close, when the one try got through."""
        with self._lock:
            if self._state != HALF_OPEN:
                return
            self._state = CLOSED
        self._changed(CLOSED)
