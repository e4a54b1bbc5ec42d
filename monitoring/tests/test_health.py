import time

import pytest

from monitoring import health
from monitoring.health import Readiness
from wire.problems import Problem


def passes() -> None:
    pass


def fails() -> None:
    raise ConnectionError("a detail that must not leave the process")


def hangs() -> None:
    time.sleep(5)


def explains() -> None:
    raise Problem("queue_unavailable", "The queue has no append-only file.")


HERE = "monitoring.tests.test_health"


def test_all_checks_must_pass():
    assert Readiness({"a": f"{HERE}.passes", "b": f"{HERE}.fails"})() == {"a": True, "b": False}


def test_a_hanging_check_fails_within_its_second(monkeypatch):
    monkeypatch.setattr(health, "CHECK_TIMEOUT", 0.2)
    started = time.monotonic()
    assert Readiness({"a": f"{HERE}.hangs", "b": f"{HERE}.passes"})() == {"a": False, "b": True}
    assert time.monotonic() - started < 1


def test_the_answer_is_kept_for_a_moment(monkeypatch):
    readiness = Readiness({"a": f"{HERE}.passes"})
    assert readiness() == {"a": True}
    monkeypatch.setitem(readiness._checks, "a", fails)
    assert readiness() == {"a": True}
    monkeypatch.setattr(readiness, "_until", 0.0)
    assert readiness() == {"a": False}


def test_a_check_that_explains_itself_gives_its_reason(monkeypatch, caplog):
    readiness = Readiness({"a": f"{HERE}.explains", "b": f"{HERE}.fails"})
    assert readiness() == {"a": False, "b": False}
    assert readiness.reasons == {"a": "The queue has no append-only file."}
    assert {record.reason for record in caplog.records} == {"The queue has no append-only file.", "ConnectionError"}
    monkeypatch.setattr(readiness, "_checks", {"a": passes})
    monkeypatch.setattr(readiness, "_until", 0.0)
    assert readiness() == {"a": True}
    assert readiness.reasons == {}


@pytest.mark.parametrize(("check", "status"), [("passes", 200), ("fails", 503)])
def test_readyz_says_only_whether_it_is_ready(check, status, client, people, as_role, monkeypatch):
    as_role("registry")
    monkeypatch.setattr(health, "readiness", lambda: Readiness({"database": f"{HERE}.{check}"}))
    answer = client.get("/readyz", **{"msgsys.peer": people.peer("alice")})
    assert answer.status_code == status
    assert set(answer.json()) == {"status"}


def test_healthz_answers_whatever_the_checks_say(client, people, as_role):
    as_role("registry")
    assert client.get("/healthz", **{"msgsys.peer": people.peer("alice")}).json() == {"status": "alive"}


def test_health_is_not_for_callers_without_a_certificate(client, people, as_role):
    as_role("registry")
    assert client.get("/readyz").status_code == 403
