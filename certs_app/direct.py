"""A route of its own beside Django's handler, for where that takes as long as the work.

Django takes a request through three threads and DRF through a negotiation. A direct route is one call in one thread. It
takes requests in their usual form only; the view behind the same address answers all others, and shares its work.
"""

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

import msgspec
from django.conf import settings
from django.db import close_old_connections
from django.urls import resolve
from django.utils import timezone

from certs_app.admission import PEER, admit
from certs_app.asgi import JSON, Answer, Scope
from certs_app.identity import Peer
from certs_app.problems import failure, problem_of
from certs_app.rest import strict_json
from certs_app.revocation import Revocations
from certs_app.uses import note_use

logger = logging.getLogger(__name__)

# Takes the decoded body and the caller; returns a status and what is to be written as JSON. Raises Problem.
Work = Callable[[Any, Peer], tuple[int, Any]]
_ACCEPTED = (None, b"*/*", JSON.encode())


class Direct:
    """POST of JSON to one address. Who may call is what the view at that address says."""

    def __init__(self, path: str, work: Work) -> None:
        self._path = path
        self._work = work
        self._revocations = Revocations(settings.CRL_FILE, settings.CA_FILE)

    def takes(self, scope: Scope) -> bool:
        """Tell whether this is a request in its usual form."""
        if scope["path"] != self._path or scope["method"] != "POST":
            return False
        headers = dict(scope["headers"])
        return headers.get(b"content-type") == JSON.encode() and headers.get(b"accept") in _ACCEPTED

    def answer(self, scope: Scope, body: bytes) -> Answer:
        """Do the work, in a thread that may wait for the database."""
        # As Django does around each request: a connection that is old or was closed is opened anew.
        close_old_connections()
        try:
            return self._answer(scope, body)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                logger.exception("a request failed", extra={"reason": type(error).__name__})
                problem = failure()
            return Answer.of(problem)
        finally:
            close_old_connections()

    @cached_property
    def _roles(self) -> frozenset[str]:
        # Not before the first request: the views are loaded by then. Without a mark, nobody may.
        roles: frozenset[str] = getattr(resolve(self._path).func, "allowed_roles", frozenset())
        return roles

    def _answer(self, scope: Scope, body: bytes) -> Answer:
        peer = admit(scope.get(PEER), self._roles, self._revocations)
        note_use([peer.serial_number], timezone.now())
        # As DRF has it: no body at all says nothing.
        status, said = self._work(strict_json(body) if body else {}, peer)
        return Answer(status, msgspec.json.encode(said))
