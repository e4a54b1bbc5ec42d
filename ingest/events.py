"""Celery's events of tasks, for Flower and `celery events`: told beside the delivery, which never waits for them.

Celery publishes an event in the thread that it happens in, and waits there for a Redis that is slow; what it could not
publish it keeps without limit. Here one thread publishes what the others leave with it, and drops what it cannot.
"""

import contextlib
import logging
import threading
from collections import deque
from typing import Any

logger = logging.getLogger(__name__)

# Events that wait for the thread, at most; the oldest go first.
MOST = 10_000
# Seconds in which events are dropped after some could not be published.
SILENCE = 5
# How long Redis may take, in seconds.
_PATIENCE = {"socket_timeout": 2, "socket_connect_timeout": 1, "max_retries": 0}


class Events:
    """Follows a consumer of Celery: whoever watches tells it, by remote control, whether there shall be events."""

    def __init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._consumer: Any = None
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MOST)
        self._some = threading.Event()
        self._stop = threading.Event()
        self._dispatcher: Any = None

    def follow(self, consumer: Any) -> None:
        """Take the consumer that Celery has now."""
        self._consumer = consumer

    def tell(self, event: str, **fields: Any) -> None:
        """Leave an event with the thread."""
        if self._is_wanted():
            self._waiting.append((event, fields))
            self._some.set()

    def stop(self) -> None:
        self._stop.set()
        self._some.set()

    def _is_wanted(self) -> bool:
        wanted = getattr(self._consumer, "event_dispatcher", None)
        return wanted is not None and wanted.enabled and (not wanted.groups or "task" in wanted.groups)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._some.wait()
            self._some.clear()
            try:
                self._publish()
            except Exception as error:
                # Whoever watches sees less; what is watched goes on.
                logger.warning("events cannot be published, some are dropped", extra={"reason": type(error).__name__})
                self._close()
                self._stop.wait(SILENCE)
                self._waiting.clear()
        self._close()

    def _publish(self) -> None:
        if self._waiting and self._dispatcher is None:
            self._dispatcher = self._connect()
        while self._waiting:
            event, fields = self._waiting.popleft()
            self._dispatcher.send(event, **fields)
        if self._dispatcher is not None:
            self._dispatcher.flush()

    def _connect(self) -> Any:
        app = self._consumer.app
        return app.events.Dispatcher(
            app.connection_for_write(transport_options=_PATIENCE),
            hostname=self._consumer.hostname,
            # Several in one message, and nothing kept for later.
            buffer_group=["task"],
            buffer_while_offline=False,
        )

    def _close(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            with contextlib.suppress(Exception):
                dispatcher.close()
                dispatcher.connection.release()
