"""How the worker fares: does it consume, do its threads live, and does it end in time?"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from celery.signals import celeryd_init, worker_ready, worker_shutting_down

from ingest import holdings

logger = logging.getLogger(__name__)

# Seconds from the wish to end until the process is gone, whatever hangs: service managers kill after ten. Without an
# event loop, as on Windows, Celery may hear of the wish two seconds late.
END_WITHIN = 7.5

_LOOK_EVERY = 0.1
_TOO_LATE = "the worker could not leave in time, another one puts back what it held"

_consuming = threading.Event()
_stop = threading.Event()
_asked: list[float] = []
_ended: list[int] = []
_relied_on: list[threading.Thread] = []


@worker_ready.connect
def _ready(**_options: Any) -> None:
    _consuming.set()


@worker_shutting_down.connect
def _stopping(**_options: Any) -> None:
    # Nothing that takes a lock: this runs in a signal handler, and a second signal would wait for the first for ever.
    _asked.append(time.monotonic())


@celeryd_init.connect
def _guard(**_options: Any) -> None:
    """Sent by a worker that is a process, and not by one that lives in a test's."""
    threading.Thread(target=_end_in_time, name="end in time", daemon=True).start()


def _end_in_time() -> None:
    """End the process when its main thread does not: with Redis away, Celery waits for it again and again.

    Nothing is lost by that: what this worker held is still in Redis, and another one puts it back.
    """
    while not (_asked or _ended):
        time.sleep(_LOOK_EVERY)
    _stop.set()
    time.sleep(END_WITHIN)
    # In a thread: whoever reads the log may be what hangs.
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=logger.error, args=(_TOO_LATE,), daemon=True).start()
        time.sleep(0.2)
    os._exit(exit_code())


def wait_for_stop(seconds: float) -> bool:
    """Wait, but not longer than the worker runs; tell whether it is stopping."""
    return _stop.wait(seconds)


def left_of(seconds: float) -> float:
    """Return what is left of `seconds` since somebody asked the worker to end; all, when nobody did."""
    return max(0.0, _asked[0] + seconds - time.monotonic()) if _asked else seconds


def note_end(code: int) -> None:
    """Remember with which exit code Celery's worker ends: its own command forgets it. From now on it must be quick."""
    _ended.append(code)


def exit_code() -> int:
    """Return 0 after an end that somebody asked for, 1 after one by an error: the supervisor may go by it."""
    if _asked:
        return 0
    # Without an end, it did not even come to run.
    return _ended[-1] if _ended else 1


def rely_on(threads: Sequence[threading.Thread]) -> None:
    """Name the threads without which the worker only looks alive."""
    _relied_on[:] = threads


def check_consuming() -> None:
    """Readiness: raise until the worker takes tasks, and again when it stops."""
    if _asked or not _consuming.is_set():
        raise RuntimeError("the worker is not consuming")
    if dead := [thread.name for thread in _relied_on if not thread.is_alive()]:
        raise RuntimeError(f"threads of the worker ended: {', '.join(dead)}")
    if time.monotonic() - holdings.mine().last_beat > holdings.LIFE:
        raise RuntimeError("no heartbeat reached Redis lately: other workers take over what this one holds")
