"""A Redis that would lose what it acknowledges is told of: at the start, in readiness, in the log. On real servers."""

import signal
import socketserver
import threading
import time

import pytest
import redis

from ingest import durability, queue
from ingest.checks import queue_keeps_messages
from ingest.tests.conftest import Call, Valkey
from ingest.tests.malformed import but
from wire.problems import Problem

AOF = ("--appendonly", "yes", "--maxmemory", "4gb")


@pytest.fixture(autouse=True)
def _as_ingest(settings):
    settings.ROLE = "ingest"
    settings.ALLOW_VOLATILE_QUEUE = 0


@pytest.fixture
def server(tmp_path, settings):
    """A server to be started with options of the test's own."""
    one = Valkey(tmp_path)
    settings.REDIS_URL = one.url
    queue.sync_queue.cache_clear()
    yield one
    one.stop()
    if queue.sync_queue.cache_info().currsize:
        queue.sync_queue().client.close()
    queue.sync_queue.cache_clear()


class OldRedis(socketserver.StreamRequestHandler):
    """Answers as a Redis 6.0 does to whoever asks for its version: no such server can be installed here."""

    FIELDS = ("redis_version:6.0.16", "role:master", "maxmemory:4000000000", "maxmemory_policy:noeviction")
    INFO = "".join(f"{field}\r\n" for field in (*FIELDS, "aof_enabled:1"))

    def handle(self) -> None:
        while command := self._command():
            answers = {"HELLO": "%1\r\n+proto\r\n:3", "INFO": f"${len(self.INFO)}\r\n{self.INFO}"}
            self.wfile.write(f"{answers.get(command[0].upper(), '-ERR unknown command')}\r\n".encode())

    def _command(self) -> list[str]:
        first = self.rfile.readline().decode()
        if not first.startswith("*"):
            return []
        return [self.rfile.read(int(self.rfile.readline()[1:]) + 2).decode().strip() for _ in range(int(first[1:]))]


@pytest.fixture
def old_redis(settings):
    queue.sync_queue.cache_clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldRedis) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings.REDIS_URL = f"redis://127.0.0.1:{server.server_address[1]}/0"
        yield
        server.shutdown()
    queue.sync_queue().client.close()
    queue.sync_queue.cache_clear()


def at_start() -> list[str]:
    return [message.id for message in queue_keeps_messages(None)]


def not_ready_because() -> str:
    try:
        durability.Watch()()
    except Problem as problem:
        return problem.detail
    return ""


def test_a_server_that_keeps_what_it_acknowledges_is_fine(server):
    server.start(*AOF)
    assert at_start() == []
    assert not_ready_because() == ""


def test_both_kinds_of_server_are_understood(either_server):
    client = either_server.client
    client.config_set("appendonly", "yes")
    client.config_set("maxmemory", "4gb")
    assert at_start() == []
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert at_start() == ["msgsys.E311"]


@pytest.mark.parametrize("role", ["ingest", "worker"])
def test_a_redis_without_blmove_is_refused_by_ingest_and_by_the_worker(role, old_redis, settings):
    settings.ROLE = role
    (message,) = queue_keeps_messages(None)
    assert (message.id, message.is_serious()) == ("msgsys.E331", True)
    assert "is 6.0.16, too old" in message.msg
    assert "too old" in not_ready_because()


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "7.2.4", "10.1.0", "", "unknown"])
def test_a_redis_that_is_new_enough_or_does_not_tell_is_taken(version):
    info = {"redis_version": version, "aof_enabled": 1, "maxmemory": 4 << 30}
    assert list(durability.judge(durability.Told(info, None))) == []


@pytest.mark.parametrize(
    ("options", "expected", "said"),
    [
        (("--appendonly", "no", "--maxmemory", "4gb"), "msgsys.E312", "no append-only file"),
        ((*AOF, "--maxmemory-policy", "allkeys-lru"), "msgsys.E311", "throws data away"),
        ((*AOF, "--maxmemory-policy", "volatile-ttl"), "msgsys.E311", "throws data away"),
    ],
)
def test_what_loses_messages_by_configuration_stops_ingest_and_not_the_worker(
    options, expected, said, server, settings
):
    server.start(*options)
    (message,) = queue_keeps_messages(None)
    assert (message.id, message.is_serious()) == (expected, True)
    assert message.hint
    assert said in not_ready_because()
    settings.ROLE = "worker"
    (message,) = queue_keeps_messages(None)
    assert (message.id, message.is_serious()) == (expected.replace("E", "W"), False)
    assert said in not_ready_because(), "the worker is not ready either"


def test_a_server_without_a_file_can_be_accepted_knowingly_and_stays_visible(server, settings, caplog):
    settings.ALLOW_VOLATILE_QUEUE = 1
    server.start("--maxmemory", "4gb")
    assert at_start() == ["msgsys.W312"]
    assert not_ready_because() == ""
    assert "no append-only file" in caplog.records[0].reason


@pytest.mark.parametrize(
    ("options", "expected"),
    [(("--appendonly", "yes"), "msgsys.W318"), ((*AOF, "--appendfsync", "no"), "msgsys.W319")],
)
def test_what_is_only_unwise_is_a_warning(options, expected, server):
    server.start(*options)
    assert at_start() == [expected]
    assert not_ready_because() == ""


