"""Bounds guessing of passwords: so many attempts a minute per address and per user name, over all doors together."""

import hashlib
import unicodedata
from collections.abc import Mapping
from threading import Lock
from typing import Any

from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import APIView

# Django's own bound of a user name: nothing longer is anybody's.
MAX_NAME = 150
# Reading a count and writing it back must not be interleaved by guesses that run in parallel.
_COUNTING = Lock()


class LoginRate(SimpleRateThrottle):
    """Counts attempts, right or wrong, in the cache, which is bounded (settings: DEFAULT_THROTTLE_RATES, CACHES)."""

    scope = "login"

    def allow_request(self, request: Request, view: APIView) -> bool:
        return self.allows(request, request.data if isinstance(request.data, Mapping) else {})

    def allows(self, request: HttpRequest | Request, fields: Mapping[str, Any]) -> bool:
        """Count one attempt with the form or JSON `fields`. When it may not go on, `wait()` says how long."""
        # REMOTE_ADDR: a header that the caller writes would let each guess look like another caller.
        address = f"address {request.META['REMOTE_ADDR']}"
        name = f"name {_as_databases_compare(str(fields.get('username', '')))}"
        with _COUNTING:
            # The address first: refused there, an attempt does not use up those of the name's owner.
            return self._has_left(address) and self._has_left(name)

    def _has_left(self, counted: str) -> bool:
        # Hashed, for a cache key is short and plain.
        self.key_of_count = f"{self.scope}:{hashlib.sha256(counted.encode(errors='replace')).hexdigest()}"
        # Both arguments are for get_cache_key only, which needs neither.
        return bool(super().allow_request(None, None))  # type: ignore[arg-type]

    def get_cache_key(self, request: Request, view: APIView) -> str:
        return self.key_of_count


def _as_databases_compare(name: str) -> str:
    """Return one spelling for all that MariaDB takes for the same name: case and accents make no difference there."""
    letters = unicodedata.normalize("NFKD", name.strip()[:MAX_NAME])
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()
