"""The queue on a Redis that demands TLS and lets each user do no more than the documentation grants."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery
from django.core.checks import run_checks
from kombu.exceptions import OperationalError

from ingest import delivery, redis_servers
from ingest.durability import check_ready
from ingest.queue import name, task_message
from ingest.tests.conftest import Call, _forget_clients, _redis_server, consuming, until
from ingest.tests.guarded_redis import PASSWORDS, TlsRedis
from ingest.tests.malformed import GOOD, but
from wire.problems import Problem


@pytest.fixture
def tls_redis(tmp_path: Path, settings: Any) -> Iterator[TlsRedis]:
    server = TlsRedis.prepare(tmp_path / "redis", _redis_server())
    folder = server.folder
    settings.REDIS_CA_FILE = str(folder / "ca.crt")
    settings.REDIS_CERTIFICATE_FILE, settings.REDIS_KEY_FILE = str(folder / "client.crt"), str(folder / "client.key")
    settings.REDIS_URL = server.url_of("ingest")
    # Of a busy machine's handshakes nothing is asked here.
    settings.REDIS_TIMEOUT = 10
    try:
        server.start()
        yield server
    finally:
        server.stop()
        _forget_clients()


def test_ingest_accepts_under_its_rules(tls_redis, people, accept_path, drf_view, settings):
    settings.REDIS_URL = tls_redis.url_of("ingest")
    for door in (accept_path, drf_view):
        calls = [Call(body=but(message_body=str(n)), headers=(("Idempotency-Key", f"{door}{n}"),)) for n in range(3)]
        answers = door([*calls, Call("/submit/batch", body={"messages": [GOOD]})], people.peer("alice"))
        assert [answer.status for answer in answers] == [202] * 4
    check_ready()
    assert tls_redis.refused() == []
    assert tls_redis.client.llen(name()) >= 2


def test_a_worker_sets_aside_what_the_registry_chokes_on_under_its_rules(tls_redis, registry, settings):
    settings.REDIS_URL = tls_redis.url_of("worker")
    root = tls_redis.client
    registry.chokes_on = {f"poison {n}" for n in range(delivery.ALL_FAIL)}
    with consuming():
        root.lpush(name(), task_message(uuid4(), "poison 0"), task_message(uuid4(), "good"))
        until(lambda: "good" in registry.taken, within=30)
        # None gets through: the breaker opens, and those come last.
        root.lpush(name(), *(task_message(uuid4(), one) for one in sorted(registry.chokes_on)[1:]))
        until(lambda: len(registry.posts) > 10, within=30)
        registry.chokes_on = set()
        until(lambda: len(registry.taken) == 1 + delivery.ALL_FAIL, within=30)
    assert root.llen(name()) == 0
    assert tls_redis.refused() == []


FORBIDDEN = {
    "everyone": [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("CONFIG", "GET", "masterauth"),
        ("KEYS", "*"),
        ("SHUTDOWN",),
        ("ACL", "LIST"),
        ("CLIENT", "LIST"),
        ("MONITOR",),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("SCRIPT", "FLUSH"),
        ("FUNCTION", "LIST"),
        ("SWAPDB", "0", "1"),
        ("RESTORE", "deliver", "0", "x"),
        ("GET", "somebody:else"),
        ("EVAL", "return redis.call('FLUSHALL')", "0"),
        ("EVAL", "return redis.call('GET', 'somebody:else')", "0"),
        ("PUBLISH", "somebody.else", "x"),
        ("SUBSCRIBE", "somebody.else"),
    ],
    "ingest": [
        ("RENAME", "deliver", "somebody:else"),
        ("DEL", "_kombu.binding.deliver"),
        ("PUBLISH", "/0.celery.pidbox", "shutdown"),
        ("RPOP", "deliver"),
    ],
    "worker": [("GET", "msgsys:accepted"), ("HGETALL", "deliver.dead_letters"), ("LRANGE", "somebody:else", "0", "9")],
    "operator": [("GET", "msgsys:accepted"), ("RPOP", "deliver"), ("HGETALL", "deliver.held:some")],
}


@pytest.mark.parametrize("user", PASSWORDS)
def test_a_user_may_do_nothing_else(user, tls_redis):
    with contextlib.closing(redis.Redis.from_url(tls_redis.url_of(user), **tls_redis.tls())) as client:
        for command in FORBIDDEN["everyone"] + FORBIDDEN[user]:
            with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)permission|NOPERM|ACL|can't"):
                client.execute_command(*command)


def test_nobody_comes_in_without_a_password(tls_redis):
    for entry in ({}, {"username": "ingest", "password": "guessed"}):
        with (
            contextlib.closing(redis.Redis(port=tls_redis.port, ssl=True, **entry, **tls_redis.tls())) as client,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            client.ping()


@pytest.mark.parametrize("trouble", ["another CA", "another name", "no certificate of ours"])
def test_a_server_that_is_not_verified_gets_nothing(trouble, tls_redis, settings, people, accept_path):
    settings.REDIS_URL = tls_redis.url_of("ingest")
    if trouble == "another CA":
        settings.REDIS_CA_FILE = str(tls_redis.folder / "other.crt")
    elif trouble == "another name":
        tls_redis.stop()
        tls_redis.start(certificate="wrong")
    else:
        settings.REDIS_CERTIFICATE_FILE = settings.REDIS_KEY_FILE = ""
    (answer,) = accept_path([Call(body=GOOD)], people.peer("alice"))
    assert (answer.status, answer.json()["code"]) == (503, "queue_unavailable")
    with pytest.raises(Problem, match="does not answer"):
        check_ready()


def test_celery_verifies_the_server_as_well(tls_redis, settings):
    settings.REDIS_CA_FILE = str(tls_redis.folder / "other.crt")
    app = Celery("tests", set_as_current=False)
    app.conf.update(redis_servers.celery_settings())
    with app.connection_for_write() as connection, pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        connection.ensure_connection(max_retries=1)


def test_the_checks_have_nothing_to_say(tls_redis, settings):
    settings.ROLE = "worker"
    assert run_checks(tags=["queue"]) == []
