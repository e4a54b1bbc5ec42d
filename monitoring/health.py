"""/healthz: this process runs. /readyz: it can do its job right now."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.module_loading import import_string
from django.views.decorators.http import require_safe

from certs_app.admission import ANY_ROLE, roles
from wire.problems import Problem

logger = logging.getLogger(__name__)

CHECK_TIMEOUT = 1.0
CACHE_SECONDS = 2.0


class Readiness:
    """Runs the checks that settings.READINESS names ({name: dotted path}), each bounded, cached for a moment."""

    def __init__(self, checks: dict[str, str]) -> None:
        self._checks = {name: import_string(path) for name, path in checks.items()}
        self._threads = ThreadPoolExecutor(max_workers=max(1, 2 * len(checks)), thread_name_prefix="readiness")
        self._known: dict[str, bool] = {}
        self._until = 0.0
        # In plain words, of the checks that gave one: for the metrics port, whose callers may know.
        self.reasons: dict[str, str] = {}

    def __call__(self) -> dict[str, bool]:
        """Return {check: passed}."""
        if time.monotonic() >= self._until:
            running = {name: self._threads.submit(check) for name, check in self._checks.items()}
            deadline = time.monotonic() + CHECK_TIMEOUT
            self.reasons = {}
            self._known = {name: self._passed(name, future, deadline) for name, future in running.items()}
            self._until = time.monotonic() + CACHE_SECONDS
        return self._known

    def _passed(self, name: str, future: Future[None], deadline: float) -> bool:
        try:
            future.result(timeout=max(0.0, deadline - time.monotonic()))
        except Exception as error:
            # Any failure means "not ready"; which one is for the log, not for whoever asks. A Problem is said in words
            # that may leave the process.
            if isinstance(error, Problem):
                self.reasons[name] = error.detail
            reason = self.reasons.get(name, type(error).__name__)
            logger.warning("a readiness check failed", extra={"check": name, "reason": reason})
            return False
        return True


@cache
def readiness() -> Readiness:
    return Readiness(settings.READINESS)


@login_not_required
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "alive"})


@login_not_required
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    ready = all(readiness()().values())
    return JsonResponse({"status": "ready" if ready else "not ready"}, status=200 if ready else 503)


alive = roles(*ANY_ROLE)(healthz)
ready = roles(*ANY_ROLE)(readyz)
