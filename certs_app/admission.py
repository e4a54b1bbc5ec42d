"""Who may come in: a caller whose certificate still stands, at a door that names the caller's role."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.utils import timezone

from certs_app.identity import ROLES, Peer
from certs_app.revocation import Revocations
from wire.problems import Problem

# Where the server puts the verified caller: in the ASGI scope or the WSGI environ.
PEER = "msgsys.peer"
# Anyone whose certificate passed the handshake.
ANY_ROLE = frozenset(ROLES)

View = TypeVar("View", bound=Callable[..., Any])


def roles(*allowed: str) -> Callable[[View], View]:
    """Say which roles may call a view. Without it, nobody may."""
    unknown = set(allowed) - ANY_ROLE
    if unknown:
        raise ValueError(f"unknown roles: {', '.join(sorted(unknown))}")

    def mark(view: View) -> View:
        view.allowed_roles = frozenset(allowed)  # type: ignore[attr-defined]  # views carry marks, as csrf_exempt does
        return view

    return mark


def admit(peer: Peer | None, allowed: frozenset[str], revocations: Revocations) -> Peer:
    """Return the caller, or raise the Problem that refuses it."""
    if peer is None:
        raise Problem(
            "certificate_required", "Call with a client certificate of this system's CA (curl --cert, --key)."
        )
    revocations.check(peer, timezone.now())
    if peer.role not in allowed:
        wanted = ", ".join(sorted(allowed)) or "nobody"
        raise Problem("role_not_allowed", f"Your certificate's role is {peer.role}; this is for: {wanted}.")
    return peer
