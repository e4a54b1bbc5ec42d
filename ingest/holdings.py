"""What workers hold: taken from the queue, not yet delivered.

Every move between these is one script (`ingest.moves`), so that nothing is ever nowhere:

    deliver                   list    entries waiting; added at the left, taken at the right
    deliver.workers           zset    worker id -> its last heartbeat
    deliver.held:<worker>     hash    delivery tag -> entry
    deliver.held:<worker>:since  zset delivery tag -> when it was taken
    deliver.dead_letters      hash    envelope id -> {"id", "code", "at", "entry"}
    deliver.report_secret     string  by which the registry tells this queue's reports from those of others

Times are the Redis server's, in seconds: a worker whose clock jumps disturbs nobody. A worker that dies leaves its hash
behind; the others see that its heartbeat is gone and put the entries back.
"""

import functools
import logging
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from django.conf import settings

from ingest import metrics, moves, queue
from wire.dead_letters import MALFORMED_ENTRY

logger = logging.getLogger(__name__)

# Seconds: a heartbeat every BEAT_EVERY; a worker without one for LIFE is dead.
BEAT_EVERY = 2.0
LIFE = 8
# Entries per script call: other clients of Redis wait meanwhile, for a few milliseconds at most.
CHUNK = 100
CLAIM_MOST = 200
CLAIM_BYTES = 1 << 20
# Calls of RESTORE for one dead worker in a row; what is left comes with the next heartbeat.
RESTORES_AT_ONCE = 100


def workers_key() -> str:
    return f"{queue.name()}.workers"


def held_key(worker: str) -> str:
    return f"{queue.name()}.held:{worker}"


def since_key(worker: str) -> str:
    return f"{held_key(worker)}:since"


