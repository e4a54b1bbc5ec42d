"""What the worker tells the registry of its dead letters. Valkey is real; the registry only listens or fails."""

import json
import threading
import time

import pytest
import redis

from ingest import dead_letters, progress, reporting
from ingest.registry_client import RegistryAway
from ingest.reporting import REPORT_EVERY, Reporter
from ingest.tests.test_dead_letters import FORMER, HASH, put
from wire.dead_letters import MAX_REPORTED, SECRET


class Listening:
    def __init__(self) -> None:
        self.reports: list[dict] = []
        self.asked = 0
        self.away = False

    def report_dead_letters(self, report: dict) -> None:
        self.asked += 1
        if self.away:
            raise RegistryAway("HTTP 503")
        self.reports.append(report)


@pytest.fixture
def registry(monkeypatch) -> Listening:
    listening = Listening()
    monkeypatch.setattr(reporting, "registry", lambda: listening)
    return listening


def ids(report: dict) -> list[str]:
    return [letter["id"] for letter in report["letters"]]


def test_the_newest_letters_are_reported_and_all_are_counted(valkey, registry):
    put_ids = [put(valkey.client, at=n) for n in range(MAX_REPORTED + 5)]
    Reporter().step(0.0)
    (report,) = registry.reports
    assert report["total"] == MAX_REPORTED + 5
    assert ids(report) == put_ids[:4:-1]
    assert report["queue"] == "deliver"


def test_no_contents_leave_the_node(valkey, registry):
    put(valkey.client, envelope="c2VjcmV0")
    Reporter().step(0.0)
    assert "c2VjcmV0" not in json.dumps(registry.reports)
    assert set(registry.reports[0]["letters"][0]) == {"id", "code", "at"}


def test_nothing_is_reported_too_so_that_the_portal_knows(valkey, registry):
    Reporter().step(0.0)
    (report,) = registry.reports
    assert (report["queue"], report["total"], report["letters"]) == ("deliver", 0, [])


def test_all_workers_of_a_queue_know_its_secret_and_a_queue_in_its_place_has_another(valkey, registry):
    for _ in range(2):
        Reporter().step(0.0)
    valkey.client.flushall()
    Reporter().step(0.0)
    first, second, third = (report["secret"] for report in registry.reports)
    assert first == second != third
    assert SECRET.match(first)
    assert SECRET.match(third)


def test_a_change_is_reported_at_once_and_no_change_every_minute(valkey, registry):
    reporter = Reporter()
    reporter.step(0.0)
    reporter.step(2.0)
    assert len(registry.reports) == 1
    uid = put(valkey.client)
    reporter.step(30.0)
    assert ids(registry.reports[-1]) == [uid]
    reporter.step(32.0)
    assert len(registry.reports) == 2
    reporter.step(30.0 + REPORT_EVERY)
    assert len(registry.reports) == 3


def test_a_letter_in_place_of_another_is_seen_within_a_minute(valkey, registry):
    reporter = Reporter()
    gone = put(valkey.client)
    reporter.step(0.0)
    assert sum(dead_letters.drop([gone])) == 1
    comes = put(valkey.client)
    reporter.step(REPORT_EVERY)
    assert ids(registry.reports[-1]) == [comes]


def test_a_registry_that_is_away_is_asked_again_after_the_retry_period(valkey, registry, settings):
    settings.RETRY_SECONDS = 30
    reporter = Reporter()
    registry.away = True
    with pytest.raises(RegistryAway):
        reporter.step(0.0)
    for now in range(2, 30, 2):
        reporter.step(float(now))
    assert registry.asked == 1
    registry.away = False
    reporter.step(30.0)
    assert len(registry.reports) == 1


def test_what_the_registry_would_refuse_does_not_spoil_the_report(valkey, registry):
    good = put(valkey.client)
    valkey.client.hset(HASH, "Not An Id", "{}")
    odd = put(valkey.client, code="Moon Phase", at=10**15)
    Reporter().step(0.0)
    (report,) = registry.reports
    assert report["total"] == 3
    assert set(ids(report)) == {good, odd}
    (shown,) = (letter for letter in report["letters"] if letter["id"] == odd)
    assert shown == {"id": odd, "code": "other", "at": 4_102_444_800}


def test_letters_of_an_older_version_are_adopted_first(valkey, registry):
    valkey.client.lpush(FORMER, json.dumps({"id": "id-1", "code": "bad_seal", "at": 7, "envelope": "AA=="}))
    Reporter().step(0.0)
    assert ids(registry.reports[0]) == ["id-1"]


def test_the_thread_outlives_a_redis_and_a_registry_that_go_away(own_valkey, registry, monkeypatch, settings, caplog):
    monkeypatch.setattr(reporting, "LOOK_EVERY", 0.05)
    settings.RETRY_SECONDS = 0.05
    progress._stop.clear()
    thread = threading.Thread(target=reporting._run, args=(Reporter(),), daemon=True)
    registry.away = True
    thread.start()
    until(lambda: registry.asked >= 2)
    registry.away = False
    until(lambda: registry.reports)
    own_valkey.stop()
    until(lambda: redis_is_away())
    own_valkey.start()
    uid = put(own_valkey.client)
    until(lambda: ids(registry.reports[-1]) == [uid])
    assert caplog.text.count("the dead letters could not be reported") == 1, "one line a minute is enough"
    progress._stop.set()
    thread.join(10)
    assert not thread.is_alive()
    progress._stop.clear()


def redis_is_away() -> bool:
    try:
        dead_letters.count()
    except redis.RedisError:
        return True
    return False


def until(probe, within: float = 10) -> None:
    deadline = time.monotonic() + within
    while not probe():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)
