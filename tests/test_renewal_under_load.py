"""Services renew their certificates while messages flow: nothing is restarted, no message fails.

MSGSYS_TEST_LIFE sets how many seconds the services' certificates live (default 30).
"""

import os
import subprocess
import sys
import threading
import time

import pytest
import requests

from tests.running import ROOT, Installation, eventually

pytestmark = pytest.mark.system

LIFE = int(os.environ.get("MSGSYS_TEST_LIFE", "30"))
RENEWED_BY = {
    "ingest": "ingest",
    "ingest-client": "ingest",
    "worker": "worker",
    "worker-server": "worker",
    "registry": "registry",
    "portal": "portal",
    "portal-client": "portal",
    "jobs": "jobs",
}

# What `issue_cert` has no option for: nobody needs certificates that live for seconds, but this test.
SHORT_LIVED = """
import sys, django
django.setup()
from datetime import timedelta
from django.conf import settings
from django.utils import timezone
from certs_app.audit import Actor
from certs_app.pairs import replace_pair
from certs_app.issuing import Request, issue
from deploy.home import CERTIFICATES, LOOPBACK_DNS, LOOPBACK_IP
for stem, name, role, usage in CERTIFICATES:
    if stem not in sys.argv[2:]:
        continue
    hosts = {"dns": LOOPBACK_DNS, "ip": LOOPBACK_IP} if usage == "server" else {}
    life = timedelta(seconds=int(sys.argv[1]))
    issued = issue(Request(name, role, usage, life=life, **hosts), timezone.now(), Actor("operator:test"))
    folder = settings.CERTIFICATES_DIR
    replace_pair(folder / f"{stem}.crt", folder / f"{stem}.key", issued.chain_pem, issued.key_pem)
"""


class Load(threading.Thread):
    """Submits ten messages a second, on one kept-alive connection and on new ones in turn."""

    def __init__(self, installation: Installation) -> None:
        super().__init__()
        self.installation = installation
        self.accepted: list[str] = []
        self.failed: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        with self.installation.session() as kept:
            while not self.stop.wait(0.1):
                try:
                    self._submit(kept if len(self.accepted) % 2 else None)
                except requests.RequestException as error:
                    self.failed.append(repr(error))

    def _submit(self, kept: requests.Session | None) -> None:
        session = kept or self.installation.session()
        answer = self.installation.submit(session, f"message {len(self.accepted)}")
        if answer.status_code == 202:
            self.accepted.append(answer.json()["id"])
        else:
            self.failed.append(answer.text)
        if session is not kept:
            session.close()


@pytest.mark.timeout(LIFE * 4 + 120)
def test_every_service_renews_twice_under_load_and_no_message_fails(services: Installation) -> None:
    services.settings["MSGSYS_RETRY_SECONDS"] = "5"
    services.settings["MSGSYS_VISIBILITY_TIMEOUT"] = "60"
    environment = {**services.environment, "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.operator"}
    command = [sys.executable, "-c", SHORT_LIVED, str(LIFE), *RENEWED_BY]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=60)
    started = time.time()
    for role in ("registry", "ingest", "worker", "jobs", "portal"):
        services.serve(role)
    load = Load(services)
    load.start()
    try:
        eventually(lambda: _renewed_twice(services), within=LIFE * 2.5, every=1)
        assert time.time() - started > LIFE, "the first certificates would have expired by now"
    finally:
        load.stop.set()
        load.join(20)
    assert load.failed == []
    assert len(load.accepted) > 5 * LIFE / 2

    eventually(lambda: _stored(services) >= set(load.accepted), within=30)
    assert "could not be renewed" not in "".join(file.read_text() for file in services.home.glob("*.test.log"))
    listed = services.manage("list_certs").stdout
    assert "superseded" in listed


def _renewed_twice(services: Installation) -> bool:
    try:
        shown = {role: services.metrics(role) for role in set(RENEWED_BY.values())}
    except requests.ConnectionError:
        return False  # one of them does not listen yet
    return all(_times(shown[role], stem) >= 2 for stem, role in RENEWED_BY.items())


def _times(metrics: str, stem: str) -> int:
    name = f'msgsys_certificate_renewals_total{{certificate="{stem}",outcome="renewed"}} '
    found = [line for line in metrics.splitlines() if line.startswith(name)]
    return int(float(found[0].rpartition(" ")[2])) if found else 0


def _stored(services: Installation) -> set[str]:
    return {message["id"] for message in services.messages(services.staff())}
