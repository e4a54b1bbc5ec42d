"""The peer: Celery as its documentation has it, over kombu's own Redis transport, one POST for each message.

It gets what is good for it: late acknowledgement, kept-alive mutual TLS through the project's own client of the
registry, no result backend, logs of warnings only. Run under the worker's settings: `celery -A bench.stock worker`.
"""

import os

import django
from celery import Celery
from django.conf import settings

from bench import STOCK_QUEUE, STOCK_TASK

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "msgsys_project.settings.worker")
django.setup()

from ingest.registry_client import registry  # noqa: E402  it reads settings

app = Celery("stock", broker=settings.REDIS_URL)
app.conf.update(
    task_default_queue=STOCK_QUEUE, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True
)


@app.task(
    name=STOCK_TASK,
    autoretry_for=(Exception,),
    retry_kwargs={"countdown": settings.RETRY_SECONDS},
    max_retries=None,
    acks_late=True,
    ignore_result=True,
)
def deliver(envelope_id: str, envelope: str) -> None:
    registry().register([envelope])