def test_a_memory_limit_below_what_the_queue_may_hold_is_a_warning(server, settings, caplog):
    settings.MAX_QUEUE_LENGTH, settings.QUEUE_MEMORY_PERCENT = 20_000, 80
    needed = queue.memory_needed()
    server.start(*AOF, "--maxmemory", str(needed))
    assert at_start() == []
    server.client.config_set("maxmemory", needed - 1)
    (message,) = queue_keeps_messages(None)
    assert (message.id, f"{needed:,} bytes" in message.hint) == ("msgsys.W327", True)
    assert not_ready_because() == ""
    assert [record.check for record in caplog.records] == ["msgsys.W327"]
    settings.MAX_QUEUE_LENGTH -= 1
    assert at_start() == []


def test_an_envelope_of_a_short_message_takes_no_more_memory_than_is_planned_for(server, people, accept_path, settings):
    settings.RATE_LIMIT_PER_MINUTE = 0
    server.start(*AOF)
    body = but(message_body="Pump 7: pressure 4.2 bar. " * 4 + "All as it should")
    assert len(body["message_body"]) == 120

    def submit(number: int) -> None:
        call = Call(body=body, headers=(("Idempotency-Key", str(number)),))
        assert accept_path([call], people.peer("alice"))[0].status == 202

    submit(0)
    before = server.client.info("memory")["used_memory"]
    for number in range(1, 301):
        submit(number)
    each = (server.client.info("memory")["used_memory"] - before) / 300
    assert queue.ENVELOPE_BYTES / 2 < each < queue.ENVELOPE_BYTES


def test_a_replica_is_not_ready(server, own_valkey, settings):
    server.start(*AOF, "--replicaof", "127.0.0.1", str(own_valkey.port))
    settings.REDIS_URL = server.url
    assert at_start() == ["msgsys.W314"]
    assert "is a replica" in not_ready_because()


def test_a_server_that_is_still_loading_is_not_ready(server):
    server.start(*AOF)
    with server.client.pipeline(transaction=False) as pipeline:
        for number in range(20_000):
            pipeline.set(f"key {number}", "x")
        pipeline.execute()
    server.stop()
    # Made for tests: the microseconds that a server waits at each key. It answers in between.
    server.launch(*AOF, "--key-load-delay", "300")
    deadline = time.monotonic() + 10
    while "is loading" not in (said := not_ready_because()):
        assert "does not answer" in said, "it did not load slowly enough"
        assert time.monotonic() < deadline
    assert at_start() == ["msgsys.W315"]


def test_missing_replicas_are_told(server, settings):
    server.start(*AOF)
    settings.WAIT_REPLICAS = 1
    assert at_start() == ["msgsys.W321"]
    assert "fewer replicas" in not_ready_because()


def test_a_file_that_cannot_be_written_is_not_ready(server):
    """The limit on a file's size stands in for a full disk: the kernel refuses the write all the same."""
    resource = pytest.importorskip("resource")
    server.start(*AOF)
    assert server.process is not None
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def failing() -> bool:
        try:
            server.client.set("x", "y")
        except redis.RedisError:
            pass
        return "cannot write its append-only file" in not_ready_because()

    deadline = time.monotonic() + 10
    while not failing():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert at_start() == ["msgsys.W313"]


@pytest.mark.parametrize(
    ("rules", "expected", "said"),
    [
        (["+@all", "-config"], [], ""),
        (["+@all", "-info"], ["msgsys.W316"], ""),
        (["+@all", "-info", "-ping"], [], "does not allow our account"),
    ],
)
def test_an_account_that_may_not_ask_is_told_what_it_lacks(rules, expected, said, server, settings):
    server.start(*AOF)
    server.client.acl_setuser("few", enabled=True, passwords=["+pw"], keys=["*"], commands=rules)
    settings.REDIS_URL = f"redis://few:pw@127.0.0.1:{server.port}/0"
    assert at_start() == expected
    assert not_ready_because() == "" if not said else said in not_ready_because()


def test_a_wrong_password_says_so_in_readiness(server, settings):
    server.start(*AOF)
    settings.REDIS_URL = f"redis://nobody:pw@127.0.0.1:{server.port}/0"
    assert at_start() == []
    assert "user name and password" in not_ready_because()


def test_a_server_that_is_not_there_yet_does_not_keep_us_from_starting(server):
    assert at_start() == []
    assert "does not answer" in not_ready_because()


def test_a_hanging_server_holds_neither_the_start_nor_readiness(server):
    server.start(*AOF)
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    assert "does not answer" in not_ready_because()
    assert at_start() == []
    assert time.monotonic() - started < 5


def test_what_is_wrong_is_logged_once_and_again_when_it_changes(server, caplog):
    server.start("--appendonly", "yes")
    watch = durability.Watch()
    watch()
    watch()
    assert [record.check for record in caplog.records] == ["msgsys.W318"]
    server.client.config_set("appendfsync", "no")
    watch()
    assert [record.check for record in caplog.records] == ["msgsys.W318", "msgsys.W318", "msgsys.W319"]
