"""Error answers: a problem below /api/, a page elsewhere. No page touches the session or the database."""

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from certs_app.problems import ProblemResponse
from wire.problems import Problem, retry_later


def answer(request: HttpRequest, problem: Problem, title: str = "") -> HttpResponse:
    """Show a problem to whoever asked: a program or a person, who may need another title."""
    if request.path_info.startswith("/api/"):
        return ProblemResponse(problem)
    # Without the request, so no context processor looks for the user: this must work when the database does not.
    shown = {**problem.as_dict(), **({"title": title} if title else {})}
    page = render_to_string("portal/error.html", {"problem": shown})
    return HttpResponse(page, status=problem.status, headers=problem.headers)


def malformed(request: HttpRequest, exception: Exception) -> HttpResponse:
    return answer(
        request, Problem("malformed_request", "The request cannot be understood. Check the address and try again.")
    )


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return answer(request, Problem("forbidden", "Your account may not do this. An administrator can say more."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return answer(
        request, Problem("not_found", "Check the address. A message that was sent just now may still be in the queue.")
    )


def internal_error(request: HttpRequest) -> HttpResponse:
    return answer(
        request, Problem("internal_error", "Nothing was changed. Try again; if it stays, tell your administrator.")
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a form without a valid token: Django's CSRF_FAILURE_VIEW."""
    detail = "The form was open too long, or the browser blocks cookies. Go back, reload the page and send it again."
    return answer(request, Problem("forbidden", detail))


def too_many_logins(request: HttpRequest, seconds: int) -> HttpResponse:
    detail = f"Wait {seconds} seconds, then go back and try again. An administrator can set a new password."
    return answer(request, retry_later("rate_limited", detail, seconds), title="Too many attempts to sign in")
