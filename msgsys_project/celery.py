"""The Celery app. Settings that matter are explained in docs/decisions/0005."""

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings

from ingest import redis_servers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "msgsys_project.settings.worker")

app = Celery("msgsys")


def configuration() -> dict[str, Any]:
    """Build Celery's settings from Django's."""
    server = redis_servers.celery_settings()
    return {
        **server,
        "broker_transport_options": {
            **server["broker_transport_options"],
            "priority_steps": [0],
            "socket_timeout": 5,
            "socket_connect_timeout": 1,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "task_default_queue": settings.QUEUE_NAME,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_backend": None,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "imports": ["ingest.tasks"],
    }


app.conf.update(configuration())
app.steps["worker"].add("ingest.delivery:Step")


@setup_logging.connect
def _keep_our_logging(**_options: Any) -> None:
    """Connected so that Celery leaves the logging alone that Django has set up."""
