"""What is done to the installation: each fault is injected, stands for a while, and is healed."""

import contextlib
import os
import random
import signal
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from tests.chaos import proxy
from tests.chaos.load import Load
from tests.chaos.proxy import PASS, Behaviour, Proxy
from tests.chaos.stage import Stage, can_fake_clocks, can_mount


@dataclass
class Scene:
    """What faults act on."""

    stage: Stage
    load: Load
    proxy: Proxy


class Fault(ABC):
    """One fault, with dice of its own. `touches`: two faults that touch the same thing are never in force at once."""

    name: ClassVar[str]
    about: ClassVar[str]
    group: ClassVar[str]
    touches: ClassVar[frozenset[str]]
    weight: ClassVar[int] = 2
    # Seconds it stands, at least and at most.
    stands: ClassVar[tuple[float, float]] = (0.5, 4.0)

    def __init__(self, scene: Scene, dice: random.Random) -> None:
        self.scene = scene
        self.stage = scene.stage
        self.dice = dice

    @abstractmethod
    def inject(self) -> None: ...

    @abstractmethod
    def heal(self) -> None: ...

    @classmethod
    def missing(cls) -> str:
        """Say what this machine lacks for it; "" when nothing."""
        return ""


class _Ended(Fault):
    """A process gets a signal that ends it, and is started again."""

    process: ClassVar[str]
    number: ClassVar[int]
    stands = (0.0, 0.5)

    def inject(self) -> None:
        self.stage.kill(self.process, self.number, away=self.dice.uniform(0.2, 3.0))

    def heal(self) -> None:
        self.stage.back(self.process)


def _ended(process: str, number: signal.Signals, group: str, weight: int = 2) -> type[Fault]:
    what = "Valkey" if process == "valkey" else process
    return type(
        f"{number.name}{process}",
        (_Ended,),
        {
            "name": f"{number.name[3:].lower()}-{'redis' if process == 'valkey' else process}",
            "about": f"{number.name} of {what}, started again after 0.2 to 3 s",
            "group": group,
            "process": process,
            "number": number,
            "touches": frozenset({process}),
            "weight": weight,
        },
    )


class _Stopped(Fault):
    """A process hangs: it is stopped, and goes on later as if nothing had been."""

    process: ClassVar[str]

    def inject(self) -> None:
        self.stage.processes[self.process].send_signal(signal.SIGSTOP)

    def heal(self) -> None:
        self.stage.processes[self.process].send_signal(signal.SIGCONT)


class RegistryHangs(_Stopped):
    name, about = "hung-registry", "SIGSTOP of the registry: it takes connections and answers nothing"
    group, process, touches = "registry", "registry", frozenset({"registry"})
    stands = (1.0, 6.0)


class RedisHangs(_Stopped):
    name, about = "hung-redis", "SIGSTOP of Valkey, for longer than ingest waits for it"
    group, process, touches = "queue", "valkey", frozenset({"valkey"})


class WorkerHangs(_Stopped):
    name, about = (
        "hung-worker",
        "SIGSTOP of the worker, for longer than the visibility timeout: it holds what others get",
    )
    group, process, touches = "processes", "worker", frozenset({"worker"})
    stands = (2.0, 9.0)


class _Between(Fault):
    """The proxy between worker and registry behaves differently."""

    group, touches = "registry", frozenset({"proxy"})
    drop: ClassVar[bool] = True

    @abstractmethod
    def behaviour(self) -> Behaviour: ...

    def inject(self) -> None:
        self.scene.proxy.behave(self.behaviour(), random.Random(self.dice.random()), drop=self.drop)

    def heal(self) -> None:
        self.scene.proxy.behave(PASS)


class SlowRegistry(_Between):
    name, about = "slow-registry", "every piece of every exchange comes 0.2 to 4 s late (the worker waits 3 s)"
    drop = False

    def behaviour(self) -> Behaviour:
        return Behaviour(self.name, delay=self.dice.uniform(0.2, 4.0))


class CutBefore(_Between):
    name, about = "reset-before-reply", "connections are reset after the registry's commit, before its reply"
    drop, weight = False, 4

    def behaviour(self) -> Behaviour:
        return Behaviour(self.name, cut=0.0)


class CutWithin(_Between):
    name, about = "reset-in-reply", "connections are reset in the middle of the registry's reply"
    drop, weight = False, 4

    def behaviour(self) -> Behaviour:
        return Behaviour(self.name, cut=self.dice.uniform(0.1, 0.9))


