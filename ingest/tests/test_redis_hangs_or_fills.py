"""Whatever Redis does, the client has its answer within the second, and what it may have taken it takes once."""

import asyncio
import re
import signal
import socket
import struct
import threading
import time
from contextlib import suppress

import pytest
import redis
from django.core.asgi import get_asgi_application

from ingest.asgi import AcceptPath
from ingest.durability import ask as ask_redis
from ingest.queue import AsyncQueue, SyncQueue
from ingest.queue import Call as Script
from ingest.tests.conftest import Call, Valkey, _forget_clients, _redis_server, ask
from ingest.tests.malformed import GOOD, but
from wire.problems import Problem

KEYED = Call(body=GOOD, headers=(("Idempotency-Key", "k"),))


@pytest.fixture(params=["accept path", "view"])
def door(request, accept_path, drf_view):
    """Each of the two ways in."""
    return accept_path if request.param == "accept path" else drf_view


def refused(answer) -> tuple[int, str]:
    assert int(answer.headers["retry-after"]) >= 1
    return answer.status, answer.json()["code"]


def seconds(door, calls, peer):
    started = time.monotonic()
    answers = door(calls, peer)
    return time.monotonic() - started, answers


@pytest.mark.parametrize("call", [Call(body=GOOD), KEYED], ids=["no key", "key"])
def test_a_hanging_redis_costs_a_second_and_no_more(call, people, own_valkey, door):
    alice = people.peer("alice")
    assert door([Call(body=but(message_body="first"))], alice)[0].status == 202
    own_valkey.process.send_signal(signal.SIGSTOP)
    took, (answer,) = seconds(door, [call], alice)
    assert refused(answer) == (503, "queue_unavailable")
    # One second is the limit; the rest is what this machine needs to run anything at all.
    assert 0.9 < took < 2


def test_a_redis_that_refuses_costs_no_waiting(people, own_valkey, door):
    alice = people.peer("alice")
    assert door([Call(body=GOOD)], alice)[0].status == 202
    own_valkey.stop()
    took, (answer,) = seconds(door, [KEYED], alice)
    assert refused(answer) == (503, "queue_unavailable")
    assert took < 0.9


def test_a_commit_of_unknown_outcome_is_one_message_when_it_is_sent_again(people, own_valkey, ingest_settings):
    """Redis is frozen after the claim: the commit waits in its socket, and happens when it runs again."""
    alice = people.peer("alice")

    async def go() -> list:
        application = AcceptPath(get_asgi_application())
        await ask(application, Call(body=but(message_body="before")), alice)
        claim = application._acceptor._queue.claim

        async def then_freeze(call):
            answers = await claim(call)
            own_valkey.process.send_signal(signal.SIGSTOP)
            return answers

        application._acceptor._queue.claim = then_freeze
        unknown = await ask(application, KEYED, alice)
        own_valkey.process.send_signal(signal.SIGCONT)
        application._acceptor._queue.claim = claim
        again = await ask(application, KEYED, alice)
        await application._acceptor.close()
        return [unknown, again]

    unknown, again = asyncio.run(go())
    assert refused(unknown) == (503, "queue_unavailable")
    assert again.status == 202
    assert again.headers["idempotency-replayed"] == "true"
    assert own_valkey.client.llen("deliver") == 2, "the one before, and this one once"


def test_a_claim_of_unknown_outcome_is_one_message_when_it_is_sent_again(people, own_valkey, door):
    alice = people.peer("alice")
    assert door([Call(body=but(message_body="before"))], alice)[0].status == 202
    own_valkey.process.send_signal(signal.SIGSTOP)
    assert refused(door([KEYED], alice)[0]) == (503, "queue_unavailable")
    own_valkey.process.send_signal(signal.SIGCONT)

    deadline = time.monotonic() + 10
    while (answer := door([KEYED], alice)[0]).status != 202:
        assert refused(answer) == (409, "request_in_progress"), "the claim may stand; it is stale in a moment"
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert own_valkey.client.llen("deliver") == 2


