"""A client may submit so many messages a minute, whichever process it comes to; whoever else is there loses nothing."""

import asyncio
import json
import logging
import os
import time

import pytest
from django.core.asgi import get_asgi_application

from certs_app.per_client import BadNumbers
from ingest import rate_limit
from ingest.asgi import AcceptPath
from ingest.checks import rate_limits_file
from ingest.rate_limit import RateLimits, read_limits
from ingest.tests.conftest import Call, Valkey, _forget_clients, ask
from ingest.tests.malformed import GOOD, but


def batch(size: int) -> Call:
    return Call("/submit/batch", body={"messages": [GOOD] * size})


@pytest.fixture(params=["accept path", "view"])
def door(request, accept_path, drf_view):
    """Each of the two ways in."""
    return accept_path if request.param == "accept path" else drf_view


@pytest.fixture
def with_bucket(valkey):
    """Put so many tokens into a client's bucket, last drawn from `ago` seconds ago by the server's clock."""

    def put(client: str, tokens: float, ago: float = 0.0) -> None:
        seconds, micros = valkey.client.time()
        valkey.client.set(f"msgsys:bucket:{client}", f"{tokens}|{seconds + micros / 1e6 - ago:.6f}")

    return put


def test_a_client_over_its_rate_is_told_when_to_come_back(people, valkey, door, settings):
    settings.RATE_LIMIT_PER_MINUTE = 3
    answers = door([Call(body=GOOD)] * 5, people.peer("alice"))
    assert sorted(answer.status for answer in answers) == [202, 202, 202, 429, 429]
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.json()["code"] == "rate_limited"
    assert 19 <= int(refused.headers["retry-after"]) <= 20, "a third of a minute brings one of three"
    assert refused.headers["ratelimit-policy"] == '"client";q=3;w=60'
    assert refused.headers["ratelimit"] == f'"client";r=0;t={refused.headers["retry-after"]}'
    assert valkey.client.llen("deliver") <= 3


def test_an_accepted_request_says_what_is_left(people, valkey, door, settings):
    settings.RATE_LIMIT_PER_MINUTE = 60
    (answer,) = door([batch(20)], people.peer("alice"))
    assert answer.headers["ratelimit-policy"] == '"client";q=60;w=60'
    assert answer.headers["ratelimit"] == '"client";r=40;t=20'


def test_the_rate_is_one_for_all_processes(people, valkey, accept_path, settings):
    settings.RATE_LIMIT_PER_MINUTE = 4
    alice = people.peer("alice")
    # Each call of the fixture is a process of its own to the limiter, one that knows nothing yet.
    statuses = [answer.status for _ in range(6) for answer in accept_path([Call(body=GOOD)], alice)]
    assert statuses == [202] * 4 + [429] * 2


def test_processes_at_the_same_time_never_let_more_through(people, valkey, ingest_settings, settings):
    settings.RATE_LIMIT_PER_MINUTE = 20
    alice = people.peer("alice")

    async def at_once():
        applications = [AcceptPath(get_asgi_application()) for _ in range(3)]
        calls = [ask(application, Call(body=GOOD), alice) for _ in range(15) for application in applications]
        answers = await asyncio.gather(*calls)
        for application in applications:
            await application._acceptor.close()
        return [answer.status for answer in answers]

    statuses = asyncio.run(at_once())
    assert (statuses.count(202), statuses.count(429)) == (20, 25)
    assert int(valkey.client.get("msgsys:accepted")) == 20


def test_a_bucket_fills_by_the_clock_of_the_server(people, door, with_bucket, settings, monkeypatch):
    settings.RATE_LIMIT_PER_MINUTE = 60
    with_bucket("alice", 0, ago=3)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    (first,), (second,) = door([batch(4)], people.peer("alice")), door([batch(3)], people.peer("alice"))
    assert (first.status, second.status) == (429, 202)


def test_a_bucket_holds_no_more_than_a_minutes_worth(people, door, with_bucket, settings):
    settings.RATE_LIMIT_PER_MINUTE = 10
    with_bucket("alice", 10, ago=3600)
    statuses = [answer.status for answer in door([batch(6), batch(6)], people.peer("alice"))]
    assert sorted(statuses) == [202, 429]


def test_a_server_clock_that_goes_back_neither_fills_nor_empties_a_bucket(people, door, with_bucket, settings):
    settings.RATE_LIMIT_PER_MINUTE = 60
    with_bucket("alice", 10, ago=-3600)
    statuses = [answer.status for answer in door([batch(10), batch(5)], people.peer("alice"))]
    assert sorted(statuses) == [202, 429]


def test_who_is_over_its_limit_fails_nobody_else(people, valkey, ingest_settings, with_bucket, settings):
    """All in one group: the bucket is empty in Redis only, so that the group finds it out at the commit."""
    # A slow machine must not fill the bucket again meanwhile: a token comes every 6 s.
    settings.RATE_LIMIT_PER_MINUTE = 10
    with_bucket("alice", 2)
    alice, dave = people.peer("alice"), people.peer("dave")
    keyed = Call(body=GOOD, headers=(("Idempotency-Key", "k"),))

    async def together():
        application = AcceptPath(get_asgi_application())
        calls = [(batch(3), alice), (Call(body=GOOD), alice), (Call(body=GOOD), dave), (keyed, dave)]
        calls += [(batch(10), alice), (Call(body=GOOD), alice)]
        answers = await asyncio.gather(*(ask(application, call, peer) for call, peer in calls))
        await application._acceptor.close()
        return [answer.status for answer in answers]

    assert asyncio.run(together()) == [429, 202, 202, 202, 429, 202]
    assert int(valkey.client.get("msgsys:accepted")) == 4, "what came twice to the commit is queued once"
    assert float(valkey.client.get("msgsys:bucket:dave").split(b"|")[0]) == pytest.approx(8, abs=0.5), "charged once"


