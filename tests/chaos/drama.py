"""The run: scenario after scenario, each with its check, and the figures."""

import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.chaos import load
from tests.chaos.faults import ClockJumps, DiskFull, Fault, Scene
from tests.chaos.ledger import Balance, backlog, balance, messages_of, what_is_in_redis
from tests.chaos.load import Load
from tests.chaos.plan import Blow, Scenario
from tests.chaos.proxy import Proxy
from tests.chaos.stage import Needs, Stage

# Bounds, in seconds: of the last request's 202, and of the empty backlog, both after the last fault was healed.
SETTLE, QUIET = 120.0, 120.0
# A fault strikes within so many seconds of its burst's beginning.
AFTER_BURST = 0.3
# Requests of a scenario that are sent once more at its end.
RESENT_AT_END = 10


@dataclass
class Figures:
    """What a run found. Seconds are of the last healed fault of a scenario to the empty backlog."""

    seed: int
    fsync: str
    faults: Counter[str] = field(default_factory=Counter)
    without_effect: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    scenarios: int = 0
    accepted: int = 0
    stored: int = 0
    waiting: int = 0
    dead: int = 0
    lost: int = 0
    doubled: int = 0
    unknown: int = 0
    longest_recovery: float = 0.0
    slowest_scenario: int = 0
    seconds: float = 0.0
    # Answers of ingest by status; 0: none came.
    answers: dict[int, int] = field(default_factory=dict)
    ended_by_themselves: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "faults_injected": self.faults.total()}


class Violated(Exception):
    """The sums do not agree, or do not come to rest. The message says everything there is to know."""


class Drama:
    """One run on one stage. A violation ends it, and leaves everything as it is found."""

    def __init__(self, scene: Scene, figures: Figures, say: "Reporter") -> None:
        self.scene = scene
        self.stage, self.load = scene.stage, scene.load
        self.figures = figures
        self.say = say
        self.queue = self.stage.queue()

    def close(self) -> None:
        self.queue.close()

    def play(self, scenarios: Sequence[Scenario]) -> None:
        """Play the scenarios. Raises Violated."""
        for scenario in scenarios:
            self.say.scenario(scenario, len(scenarios))
            try:
                recovery = self._play(scenario)
            except TimeoutError as error:
                raise self._violated(scenario, "\n".join([str(error), *self.load.wrongs])) from error
            except Violated as error:
                raise self._violated(scenario, str(error)) from error
            finally:
                self.load.stop()
                self._count()
            self.figures.scenarios += 1
            if recovery > self.figures.longest_recovery:
                self.figures.longest_recovery, self.figures.slowest_scenario = recovery, scenario.number
            self.say.result(scenario, recovery, self.figures)

    def _play(self, scenario: Scenario) -> float:
        prefix = f"{self.figures.seed}-{scenario.number}"
        requests = load.draw(random.Random(scenario.load_seed), prefix, scenario.messages)
        self.load.start(requests, scenario.seconds)
        burst = (1 - load.STEADY) / scenario.faults
        for blow in scenario.blows:
            self._strike(blow, burst)
        healed = time.monotonic()
        self.load.hurry()
        self._until(self.load.settled, SETTLE, "a 202 for every message")
        self._until(self._at_rest, QUIET, "an empty backlog")
        recovery = time.monotonic() - healed
        self._send_again(random.Random(scenario.load_seed), requests)
        self.check()
        return recovery

    def _strike(self, blow: Blow, burst: float) -> None:
        faults = [one.kind(self.scene, random.Random(one.seed)) for one in blow.faults]
        hits = self.scene.proxy.hits
        with contextlib.ExitStack() as standing:
            for fault in faults:
                self.say.status(fault.name, self.load, self._backlog)
                self.figures.faults[fault.name] += 1
                self.load.burst(burst)
                self.stage.wait(fault.dice.uniform(0.0, AFTER_BURST))
                standing.callback(fault.heal)
                fault.inject()
                self.stage.wait(blow.gap)
            self.stage.wait(blow.stands)
            for fault in faults:
                if "proxy" in fault.touches and self.scene.proxy.hits == hits:
                    self.figures.without_effect[fault.name] += 1
        self.stage.wait(blow.pause)

    def _until(self, probe: Any, within: float, what: str) -> None:
        def told() -> object:
            self.say.status(f"waiting for {what}", self.load, self._backlog)
            return probe()

        self.stage.until(told, within, what)

    def _at_rest(self) -> bool:
        return self._backlog() == 0 and len(what_is_in_redis(self.queue)) == 0

    def _backlog(self) -> int:
        try:
            return backlog(self.queue)
        except (redis.RedisError, OSError):
            # It cannot be asked: nobody can say that there is none.
            return -1

    def _send_again(self, dice: random.Random, requests: Sequence[load.Request]) -> None:
        """Send a few requests once more: the same ids must come back, and no new rows."""
        self.load.start(dice.sample(requests, min(len(requests), RESENT_AT_END)))
        self._until(self.load.settled, SETTLE, "a 202 for what is sent again")

    def check(self) -> None:
        """Compare what was accepted with where it is. Raises Violated."""
        found = self.balance()
        self.figures.accepted, self.figures.stored = found.accepted, found.stored
        self.figures.waiting, self.figures.dead = found.waiting, found.dead
        self.figures.lost, self.figures.doubled = len(found.lost), len(found.doubled)
        self.figures.unknown = len(found.unknown)
        wrong = [*found.violations(), *self.load.wrongs]
        if wrong:
            raise Violated("\n".join(wrong))

    def balance(self) -> Balance:
        there = what_is_in_redis(self.queue)
        waiting = messages_of([*there.queued, *there.held], self.stage.environment)
        dead = messages_of(there.dead, self.stage.environment)
        return balance(self.load.ids(), self.stage.rows(), waiting, dead)

    def _count(self) -> None:
        self.figures.answers = dict(self.load.answers)
        self.figures.ended_by_themselves = dict(Counter(f"{name} ({code})" for name, code in self.stage.surprises))
        self.figures.remarks = list(self.stage.remarks)

    def _violated(self, scenario: Scenario, said: str) -> Violated:
        backlog_now = self._backlog()
        self.stage.keep_disk = True
        told = [
            f"VIOLATED in scenario {scenario.number}: {scenario.name}",
            said,
            f"seed {self.figures.seed}, appendfsync {self.figures.fsync}; backlog {backlog_now}",
            f"the logs: {self.stage.home}/*.test.log; the queue's file: {self.stage.disk}",
            f"the table: {self.stage.settings.get('DATABASE_URL') or self.stage.home / 'msgsys.sqlite3'}",
        ]
        self.figures.violations.append("\n".join(told))
        return Violated("\n".join(told))


