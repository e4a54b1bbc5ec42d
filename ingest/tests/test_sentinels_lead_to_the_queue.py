"""Real Sentinels, a master and its replica: ingest accepts, the worker delivers, and both follow a failover."""

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from celery import Celery

from ingest import queue, redis_servers
from ingest.durability import check_ready
from ingest.tests.conftest import Call, _forget_clients, _redis_server, consuming, free_port, until
from ingest.tests.guarded_redis import documented_sentinel_user
from ingest.tests.malformed import GOOD, but
from wire.problems import Problem


@dataclass
class Servers:
    """What one Sentinel watches over."""

    folder: Path
    master: int = field(default_factory=free_port)
    replica: int = field(default_factory=free_port)
    sentinel: int = field(default_factory=free_port)
    # Lines of the Sentinel's configuration, and how the test itself then enters.
    guard: tuple[str, ...] = ()
    entry: dict[str, str] = field(default_factory=dict)
    password: str = ""
    running: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def start(self) -> None:
        of_master = ["--replicaof", "127.0.0.1", str(self.master)]
        passwords = ["--requirepass", self.password, "--masterauth", self.password] if self.password else []
        for what, port, options in (("master", self.master, []), ("replica", self.replica, of_master)):
            folder = self.folder / what
            folder.mkdir()
            kept = ["--dir", str(folder), "--appendonly", "yes", "--save", "", "--maxmemory", "4gb"]
            self._run(what, "--port", str(port), "--bind", "127.0.0.1", *kept, *passwords, *options)
        until(lambda: self._asked(self.replica, "master_link_status") == "up")
        watched = ["down-after-milliseconds main 1000", "failover-timeout main 3000"]
        lines = [f"port {self.sentinel}", "bind 127.0.0.1", f'dir "{self.folder}"']
        if self.password:
            watched.append(f"auth-pass main {self.password}")
        lines += [f"sentinel monitor main 127.0.0.1 {self.master} 1", *(f"sentinel {line}" for line in watched)]
        lines += self.guard
        file = self.folder / "sentinel.conf"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._run("sentinel", str(file), "--sentinel")
        until(self._knows_the_replica, within=20)

    def _run(self, what: str, *arguments: str) -> None:
        self.running[what] = subprocess.Popen([_redis_server(), *arguments], stdout=subprocess.DEVNULL)

    def _knows_the_replica(self) -> bool:
        try:
            with redis.Redis(port=self.sentinel, socket_timeout=2, **self.entry) as client:
                return len(client.sentinel_slaves("main")) == 1
        except redis.RedisError:
            return False

    def _asked(self, port: int, name: str) -> str:
        try:
            with redis.Redis(port=port, socket_timeout=2, password=self.password or None) as client:
                return str(client.info("replication").get(name))
        except redis.RedisError:
            return ""

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def servers(tmp_path: Path, settings) -> Iterator[Servers]:
    found = Servers(tmp_path)
    try:
        found.start()
        settings.REDIS_URL = f"sentinel://127.0.0.1:{found.sentinel}/0"
        settings.REDIS_SENTINEL_MASTER = "main"
        yield found
    finally:
        found.stop()
        _forget_clients()


GUARDS = {
    "requirepass": (("requirepass secret-of-sentinel",), ""),
    "a user": ((documented_sentinel_user("secret-of-sentinel"), "user default off"), "msgsys"),
}


@pytest.fixture(params=GUARDS)
def guarded(request, tmp_path: Path, settings) -> Iterator[Servers]:
    """A Sentinel with a password of its own, and servers with another."""
    guard, user = GUARDS[request.param]
    root = "user root on >root ~* &* +@all"
    found = Servers(tmp_path, guard=(*guard, root), entry={"username": "root", "password": "root"}, password="of-redis")
    try:
        found.start()
        settings.REDIS_URL = f"sentinel://:of-redis@127.0.0.1:{found.sentinel}/0"
        settings.REDIS_SENTINEL_MASTER = "main"
        settings.REDIS_SENTINEL_USER, settings.REDIS_SENTINEL_PASSWORD = user, "secret-of-sentinel"
        # How fast a busy machine connects is not asked here.
        settings.REDIS_TIMEOUT = 10
        yield found
    finally:
        found.stop()
        _forget_clients()


def test_ingest_and_the_worker_enter_a_guarded_sentinel(guarded, registry, people, accept_path, drf_view):
    for door in (accept_path, drf_view):
        (answer,) = door([Call(body=but(message_body=str(door)))], people.peer("alice"))
        assert answer.status == 202
    check_ready()
    with consuming() as app:
        until(lambda: len(registry.taken) == 2, within=30)
        assert app.control.ping(timeout=5), "remote control goes by way of the Sentinel as well"
    with redis.Redis(port=guarded.sentinel, **guarded.entry) as client:
        assert [one for one in client.acl_log() if one["object"] != "client|setinfo"] == []


@pytest.mark.parametrize("password", ["", "guessed"])
def test_a_wrong_password_at_the_sentinel_is_no_way_in_and_is_not_told(
    password, guarded, people, accept_path, settings, caplog
):
    settings.REDIS_SENTINEL_PASSWORD = password
    (answer,) = accept_path([Call(body=GOOD)], people.peer("alice"))
    assert (answer.status, answer.json()["code"]) == (503, "queue_unavailable")
    with pytest.raises(Problem, match=r"does not answer|does not take") as refused:
        check_ready()
    assert "guessed" not in refused.value.detail + caplog.text


def test_celery_does_not_show_the_password_of_a_sentinel(guarded):
    app = Celery("tests", set_as_current=False)
    app.conf.update(redis_servers.celery_settings())
    assert "secret-of-sentinel" in str(app.conf.broker_transport_options)
    assert "secret-of-sentinel" not in str(app.conf.table(with_defaults=True))
    assert "secret-of-sentinel" not in app.bugreport()


def test_ingest_accepts_by_way_of_a_sentinel(servers, people, accept_path, drf_view):
    for door in (accept_path, drf_view):
        (answer,) = door([Call(body=but(message_body=str(door)))], people.peer("alice"))
        assert answer.status == 202
    with redis.Redis(port=servers.master) as client:
        assert client.llen(queue.name()) == 2


def test_a_failover_stops_nothing_for_long(servers, registry, people, accept_path):
    client = queue.sync_queue().client
    alice = people.peer("alice")
    with consuming():
        client.lpush(queue.name(), *(queue.task_message(uuid4(), str(n)) for n in range(300)))
        until(lambda: len(registry.taken) == 300)
        # Until the replica has what is there now: replication does not wait for it.
        until(lambda: _length(servers.replica) == 0)
        servers.running["master"].send_signal(signal.SIGKILL)
        until(lambda: accept_path([Call(body=GOOD)], alice)[0].status == 202, within=20)
        until(lambda: len(registry.taken) == 301, within=20)
    assert sorted(registry.taken[:300], key=int) == [str(n) for n in range(300)]


def _length(port: int) -> int:
    with redis.Redis(port=port) as client:
        return int(client.llen(queue.name()))
