"""The running system on a Redis that would lose messages, and a client that sends more than it may."""

import json
import sys

import pytest
import redis

from tests.running import ROOT, Installation, eventually, start_valkey

pytestmark = pytest.mark.system


def readiness(services: Installation, role: str) -> tuple[int, dict]:
    """Ask on the metrics port, where the reasons are."""
    with services.session("prometheus") as session:
        answer = session.get(services.ready["metrics"][role].replace("/metrics", "/readyz"), timeout=5)
    return answer.status_code, answer.json()


def is_ready(services: Installation, role: str) -> bool:
    try:
        return readiness(services, role)[0] == 200
    except OSError:
        return False


def test_a_redis_that_would_lose_messages_is_red_with_a_reason_until_it_is_cured(services):
    for role in ("registry", "ingest", "worker"):
        services.serve(role)
    for role in ("ingest", "worker"):
        eventually(lambda: is_ready(services, role), within=30)  # noqa: B023  called at once
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        for role in ("ingest", "worker"):
            eventually(lambda: not is_ready(services, role), within=10)  # noqa: B023  as above
            status, document = readiness(services, role)
            assert (status, document["checks"]["queue"]) == (503, False)
            assert "throws data away" in document["reasons"]["queue"]
        with services.session() as alice:
            public = alice.get(f"{services.ready['ingest']}/readyz", timeout=5)
            assert (public.status_code, public.json()) == (503, {"status": "not ready"})
        services.stop("ingest")
        refused = services.spawn("refused", sys.executable, str(ROOT / "manage.py"), "serve", "ingest")
        assert refused.wait(30) != 0
        assert "msgsys.E311" in (services.home / "refused.test.log").read_text()
        services.processes.pop("refused")
        client.config_set("maxmemory-policy", "noeviction")
    services.serve("ingest")
    for role in ("ingest", "worker"):
        eventually(lambda: is_ready(services, role), within=15)  # noqa: B023  as above


def test_ingest_starts_before_its_redis_and_is_ready_after(services):
    services.stop("valkey")
    services.serve("ingest")
    eventually(lambda: "does not answer" in _reason(services), within=20)
    start_valkey(services)
    eventually(lambda: is_ready(services, "ingest"), within=20)


def _reason(services: Installation) -> str:
    try:
        return readiness(services, "ingest")[1]["reasons"].get("queue", "")
    except OSError:
        return ""


def test_a_client_over_its_limit_stays_so_when_ingest_is_killed_and_started_again(services):
    limits = services.home / "limits.json"
    limits.write_text(json.dumps({"demo": 2}))
    services.settings["MSGSYS_RATE_LIMITS_FILE"] = str(limits)
    services.serve("ingest")
    with services.session() as alice:
        assert [services.submit(alice, f"{n}").status_code for n in range(3)] == [202, 202, 429]
    services.stop("ingest", 9)
    services.serve("ingest")
    with services.session() as alice:
        answer = services.submit(alice, "again")
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert int(answer.headers["Retry-After"]) > 1
        limits.write_text(json.dumps({"demo": 60_000}))
        # A minute's worth in a minute: the new limit fills the same bucket faster.
        eventually(lambda: services.submit(alice, "once more").status_code == 202, within=10, every=0.3)
