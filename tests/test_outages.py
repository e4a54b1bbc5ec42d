"""The seed's manual test plan, step 4, and what else may be away for a while."""

import json
import time

import pytest
import redis

from tests.running import Installation, eventually, start_valkey

pytestmark = pytest.mark.system


def queue_length(services: Installation) -> int:
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        return client.llen("deliver")


def worker_log(services: Installation) -> str:
    return (services.home / "worker.test.log").read_text(encoding="utf-8")


def bodies(services: Installation) -> list[str]:
    return sorted(message["message_body"] for message in services.messages(services.staff()))


def accept(services: Installation, session, body: str) -> None:
    def accepted() -> bool:
        try:
            return services.submit(session, body).status_code == 202
        except OSError:
            return False

    eventually(accepted, within=20)


def test_a_stopped_worker_delivers_after_its_start(services):
    for role in ("registry", "ingest", "portal"):
        services.serve(role)
    with services.session() as alice:
        for n in range(5):
            accept(services, alice, f"waiting {n}")
    assert queue_length(services) == 5, "step 2 of the plan: the queue shows them"
    services.serve("worker")
    eventually(lambda: len(bodies(services)) == 5, within=20, every=0.3)
    assert queue_length(services) == 0


def test_a_registry_that_is_away_for_two_periods_gets_everything_after(services):
    for role in ("registry", "ingest", "portal", "worker"):
        services.serve(role)
    with services.session() as alice:
        accept(services, alice, "before")
        eventually(lambda: bodies(services) == ["before"], within=20, every=0.3)
        services.stop("registry")
        for n in range(5):
            accept(services, alice, f"during {n}")
    time.sleep(2 * 2 + 0.5)  # two retry periods of MSGSYS_RETRY_SECONDS=2
    services.serve("registry")
    expected = ["before", *(f"during {n}" for n in range(5))]
    eventually(lambda: bodies(services) == expected, within=20, every=0.3)


def test_while_redis_is_away_clients_are_told_and_nothing_accepted_is_lost(services):
    for role in ("registry", "ingest", "portal", "worker"):
        services.serve(role)
    with services.session() as alice:
        accept(services, alice, "before")
        eventually(lambda: bodies(services) == ["before"], within=30, every=0.3)
        services.stop("valkey")
        answer = services.submit(alice, "refused")
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        eventually(lambda: "Connection to broker lost" in worker_log(services), within=30)
        start_valkey(services)
        accept(services, alice, "after")
    eventually(lambda: bodies(services) == ["after", "before"], within=30, every=0.3)
    assert "DeprecationWarning" not in worker_log(services), "Celery knows what we want of it when a connection is lost"


def test_a_worker_whose_certificate_is_refused_keeps_everything(services):
    for role in ("registry", "ingest", "portal"):
        services.serve(role)
    with services.session() as alice:
        accept(services, alice, "kept")
    services.manage("revoke_cert", "worker", "--reason", "superseded")
    services.serve("worker")
    eventually(lambda: 'msgsys_worker_envelopes_total{outcome="refused"} 1' in _metrics(services), within=20)
    assert bodies(services) == []
    services.stop("worker")
    # `up` issues what is missing, and this is how an operator would repair it.
    services.manage("issue_cert", "worker", "--role", "worker", "--out", str(services.home / "new"))
    (services.home / "new" / "worker.key").replace(services.home / "pki" / "certs" / "worker.key")
    (services.home / "new" / "worker.crt").replace(services.home / "pki" / "certs" / "worker.crt")
    services.serve("worker")
    eventually(lambda: bodies(services) == ["kept"], within=30, every=0.3)


def _metrics(services: Installation) -> str:
    try:
        return services.metrics("worker")
    except OSError:
        return ""


def test_an_envelope_the_registry_rejects_lands_in_the_dead_letters(services):
    """Sealed by an ingest whose key was stolen: the registry will never take it, and says so per envelope."""
    for role in ("registry", "ingest", "portal"):
        services.serve(role)
    with services.session() as alice:
        accept(services, alice, "forged for all we know")
    services.manage("revoke_cert", "ingest", "--reason", "key_compromise")
    services.serve("worker")
    with redis.Redis.from_url(services.ready["redis_url"]) as client:
        (letter,) = eventually(lambda: client.hvals("deliver.dead_letters"), within=20)
        assert json.loads(letter)["code"] == "signer_revoked"
        assert b"forged" not in letter
    assert queue_length(services) == 0
