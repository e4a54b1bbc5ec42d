"""Problem details as Django and DRF answers."""

import math

from django.http import HttpRequest, HttpResponse
from django.http.response import Http404
from rest_framework import exceptions

from wire.problems import MEDIA_TYPE, Problem

_OF_DRF: list[tuple[type[exceptions.APIException], str]] = [
    (exceptions.ParseError, "malformed_json"),
    (exceptions.ValidationError, "invalid_request"),
    (exceptions.NotAuthenticated, "not_authenticated"),
    (exceptions.AuthenticationFailed, "not_authenticated"),
    (exceptions.PermissionDenied, "forbidden"),
    (exceptions.NotFound, "not_found"),
    (exceptions.MethodNotAllowed, "method_not_allowed"),
    (exceptions.NotAcceptable, "not_acceptable"),
    (exceptions.UnsupportedMediaType, "unsupported_media_type"),
    (exceptions.Throttled, "rate_limited"),
]


class ProblemResponse(HttpResponse):
    """A Problem as an HTTP answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.body(), content_type=MEDIA_TYPE, status=problem.status, headers=problem.headers)


def exception_handler(error: Exception, context: dict[str, object]) -> HttpResponse | None:
    """DRF's EXCEPTION_HANDLER: every refusal in one shape; an unknown error is left to become a 500."""
    problem = problem_of(error)
    if problem is None:
        return None
    if problem.status == 401:
        problem.headers.setdefault("WWW-Authenticate", 'Bearer realm="msgsys"')
    return ProblemResponse(problem)


def problem_of(error: Exception) -> Problem | None:
    """Return an error of a view as a Problem; None when nobody foresaw it."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Http404):
        return Problem("not_found", "There is nothing at this address.")
    if not isinstance(error, exceptions.APIException):
        return None
    for kind, code in _OF_DRF:
        if isinstance(error, kind):
            wait = getattr(error, "wait", None)  # only Throttled has one
            headers = {"Retry-After": str(math.ceil(wait))} if wait else {}
            return Problem(code, _sentence(error), headers=headers)
    return None


def _sentence(error: exceptions.APIException) -> str:
    detail = error.detail
    if isinstance(detail, dict):
        return "; ".join(f"{name}: {_plain(value)}" for name, value in detail.items())
    return _plain(detail)


def _plain(detail: object) -> str:
    return " ".join(str(part) for part in detail) if isinstance(detail, list) else str(detail)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return ProblemResponse(
        Problem("not_found", "There is nothing at this address. docs/http-api.md lists what there is.")
    )


def malformed(request: HttpRequest, exception: Exception) -> HttpResponse:
    return ProblemResponse(
        Problem("malformed_request", "The request cannot be understood: check its headers and path.")
    )


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return ProblemResponse(Problem("forbidden", "This is not allowed."))


def failure() -> Problem:
    """Return what is said of an error that nobody foresaw. It may have come after the commit."""
    return Problem("internal_error", "This request failed, and what it asked for may be done or not. Try again.")


def internal_error(request: HttpRequest) -> HttpResponse:
    return ProblemResponse(failure())