class Holdings:
    """What one worker process holds: in Redis, and in its memory a table of the same tags.

    Methods that let go of entries never raise redis.RedisError: what Redis did not do is owed, and done later. At
    worst this worker dies before, and the entry is delivered twice, which the registry notices.
    """

    def __init__(self, client: redis.Redis, worker: str) -> None:
        self.worker = worker
        self._client: Any = client
        self._keys = {"held": held_key(worker), "since": since_key(worker)}
        self._scripts = {script: client.register_script(script) for script in moves.ALL}
        self._claiming = threading.Lock()
        self._table = threading.Condition()
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._limit, self._limit_bytes = CLAIM_MOST, 8 * CLAIM_BYTES
        self._owed: list[tuple[str, list[str]]] = []
        self._lost_sight = False
        self.last_beat = float("-inf")

    # -- room

    def set_limit(self, entries: int) -> None:
        """Hold at most so many entries from now on; 0 stops taking any."""
        with self._table:
            self._limit = entries
            self._table.notify_all()

    def room(self) -> int:
        """Return how many entries more may be taken."""
        with self._table:
            return self._room()

    def wait_for_room(self, seconds: float) -> bool:
        with self._table:
            return self._table.wait_for(lambda: self._room() > 0, seconds)

    def _room(self) -> int:
        return max(0, self._limit - len(self._sizes)) if self._bytes < self._limit_bytes else 0

    def count(self) -> int:
        with self._table:
            return len(self._sizes)

    def holds(self, tag: str) -> bool:
        with self._table:
            return tag in self._sizes

    # -- moves

    def claim(self) -> list[tuple[str, bytes]]:
        """Take what there is room for, up to CLAIM_MOST entries and about CLAIM_BYTES; return their tags with them.

        Raises redis.RedisError.
        """
        with self._claiming:
            room = min(self.room(), CLAIM_MOST)
            if not room:
                return []
            keys = [queue.name(), *self._keys.values(), workers_key(), settings.DEAD_LETTERS]
            try:
                claimed, malformed = self._run(
                    moves.CLAIM, keys, [self.worker, room, CLAIM_BYTES, queue.TASK, MALFORMED_ENTRY]
                )
            except redis.RedisError:
                # The script may have run all the same: what it took is ours without our knowing it.
                self._lost_sight = True
                raise
            taken = [(tag.decode(), entry) for tag, entry in zip(claimed[::2], claimed[1::2], strict=True)]
            with self._table:
                for tag, entry in taken:
                    self._remember(tag, len(entry))
        for letter in malformed:
            _note_dead_letter(letter.decode(), MALFORMED_ENTRY)
        return taken

    def release(self, tags: Sequence[str]) -> None:
        """Let go of what is delivered."""
        self._let_go(moves.RELEASE, tags, list(tags))

    def give_back(self, tags: Sequence[str]) -> None:
        """Put entries back where they will be taken next."""
        self._let_go(moves.GIVE_BACK, tags, list(tags))

    def put_last(self, tags: Sequence[str]) -> None:
        """Put entries back where they will be taken after all others."""
        self._let_go(moves.PUT_LAST, tags, list(tags))

    def bury(self, codes: Mapping[str, str]) -> None:
        """Move entries to the dead letters, each with its reason."""
        self._let_go(moves.BURY, list(codes), [part for pair in codes.items() for part in pair])
        for tag, code in codes.items():
            _note_dead_letter(tag, code)

    def touch(self, tags: Sequence[str]) -> None:
        """Keep entries from being overdue. Raises redis.RedisError."""
        if tags:
            self._run(moves.TOUCH, [self._keys["since"]], list(tags))

    def leave(self) -> None:
        """Give everything back and sign off. Raises redis.RedisError: another worker then does it in a few seconds."""
        self.set_limit(0)
        with self._claiming, self._table:
            self._sizes.clear()
            self._bytes = 0
        self.pay_debts()
        # Not forgotten before all is back: should this end in the middle, another worker goes on.
        self._run(moves.SIGN_OFF, [workers_key()], [self.worker])
        self.restore(self.worker)

    def _let_go(self, script: str, tags: Sequence[str], arguments: list[str]) -> None:
        if not tags:
            return
        try:
            self._do(script, arguments)
        except redis.RedisError as error:
            with self._table:
                self._owed.append((script, arguments))
            logger.warning("Redis is away, entries are let go of later", extra={"reason": type(error).__name__})
        self.forget(tags)

    def forget(self, tags: Sequence[str]) -> None:
        """Make room, whatever Redis has of these: what it still holds is put back as overdue."""
        with self._table:
            for tag in tags:
                self._bytes -= self._sizes.pop(tag, 0)
            self._table.notify_all()

    def _do(self, script: str, arguments: list[str]) -> None:
        held, since = self._keys.values()
        keys = {
            moves.RELEASE: [held, since],
            moves.GIVE_BACK: [queue.name(), held, since],
            moves.PUT_LAST: [queue.name(), held, since],
            moves.BURY: [held, since, settings.DEAD_LETTERS],
        }[script]
        self._run(script, keys, arguments)

    def _remember(self, tag: str, size: int) -> None:
        self._bytes += size - self._sizes.get(tag, 0)
        self._sizes[tag] = size

    # -- upkeep

    def beat(self) -> list[str]:
        """Tell that this worker lives; return the ids of those that do not. Raises redis.RedisError."""
        dead = self._run(moves.BEAT, [workers_key()], [self.worker, LIFE])
        self.last_beat = time.monotonic()
        return [worker.decode() for worker in dead]

    def restore(self, worker: str) -> int:
        """Put back what a dead worker held; return how many. Raises redis.RedisError."""
        restored = 0
        for _ in range(RESTORES_AT_ONCE):
            some = self._restore(worker)
            restored += some
            if some < CHUNK:
                break
        return restored

    def _restore(self, worker: str) -> int:
        keys = [queue.name(), held_key(worker), since_key(worker), workers_key()]
        return int(self._run(moves.RESTORE, keys, [worker, LIFE, CHUNK]))

    def restore_overdue(self, seconds: int) -> int:
        """Put back what living workers have held for longer than `seconds`. Raises redis.RedisError."""
        restored = 0
        for worker in self._client.zrange(workers_key(), 0, -1):
            name = worker.decode()
            restored += self._run(
                moves.RESTORE_OVERDUE, [queue.name(), held_key(name), since_key(name)], [seconds, CHUNK]
            )
        return restored

    def pay_debts(self) -> None:
        """Do what Redis did not do before, and give back what a lost answer left with us. Raises redis.RedisError."""
        with self._table:
            owed, self._owed = self._owed, []
        for position, (script, arguments) in enumerate(owed):
            try:
                self._do(script, arguments)
            except redis.RedisError:
                with self._table:
                    self._owed = owed[position:] + self._owed
                raise
        if self._lost_sight:
            self._give_back_unknown()

    def _give_back_unknown(self) -> None:
        with self._claiming:
            mine = [tag.decode() for tag in self._client.hkeys(self._keys["held"])]
            with self._table:
                unknown = [tag for tag in mine if tag not in self._sizes]
            for start in range(0, len(unknown), CHUNK):
                self._do(moves.GIVE_BACK, unknown[start : start + CHUNK])
            self._lost_sight = False

    def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return self._scripts[script](keys=keys, args=arguments)


def _note_dead_letter(letter: str, code: str) -> None:
    metrics.count_dead_letter(code)
    logger.error("an envelope went to the dead letters", extra={"envelope": letter, "code": code})


class Keeper:
    """A thread that keeps the heartbeat, does what is owed, and puts back what others left."""

    OVERDUE_EVERY = 5

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holdings", daemon=True)

    def start(self) -> threading.Thread:
        self._thread.start()
        return self._thread

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(BEAT_EVERY)

    def _run(self) -> None:
        beats = 0
        while not self._stop.is_set():
            try:
                self._beat(overdue=beats % self.OVERDUE_EVERY == 0)
                beats += 1
            except redis.RedisError as error:
                logger.warning("the heartbeat did not reach Redis", extra={"reason": type(error).__name__})
            except Exception as error:
                logger.exception("a heartbeat failed", extra={"reason": type(error).__name__})
            self._stop.wait(BEAT_EVERY)

    def _beat(self, *, overdue: bool) -> None:
        dead = self._holdings.beat()
        self._holdings.pay_debts()
        for worker in dead:
            restored = self._holdings.restore(worker)
            logger.warning("a worker is gone, its entries were put back", extra={"worker": worker, "entries": restored})
        if overdue:
            restored = self._holdings.restore_overdue(settings.VISIBILITY_TIMEOUT)
            if restored:
                logger.warning("entries were held too long and put back", extra={"entries": restored})


@functools.cache
def mine() -> Holdings:
    """Return what this process holds."""
    # The host's name tells an operator where to look; the rest makes it unique.
    return Holdings(queue.connect(), f"{socket.gethostname()[:40]}-{secrets.token_hex(6)}")
