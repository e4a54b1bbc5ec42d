"""What every answer of the portal carries, and how often its login pages may be tried."""

import math
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from portal import errors
from portal.throttling import LoginRate

LOGIN_PAGES = frozenset({"login", "admin:login"})


class NeverStored:
    """Keep pages out of every cache, the browser's included. Stands below the static files, which may be kept."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers["Cache-Control"] = "no-store"
        return response


class LoginsThrottled:
    """Let the login pages check only so many passwords, as /api/token/ does.

    Stands below the CSRF check: a form that another site made somebody send is not counted.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: Any, kwargs: Any
    ) -> HttpResponse | None:
        match = request.resolver_match
        if request.method != "POST" or match is None or match.view_name not in LOGIN_PAGES:
            return None
        rate = LoginRate()
        if rate.allows(request, request.POST):
            return None
        return errors.too_many_logins(request, math.ceil(rate.wait() or 1))
