"""Is the worker consuming? Set when Celery says so."""

import threading
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

_consuming = threading.Event()


@worker_ready.connect
def _ready(**_options: Any) -> None:
    _consuming.set()


@worker_shutting_down.connect
def _stopping(**_options: Any) -> None:
    _consuming.clear()


def check_consuming() -> None:
    """Readiness: raise until the worker takes tasks, and again when it stops."""
    if not _consuming.is_set():
        raise RuntimeError("the worker is not consuming")