def _answering(name: str, about: str, answer: proxy.Answer) -> type[Fault]:
    made = {"name": name, "about": about, "behaviour": lambda self: Behaviour(name, answer=answer)}
    return type(answer.__name__, (_Between,), made)


def _any_garbage(ids: list[str], dice: random.Random) -> bytes:
    return dice.choice(proxy.GARBAGE)(ids, dice)


class DiskFull(Fault):
    name, about = "disk-full", "no space left where the append-only file lies"
    group, touches = "queue", frozenset({"valkey"})
    CHUNK = b"\0" * (1 << 20)

    @classmethod
    def missing(cls) -> str:
        return "" if can_mount() else "root on Linux: a small file system is mounted for the append-only file"

    def inject(self) -> None:
        # With appendfsync always the server ends when it cannot write, and cannot start before there is room.
        self.stage.excused.add("valkey")
        with (self.stage.disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(self.CHUNK):
                pass

    def heal(self) -> None:
        (self.stage.disk / "filler").unlink()
        self.stage.back("valkey")
        self.stage.excused.discard("valkey")


class ClockJumps(Fault):
    name, about = "clock-jump", "the clocks of worker and ingest jump, by 30 s to 2 h, ahead or back, and later return"
    group, touches = "clock", frozenset({"clock"})
    JUMPS = (-3600, -300, -30, 30, 300, 3600, 7200)

    @classmethod
    def missing(cls) -> str:
        return (
            "" if can_fake_clocks() else "Linux and gcc: a small library stands between the processes and their clock"
        )

    def inject(self) -> None:
        self.stage.set_clock(self.dice.choice(self.JUMPS))

    def heal(self) -> None:
        self.stage.set_clock(0)


class ClientRevoked(Fault):
    name, about = "client-revoked", "the load's certificate is revoked, and another issued a moment later"
    group, touches = "certificates", frozenset({"client", "ca"})
    stands = (0.5, 2.0)

    def inject(self) -> None:
        self.stage.manage("revoke_cert", "chaos", "--role", "client", "--reason", "superseded")

    def heal(self) -> None:
        new = self.stage.issue("chaos", "client", folder=f"client-{os.urandom(4).hex()}")
        self.scene.load.certificate = new


class WorkerRenewed(Fault):
    name, about = "worker-renewed", "the worker's certificate and key are replaced under its hands"
    group, touches = "certificates", frozenset({"worker certificate", "ca"})
    stands = (0.0, 1.0)

    def inject(self) -> None:
        self.stage.manage("renew_cert", "worker", "--role", "worker", "--usage", "client")

    def heal(self) -> None:
        """Nothing to repair: both certificates are good until the new one is used."""


class SecondWorker(Fault):
    name, about = "two-workers", "a second worker joins for a while, and leaves by SIGTERM or SIGKILL"
    group, touches = "processes", frozenset({"worker2"})
    stands = (4.0, 10.0)

    def inject(self) -> None:
        self.stage.second_worker()

    def heal(self) -> None:
        self.stage.dismiss("worker2", self.dice.choice([signal.SIGTERM, signal.SIGKILL]))


KINDS: list[type[Fault]] = [
    _ended("worker", signal.SIGKILL, "processes", weight=6),
    _ended("worker", signal.SIGTERM, "processes", weight=3),
    _ended("ingest", signal.SIGKILL, "processes", weight=4),
    _ended("registry", signal.SIGKILL, "processes", weight=4),
    _ended("portal", signal.SIGKILL, "processes", weight=1),
    _ended("jobs", signal.SIGKILL, "processes", weight=1),
    WorkerHangs,
    SecondWorker,
    _ended("valkey", signal.SIGKILL, "queue", weight=5),
    _ended("valkey", signal.SIGTERM, "queue", weight=3),
    RedisHangs,
    DiskFull,
    RegistryHangs,
    SlowRegistry,
    CutBefore,
    CutWithin,
    _answering("registry-500", "every POST is answered 500", proxy.error_500),
    _answering(
        "registry-400", "every POST is answered 400, as a proxy does: no word of the registry's own", proxy.error_400
    ),
    _answering("registry-403", "every POST is answered 403 role_not_allowed: a configuration fault", proxy.error_403),
    _answering("registry-429", "every POST is answered 429 with Retry-After", proxy.busy_429),
    _answering(
        "registry-garbage", "200 with HTML, with half a JSON, half a body, too few or too many results", _any_garbage
    ),
    ClockJumps,
    ClientRevoked,
    WorkerRenewed,
]
BY_NAME = {kind.name: kind for kind in KINDS}
GROUPS = sorted({kind.group for kind in KINDS})
