"""One line per event: a constant sentence, then its fields. Ids only: never a body, a number or a key."""

import logging
import logging.handlers
from pathlib import Path
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
OWN = frozenset({"certs_app", "deploy", "ingest", "monitoring", "portal", "registry"})


class FieldsFormatter(logging.Formatter):
    """Append the fields that our own code gives as `extra={...}` to the sentence, as name=value.

    Nobody else's: Celery attaches a failed task's arguments, which are whole envelopes, and Django the request.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.name.partition(".")[0] not in OWN:
            return line
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        shown = " ".join(f"{name}={value}" for name, value in sorted(fields.items()))
        return f"{line} {shown}" if shown else line


def configuration(level: str, file: str = "") -> dict[str, Any]:
    """Build the LOGGING dict: everything to `file`, or to stderr, where the service manager keeps it."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "fields": {
                "()": FieldsFormatter,
                "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
            }
        },
        "handlers": {"log": {"formatter": "fields", **(_rotated(file) if file else _STDERR)}},
        "root": {"handlers": ["log"], "level": level},
        "loggers": {
            # These log request lines or every retry; both would be noise, and URLs do not belong into logs.
            "uvicorn.access": {"level": "WARNING"},
            "urllib3": {"level": "ERROR"},
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
        },
    }


def with_record(configured: dict[str, Any], file: Path) -> dict[str, Any]:
    """Send what a command has the CA do to `file` instead of the terminal of whoever runs it."""
    record = {"formatter": "fields", **_rotated(str(file)), "class": "msgsys_project.logs.FolderMakingHandler"}
    loggers = {"certs_app.audit": {"handlers": ["record"], "propagate": False}}
    return {
        **configured,
        "handlers": {**configured["handlers"], "record": record},
        "loggers": {**configured["loggers"], **loggers},
    }


class FolderMakingHandler(logging.handlers.RotatingFileHandler):
    """Makes the folder of its file: before the first `up`, there is none."""

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return super()._open()


_STDERR = {"class": "logging.StreamHandler"}


def _rotated(file: str) -> dict[str, Any]:
    return {
        "class": "logging.handlers.RotatingFileHandler",
        "filename": file,
        "maxBytes": 10_000_000,
        "backupCount": 7,
        "encoding": "utf-8",
        # Opened by the first line: reading the settings alone makes no file.
        "delay": True,
    }
