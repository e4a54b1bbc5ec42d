"""Field systems: numbered messages under Idempotency-Keys, each sent again until it is accepted."""

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

CLIENTS = 8
BATCHES, MOST_IN_BATCH = 0.06, 60
RESENT = 0.04
# Share of the requests that comes evenly; the others come in bursts, one just before each fault.
STEADY = 0.4
# Answers that ask for the same request again. All others to a good message are a bug.
AGAIN = {403, 408, 409, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Request:
    """One request under its key."""

    key: str
    bodies: Sequence[str]
    resend: bool


@dataclass
class Load:
    """The clients, and what they were told. Everything sent is under a key: one key, one set of ids, for ever."""

    url: str
    ca: str
    certificate: tuple[Path, Path]
    accepted: dict[str, list[str]] = field(default_factory=dict)
    # What must not happen, in words.
    wrongs: list[str] = field(default_factory=list)
    answers: dict[int, int] = field(default_factory=dict)
    messages: int = 0
    _waiting: deque[Request] = field(default_factory=deque)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _started: float = 0.0
    # How many requests have begun, how many may begin per second, and how many beyond that.
    _begun: int = 0
    _rate: float = 0.0
    _extra: float = 0.0
    _unsettled: int = 0

    def start(self, requests_: Sequence[Request], seconds: float = 0.0) -> None:
        """Begin to send: STEADY of it spread over so many seconds, the rest in bursts; all at once in no time."""
        self._waiting.extend(requests_)
        self._unsettled = len(requests_)
        self._begun, self._extra = 0, 0.0
        self._rate = STEADY * len(requests_) / seconds if seconds else float("inf")
        self._started = time.monotonic()
        self._stop.clear()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def settled(self) -> bool:
        return self._unsettled == 0

    def burst(self, share: float) -> None:
        """Send this share of all requests now: what strikes next shall find the system with its hands full."""
        with self._lock:
            self._extra += share * (self._begun + len(self._waiting))

    def hurry(self) -> None:
        """Send what is left at once."""
        self._rate = float("inf")

    def stop(self) -> int:
        """End the clients; return how many requests never got their 202."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self._waiting.clear()
        return self._unsettled

    def ids(self) -> list[str]:
        return [uid for ids in self.accepted.values() for uid in ids]

    def _client(self) -> None:
        connection = _Connection(self)
        try:
            while not self._stop.is_set():
                if not self._waiting:
                    return
                request = self._next()
                if request is None:
                    self._stop.wait(0.005)
                else:
                    self._settle(connection, request)
        finally:
            connection.close()

    def _next(self) -> Request | None:
        """Return the next request when one may begin."""
        with self._lock:
            passed = time.monotonic() - self._started
            if not self._waiting or self._begun >= self._extra + self._rate * passed:
                return None
            self._begun += 1
            return self._waiting.popleft()

    def _settle(self, connection: "_Connection", request: Request) -> None:
        ids = self._until_accepted(connection, request)
        if ids is not None:
            self._told(request, ids)
            if request.resend and (again := self._until_accepted(connection, request)) is not None:
                self._told(request, again)
        with self._lock:
            self._unsettled -= not self._stop.is_set()

    def _told(self, request: Request, ids: list[str]) -> None:
        """Note the ids of a request; when it was accepted before, they must be the same."""
        with self._lock:
            first = self.accepted.setdefault(request.key, ids)
            if first is ids:
                self.messages += len(ids)
        if first != ids:
            self.wrongs.append(f"{request.key}: sent again, its ids became others: {first} {ids}")
        if len(ids) != len(request.bodies):
            self.wrongs.append(f"{request.key}: {len(request.bodies)} messages, {len(ids)} ids")

    def _until_accepted(self, connection: "_Connection", request: Request) -> list[str] | None:
        while not self._stop.is_set():
            status, ids = connection.submit(request)
            with self._lock:
                self.answers[status] = self.answers.get(status, 0) + 1
            if status == 202:
                return ids
            if status and status not in AGAIN:
                self.wrongs.append(f"{request.key}: a good message was answered {status}")
                return None
            self._stop.wait(random.uniform(0.1, 0.4))
        return None


class _Connection:
    """One client's kept-alive connection, made anew after every failure, under the newest certificate."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._session: requests.Session | None = None
        self._certificate = load.certificate

    def submit(self, request: Request) -> tuple[int, list[str]]:
        """Send once; return the status (0: no answer) and the ids."""
        headers = {"Idempotency-Key": request.key}
        messages = [{"sender_number": "+4915200000000", "message_body": body} for body in request.bodies]
        path, document = ("/submit", messages[0]) if len(messages) == 1 else ("/submit/batch", {"messages": messages})
        try:
            answer = self._current().post(self._load.url + path, json=document, headers=headers, timeout=5)
            if answer.status_code != 202:
                return answer.status_code, []
            told = answer.json()
        except (requests.RequestException, OSError):
            self.close()
            return 0, []
        return 202, [told["id"]] if "id" in told else [one["id"] for one in told["results"] if "id" in one]

    def _current(self) -> requests.Session:
        if self._session is None or self._certificate != self._load.certificate:
            self.close()
            self._certificate = self._load.certificate
            self._session = requests.Session()
            self._session.trust_env = False
            self._session.verify = self._load.ca
            self._session.cert = (str(self._certificate[0]), str(self._certificate[1]))
        return self._session

    def close(self) -> None:
        if self._session is not None:
            with contextlib.suppress(OSError):
                self._session.close()
        self._session = None


def draw(dice: random.Random, prefix: str, messages: int) -> list[Request]:
    """Draw requests with so many messages."""
    sizes = []
    while messages > 0:
        size = min(messages, dice.randint(2, MOST_IN_BATCH) if dice.random() < BATCHES else 1)
        sizes.append(size)
        messages -= size
    return [
        Request(
            f"{prefix}-{number}",
            [f"{prefix}-{number}-{position} " + "x" * dice.randint(0, 300) for position in range(size)],
            dice.random() < RESENT,
        )
        for number, size in enumerate(sizes)
    ]
