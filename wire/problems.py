"""Problem details (RFC 9457): the one shape of every error answer, in every process."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MEDIA_TYPE = "application/problem+json"

# code -> (HTTP status, title). Codes are a contract with clients: add, never rename.
CODES: dict[str, tuple[int, str]] = {
    "malformed_json": (400, "The body is not valid JSON"),
    "malformed_request": (400, "The request is malformed"),
    "header_not_allowed": (400, "A header is not for clients to send"),
    "not_authenticated": (401, "Sign in first"),
    "certificate_revoked": (403, "The client certificate is revoked"),
    "certificate_expired": (403, "The client certificate has expired"),
    "certificate_required": (403, "A client certificate is required"),
    "revocation_unknown": (403, "Revocation cannot be checked at the moment"),
    "role_not_allowed": (403, "This certificate's role may not do this"),
    "forbidden": (403, "This is not allowed"),
    "not_found": (404, "There is nothing here"),
    "method_not_allowed": (405, "This method is not allowed here"),
    "not_acceptable": (406, "No acceptable representation"),
    "request_in_progress": (409, "The first request with this key is still running"),
    "renewal_refused": (409, "This certificate is not renewed"),
    "backward_step": (409, "A status never goes back"),
    "too_large": (413, "The request is too large"),
    "headers_too_large": (431, "The request's headers are too large"),
    "unsupported_media_type": (415, "This media type is not supported"),
    "invalid_message": (422, "The message is not valid"),
    "invalid_request": (422, "The request is not valid"),
    "idempotency_key_reused": (422, "The idempotency key was used with another body"),
    "rate_limited": (429, "Too many requests"),
    "internal_error": (500, "Something went wrong on our side"),
    "overloaded": (503, "The server is overloaded"),
    "queue_unavailable": (503, "The queue cannot be reached"),
    "queue_full": (503, "The queue is full"),
    "signing_unavailable": (503, "Ingest cannot sign for the registry"),
    "sealing_key_missing": (503, "The registry does not hold the key this is sealed to"),
    "ca_unavailable": (503, "The CA cannot sign"),
    "registry_unavailable": (503, "The registry cannot be reached"),
}


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with one field: `field` by name, `code` stable, `detail` for a person."""

    field: str
    code: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        return {"field": self.field, "code": self.code, "detail": self.detail}


@dataclass(eq=False)
class Problem(Exception):
    """An error answer. Raise it anywhere behind an HTTP edge; the edge renders it."""

    code: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return CODES[self.code][0]

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    def as_dict(self) -> dict[str, Any]:
        members: dict[str, Any] = {
            "type": f"urn:msgsys:problem:{self.code}",
            "title": CODES[self.code][1],
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors:
            members["errors"] = [error.as_dict() for error in self.errors]
        return members

    def body(self) -> bytes:
        # A client's own field names come back in it, and JSON can spell lone surrogates that UTF-8 cannot.
        return json.dumps(self.as_dict(), ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def retry_later(code: str, detail: str, seconds: int) -> Problem:
    """Make a temporary Problem that says when to try again (Retry-After, RFC 9110 §10.2.3)."""
    return Problem(code, detail, headers={"Retry-After": str(max(1, seconds))})
