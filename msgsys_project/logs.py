"""One line per event: a constant sentence, then its fields. Ids only: never a body, a number or a key."""

import logging
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class FieldsFormatter(logging.Formatter):
    """Append the fields given as `extra={...}` to the sentence, as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        # Django's request logger attaches the request; its repr would put a URL into the log.
        fields.pop("request", None)
        shown = " ".join(f"{name}={value}" for name, value in sorted(fields.items()))
        return f"{line} {shown}" if shown else line


def configuration(level: str) -> dict[str, Any]:
    """Build the LOGGING dict: everything to stderr, where the supervisor or the service manager keeps it."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "fields": {
                "()": FieldsFormatter,
                "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "fields"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # These log request lines or every retry; both would be noise, and URLs do not belong into logs.
            "uvicorn.access": {"level": "WARNING"},
            "urllib3": {"level": "ERROR"},
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
        },
    }
