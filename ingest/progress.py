"""Is the worker consuming? Set when Celery says so."""

import threading
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

_consuming = threading.Event()
_stop = threading.Event()


@worker_ready.connect
def _ready(**_options: Any) -> None:
    _consuming.set()


@worker_shutting_down.connect
def _stopping(**_options: Any) -> None:
    _consuming.clear()
    _stop.set()


def wait_for_stop(seconds: float) -> bool:
    """Wait, but not longer than the worker runs; tell whether it is stopping."""
    return _stop.wait(seconds)


def check_consuming() -> None:
    """Readiness: raise until the worker takes tasks, and again when it stops."""
    if not _consuming.is_set():
        raise RuntimeError("the worker is not consuming")
