"""Every request has a verified caller, and every view says which roles may call it: no rule, no entry."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from certs_app.admission import PEER, admit
from certs_app.identity import Peer
from certs_app.problems import ProblemResponse
from certs_app.revocation import Revocations
from wire.problems import Problem

# RFC 9110 §9.3 and RFC 5789.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")

GetResponse = Callable[[HttpRequest], HttpResponse]


def peer_of(request: HttpRequest) -> Peer | None:
    """Return the caller as TLS verified it; None when the request came without a certificate."""
    carrier: dict[str, Any] = getattr(request, "scope", request.META)
    peer = carrier.get(PEER)
    return peer if isinstance(peer, Peer) else None


class AllowedMethods:
    """Refuse methods that HTTP does not define, before anything counts or logs them by name.

    The others are left to the view, which alone can say truly which ones it has.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method not in METHODS:
            # 400 as the server's parser answers to names it does not know: a 405 would have to name the view's methods.
            return ProblemResponse(Problem("malformed_request", f"HTTP has these methods: {', '.join(METHODS)}."))
        return self.get_response(request)


class PeerRequired:
    """Admit a request only when its caller's certificate still stands and the view names the caller's role."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.revocations = Revocations(settings.CRL_FILE, settings.CA_FILE)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        try:
            admit(peer_of(request), getattr(view, "allowed_roles", frozenset()), self.revocations)
        except Problem as problem:
            return ProblemResponse(problem)
        return None