def test_a_key_that_was_refused_is_free_again(people, valkey, door, with_bucket, settings):
    settings.RATE_LIMIT_PER_MINUTE = 5
    alice = people.peer("alice")
    with_bucket("alice", 0)
    call = Call(body=GOOD, headers=(("Idempotency-Key", "k"),))
    assert door([call], alice)[0].status == 429
    assert valkey.client.keys("msgsys:idempotency:*") == []


def test_bad_messages_and_replays_count_as_well(people, valkey, accept_path, settings):
    settings.RATE_LIMIT_PER_MINUTE = 4
    alice = people.peer("alice")
    bad = Call("/submit/batch", body={"messages": [{}, {}]})
    keyed = Call(body=GOOD, headers=(("Idempotency-Key", "k"),))
    statuses = [accept_path([call], alice)[0].status for call in (bad, keyed, keyed, keyed)]
    assert statuses == [202, 202, 202, 429]
    assert int(valkey.client.get("msgsys:accepted")) == 1


def test_a_batch_that_will_never_fit_is_told_so(people, valkey, door, settings):
    settings.RATE_LIMIT_PER_MINUTE = 5
    (answer,) = door([batch(6)], people.peer("alice"))
    assert (answer.status, answer.json()["code"]) == (413, "too_large")
    assert "send at most 5 at once" in answer.json()["detail"]
    assert "retry-after" not in answer.headers, "waiting does not help"


def test_a_client_known_to_be_over_its_limit_is_refused_before_its_body_is_read(people, valkey, door, settings):
    settings.RATE_LIMIT_PER_MINUTE = 1
    alice = people.peer("alice")
    broken = Call(body=b"{")
    if door.__qualname__.startswith("drf_view"):
        assert door([Call(body=GOOD)], alice)[0].status == 202
        assert door([broken], alice)[0].json()["code"] == "rate_limited"
    else:
        assert asyncio.run(_one_after_the_other([Call(body=GOOD), broken], alice)) == [202, 429]


async def _one_after_the_other(calls, peer):
    application = AcceptPath(get_asgi_application())
    statuses = [(await ask(application, call, peer)).status for call in calls]
    await application._acceptor.close()
    return statuses


def test_a_client_may_have_a_limit_of_its_own(people, valkey, door, settings, tmp_path):
    settings.RATE_LIMIT_PER_MINUTE, settings.RATE_LIMITS_FILE = 2, tmp_path / "limits.json"
    settings.RATE_LIMITS_FILE.write_text(json.dumps({"alice": 10, "dave": 0}))
    assert [a.status for a in door([batch(3)], people.peer("alice"))] == [202]
    (free,) = door([batch(30)], people.peer("dave"))
    assert free.status == 202
    assert "ratelimit" not in free.headers
    assert [a.status for a in door([batch(3)], people.peer("erin"))] == [413]


def test_the_limits_file_is_read_again_when_it_changes_and_the_last_good_one_stands(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(rate_limit.RateLimits, "LOOK_EVERY", 0.0)
    file = tmp_path / "limits.json"
    limits = RateLimits(5, file)
    assert limits.of("alice") == 5, "there is no file yet"
    caplog.clear()
    for content, expected in (('{"alice": 7}', 7), ("{", 7), ('{"alice": 8}', 8), (None, 8), ('{"bob": 1}', 5)):
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
            os.utime(file, (expected, expected))
        assert limits.of("alice") == limits.of("alice") == expected
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2, "once for each that cannot be used"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "one JSON object"),
        ('{"Not A Name": 1}', "not the name of a client"),
        ('{"alice": -1}', "whole number"),
        ('{"alice": true}', "whole number"),
        ('{"alice": 1.5}', "whole number"),
        ('{"alice": 1, "alice": 2}', "twice"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_limits_file_is_told_at_the_start(content, said, settings, tmp_path):
    file = settings.RATE_LIMITS_FILE = tmp_path / "limits.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadNumbers, match=said):
        read_limits(file)
    assert [message.id for message in rate_limits_file(None)] == ["msgsys.E320"]


def test_a_good_limits_file_or_none_is_fine(settings, tmp_path):
    settings.RATE_LIMITS_FILE = None
    assert rate_limits_file(None) == []
    settings.RATE_LIMITS_FILE = tmp_path / "limits.json"
    settings.RATE_LIMITS_FILE.write_text('{"alice": 600, "bob": 0}')
    assert rate_limits_file(None) == []


def test_another_body_costs_what_it_holds(people, valkey, door, settings):
    settings.RATE_LIMIT_PER_MINUTE = 10
    answers = door([batch(7), Call(body=but(message_body="one more")), batch(7)], people.peer("alice"))
    assert [answer.status for answer in answers] == [202, 202, 429]


def test_a_bucket_survives_a_killed_redis(people, tmp_path, settings, door):
    server = Valkey(tmp_path)
    try:
        server.start("--appendonly", "yes")
        settings.REDIS_URL, settings.RATE_LIMIT_PER_MINUTE = server.url, 3
        alice = people.peer("alice")
        assert door([batch(3)], alice)[0].status == 202
        server.stop()
        server.start("--appendonly", "yes")
        assert float(server.client.get("msgsys:bucket:alice").split(b"|")[0]) < 1
        assert door([Call(body=GOOD)], alice)[0].status == 429
    finally:
        server.stop()
        _forget_clients()