def test_the_mark_of_redis_memory_is_a_setting(people, own_valkey, door, settings):
    client, alice = own_valkey.client, people.peer("alice")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 2))
    settings.QUEUE_MEMORY_PERCENT = 30
    assert refused(door([Call(body=GOOD)], alice)[0]) == (503, "queue_full")
    assert client.llen("deliver") == 0


def test_a_redis_without_a_limit_is_never_full(people, own_valkey, door, settings):
    settings.QUEUE_MEMORY_PERCENT = 10
    assert own_valkey.client.config_get("maxmemory") == {"maxmemory": "0"}
    assert door([Call(body=GOOD)], people.peer("alice"))[0].status == 202


def test_a_full_queue_refuses_without_taking_tokens_or_keys(people, valkey, door, settings):
    settings.MAX_QUEUE_LENGTH, settings.RATE_LIMIT_PER_MINUTE = 1, 2
    alice = people.peer("alice")
    assert door([Call(body=GOOD)], alice)[0].status == 202
    assert refused(door([KEYED], alice)[0]) == (503, "queue_full")
    assert valkey.client.keys("msgsys:idempotency:*") == []
    settings.MAX_QUEUE_LENGTH = 9
    assert door([KEYED], alice)[0].status == 202


def test_an_account_that_may_not_ask_for_memory_can_still_accept(people, own_valkey, door, settings):
    own_valkey.client.acl_setuser("few", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-info"])
    settings.REDIS_URL = f"redis://few:pw@127.0.0.1:{own_valkey.port}/0"
    assert door([Call(body=GOOD)], people.peer("alice"))[0].status == 202


def test_the_documented_account_is_enough(people, own_valkey, door, settings):
    text = (settings.BASE_DIR / "docs" / "operations.md").read_text(encoding="utf-8")
    (rules,) = re.findall(r"^ACL SETUSER ingest (.*)$", text, re.MULTILINE)
    own_valkey.client.execute_command("ACL", "SETUSER", "ingest", *rules.replace("PASSWORD", "pw").split())
    settings.REDIS_URL = f"redis://ingest:pw@127.0.0.1:{own_valkey.port}/0"
    settings.RATE_LIMIT_PER_MINUTE = 5
    assert door([KEYED], people.peer("alice"))[0].status == 202
    with SyncQueue().client as client:
        told = ask_redis(client)
    assert told.info
    assert told.appendfsync is None, "who may ask for it may ask for the passwords of others as well"


def test_a_redis_whose_disk_is_full_takes_no_messages(people, tmp_path, door, settings):
    """The limit on a file's size stands in for a full disk: the kernel refuses the write all the same."""
    resource = pytest.importorskip("resource")
    server = Valkey(tmp_path)
    alice = people.peer("alice")
    try:
        server.start("--appendonly", "yes")
        settings.REDIS_URL = server.url
        assert door([Call(body=GOOD)], alice)[0].status == 202
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        server.client.set("probe", 1)
        _until(lambda: server.client.info("persistence")["aof_last_write_status"] == "err")
        assert refused(door([Call(body=GOOD)], alice)[0]) == (503, "queue_unavailable")
        assert server.client.llen("deliver") == 1
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        _until(lambda: door([Call(body=GOOD)], alice)[0].status == 202)
    finally:
        server.stop()
        _forget_clients()


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
def test_a_killed_redis_has_lost_nothing_it_acknowledged(appendfsync, people, tmp_path, door, settings):
    server = Valkey(tmp_path)
    options = ("--appendonly", "yes", "--appendfsync", appendfsync)
    try:
        server.start(*options)
        settings.REDIS_URL = server.url
        answers = door([Call(body=but(message_body=str(n))) for n in range(50)], people.peer("alice"))
        assert {answer.status for answer in answers} == {202}
        queued = server.client.lrange("deliver", 0, -1)
        server.stop()
        server.start(*options)
        assert server.client.lrange("deliver", 0, -1) == queued != []
        assert int(server.client.get("msgsys:accepted")) == 50
    finally:
        server.stop()
        _forget_clients()


def _until(come_true):
    deadline = time.monotonic() + 15
    while not come_true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# -- replicas


def _until_in_step(primary, replica):
    """A replica counts as there a second before it is sent anything, and answers what it has been sent later still."""
    deadline = time.monotonic() + 20
    with primary.client as client:
        for number in range(1000):
            client.set("probe", number)
            # Twice: the first answer may be one to what came with the whole data set.
            answered = [client.wait(1, 300) for _ in range(2)]
            if answered == [1, 1] and replica.client.get("probe") == str(number).encode():
                return
            assert time.monotonic() < deadline


@pytest.fixture(params=["valkey", "redis"])
def pair(request, tmp_path, settings):
    """A primary that wants one replica, and the replica."""
    primary, replica = Valkey(tmp_path / "primary"), Valkey(tmp_path / "replica")
    for server in (primary, replica):
        server.folder.mkdir()
        if request.param == "redis":
            server.binary = _redis_server()
    primary.start("--repl-diskless-sync-delay", "0")
    replica.start("--replicaof", "127.0.0.1", str(primary.port))
    settings.REDIS_URL = primary.url
    settings.WAIT_REPLICAS, settings.WAIT_REPLICAS_MS = 1, 700
    _until_in_step(primary, replica)
    yield primary, replica
    for server in (replica, primary):
        server.stop()
    _forget_clients()


def _accept(door, body, peer):
    """Send it under its key until it is accepted, as a good client does: on a busy machine a replica may be late."""
    call = Call(body=body, headers=(("Idempotency-Key", "of the preparation"),))
    _until(lambda: door([call], peer)[0].status == 202)


def test_what_is_accepted_is_on_the_replica_as_well(people, pair, door):
    _, replica = pair
    _accept(door, GOOD, people.peer("alice"))
    assert replica.client.llen("deliver") == 1


def test_a_hanging_replica_is_a_503_and_the_message_sent_again_is_one(people, pair, door):
    primary, replica = pair
    alice = people.peer("alice")
    _accept(door, but(message_body="before"), alice)
    replica.process.send_signal(signal.SIGSTOP)
    took, (answer,) = seconds(door, [KEYED], alice)
    assert refused(answer) == (503, "queue_unavailable")
    assert took < 2
    assert primary.client.llen("deliver") == 2, "it may be there all the same"
    assert refused(door([KEYED], alice)[0]) == (503, "queue_unavailable"), "a replay is no better than the first"
    replica.process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 10
    while (answer := door([KEYED], alice)[0]).status != 202:
        assert time.monotonic() < deadline
    assert answer.headers["idempotency-replayed"] == "true"
    assert replica.client.llen("deliver") == 2


def test_a_replica_accepts_nothing_itself(people, pair, door, settings):
    _, replica = pair
    settings.REDIS_URL, settings.WAIT_REPLICAS = replica.url, 0
    with pytest.raises(redis.ReadOnlyError):
        replica.client.set("x", "y")
    assert refused(door([Call(body=GOOD)], people.peer("alice"))[0]) == (503, "queue_unavailable")


def test_a_connection_that_is_reset_while_it_is_made_is_a_queue_that_is_away(settings):
    """uvloop has a word of its own for it, when the reset comes before the first byte was sent."""
    uvloop = pytest.importorskip("uvloop")
    codes = []

    async def busy() -> None:
        while True:
            time.sleep(0.003)  # the loop must come late to the new connection
            await asyncio.sleep(0)

    async def ask_again_and_again() -> None:
        occupied = asyncio.create_task(busy())
        client = AsyncQueue()
        for _ in range(50):
            with pytest.raises(Problem) as refused:
                await client.claim(Script([], []))
            codes.append(refused.value.code)
        occupied.cancel()
        await client.close()

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        settings.REDIS_URL = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        threading.Thread(target=_reset_all, args=(server,), daemon=True).start()
        uvloop.run(ask_again_and_again())
        server.shutdown(socket.SHUT_RDWR)
    assert set(codes) == {"queue_unavailable"}


def _reset_all(server: socket.socket) -> None:
    at_once = struct.pack("ii", 1, 0)
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            connection.close()