class Reporter:
    """Says what happens: a line a scenario, and on a terminal where it is right now."""

    EVERY = 0.5

    def __init__(self, out: Any = sys.stderr) -> None:
        self._out = out
        self._live = out.isatty()
        self._next = 0.0
        self._head = ""

    def scenario(self, scenario: Scenario, of: int) -> None:
        self._head = f"{scenario.number}/{of}"
        if self._live:
            return
        self.line(f"{self._head} {scenario.name}")

    def status(self, doing: str, load: Load, backlog: Any) -> None:
        if not self._live or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.EVERY
        done, of = (int(number) for number in self._head.split("/"))
        bar = "#" * (20 * (done - 1) // of)
        line = f"[{bar:<20}] {self._head} accepted {load.messages}, backlog {backlog()}: {doing}"
        self._out.write(f"\r\033[K{line[:110]}")
        self._out.flush()

    def result(self, scenario: Scenario, recovery: float, figures: Figures) -> None:
        head = f"{self._head} {scenario.name}: " if self._live else "    "
        self.line(
            f"{head}accepted {figures.accepted} = stored {figures.stored} + waiting {figures.waiting} + dead "
            f"{figures.dead}; empty after {recovery:.1f} s"
        )

    def line(self, text: str) -> None:
        self._out.write(f"\r\033[K{text}\n" if self._live else f"{text}\n")
        self._out.flush()


@contextlib.contextmanager
def on_stage(
    home: Path, among: Sequence[type[Fault]], fsync: str, server: str = "", database: str = "sqlite"
) -> Iterator[Scene]:
    """Start everything for faults of these kinds; stop it in the end."""
    stage = Stage(home, fsync=fsync, needs=Needs(ClockJumps in among, DiskFull in among), server=server)
    proxy = None
    try:
        if database == "mariadb":
            stage.use_mariadb()
        stage.prepare()
        certificate = stage.issue("chaos", "client")
        own = stage.folder / "chaos-registry"
        pair = own / "chaos-registry.crt", own / "chaos-registry.key"
        proxy = Proxy(stage.proxy_port, stage.port("registry"), pair, stage.ready["ca"])
        proxy.start()
        stage.start()
        load = Load(stage.ready["ingest"], stage.ready["ca"], certificate)
        yield Scene(stage, load, proxy)
    finally:
        stage.close()
        if proxy is not None:
            proxy.stop()


def possible(among: Sequence[type[Fault]]) -> tuple[list[type[Fault]], dict[str, str]]:
    """Sort out what this machine cannot do: return the rest, and what each of the others lacks."""
    missing = {kind.name: kind.missing() for kind in among}
    return [kind for kind in among if not missing[kind.name]], {name: lack for name, lack in missing.items() if lack}


def run(
    home: Path, figures: Figures, scenarios: Sequence[Scenario], among: Sequence[type[Fault]], **options: str
) -> None:
    """Play on a stage of its own; `figures` have what was found. Raises Violated."""
    started = time.monotonic()
    with on_stage(home, among, figures.fsync, **options) as scene:
        try:
            with contextlib.closing(Drama(scene, figures, Reporter())) as played:
                played.play(scenarios)
        finally:
            figures.seconds = time.monotonic() - started
