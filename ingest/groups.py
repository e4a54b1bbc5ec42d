"""The group commit, without its I/O: what arrives in one tick becomes one or a few envelopes and two Redis scripts.

The accept path (asyncio) and the DRF view (threads) both drive the same steps: `claim`, `settle`, `commit`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from certs_app.identity import Peer
from ingest import queue
from ingest.ledger import Line
from ingest.parsing import Parsed
from ingest.rate_limit import WINDOW
from ingest.sealer import Sealed, Sealer
from wire.ids import following, new_id
from wire.messages import Message
from wire.problems import Problem, retry_later

MAX_GROUP_MESSAGES = 2000
IDEMPOTENCY_SECONDS = 24 * 3600
# A claim that is never committed goes by itself: refused requests must not fill the memory for a day.
CLAIM_SECONDS = 60
# A claim older than this was left by a process that died, or by a commit whose answer never came.
STALE_CLAIM_SECONDS = 5


@dataclass(eq=False)
class Intake:
    """One request on its way: the ids of its messages follow each other, starting with `first_id`."""

    peer: Peer
    parsed: Parsed
    first_id: UUID
    replayed: bool = False
    # Of a replay: the envelopes that carried the first, each with how many of its messages.
    carried_by: Sequence[tuple[UUID, int]] = ()

    @classmethod
    def start(cls, peer: Peer, parsed: Parsed, now: float) -> "Intake":
        return cls(peer, parsed, new_id(now))

    @property
    def cost(self) -> int:
        """What its client's limit is charged: bad messages and replays as well, for they cost as much."""
        return len(self.parsed.checked)

    @property
    def is_keyed(self) -> bool:
        """Is there something to remember under an Idempotency-Key?"""
        return self.parsed.key is not None and bool(self.parsed.good)

    def messages(self) -> Iterator[Message]:
        """Yield what is to be queued: of a replay, nothing."""
        if self.replayed:
            return
        for position, one in enumerate(self.parsed.good):
            yield Message(
                id=following(self.first_id, position),
                client=self.peer.name,
                certificate=self.peer.serial_number,
                sender_number=one.sender_number,
                message_body=one.message_body,
                client_reference=one.client_reference,
                sent_at=one.sent_at,
                idempotency=self._idempotency(position),
            )

    def _idempotency(self, position: int) -> str | None:
        if self.parsed.key is None:
            return None
        return f"{(int.from_bytes(self.parsed.key) + position) % (1 << 256):064x}"

    @property
    def idempotency_key(self) -> str:
        assert self.parsed.key is not None
        return f"msgsys:idempotency:{self.parsed.key.hex()}"

    def record(self, lines: Sequence[Line], now: float) -> str:
        """Say under its key that it is queued, and in which envelopes."""
        carried_by = ",".join(f"{line.envelope}*{line.messages}" for line in lines)
        return f"done|{self.parsed.fingerprint.hex()}|{self.first_id}|{int(now)}|{carried_by}"

    def replay_lines(self, now: float) -> Iterator[Line]:
        """Yield what the ledger is to say of a replay: whoever accepted the first may have died before it did."""
        position = 0
        for envelope, count in self.carried_by:
            yield Line(envelope, following(self.first_id, position), count, self.peer.name, int(now * 1000))
            position += count


def claim(intakes: Sequence[Intake], now: float) -> queue.Call:
    """Build the script call that claims the idempotency keys of `intakes` (all of which have one)."""
    arguments = [str(int(now)), str(STALE_CLAIM_SECONDS), str(CLAIM_SECONDS)]
    for intake in intakes:
        arguments += [intake.parsed.fingerprint.hex(), str(intake.first_id)]
    return queue.Call([intake.idempotency_key for intake in intakes], arguments)


def settle(intake: Intake, answer: bytes) -> Problem | None:
    """Apply what the claim said of one intake: it goes on (None), is a replay, or is refused."""
    state, fingerprint, first_id, *more = answer.decode().split("|")
    if fingerprint != intake.parsed.fingerprint.hex():
        return Problem("idempotency_key_reused", "This Idempotency-Key came before with another body: use a new key.")
    # The first request's ids stand, also when a later one finishes what it began.
    intake.first_id = UUID(first_id)
    if state == "pending":
        return retry_later("request_in_progress", "The first request with this Idempotency-Key has no answer yet.", 1)
    if state == "done":
        intake.replayed = True
        # Older versions left out by what it was carried.
        intake.carried_by = _read_carried_by(more[1]) if more[1:] else ()
    return None


def _read_carried_by(text: str) -> list[tuple[UUID, int]]:
    parts = (one.partition("*") for one in text.split(","))
    return [(UUID(envelope), int(count)) for envelope, _, count in parts]


@dataclass(frozen=True)
class Commit:
    """The script call that queues a group, all or none, and what the ledger says of it once that is done."""

    call: queue.Call
    lines: list[Line]


def commit(intakes: Sequence[Intake], sealer: Sealer, now: float, most: int, limits: Mapping[str, int]) -> Commit:
    """Build the script call that queues the messages of `intakes`, all or none, and charges their clients.

    `limits` are the messages per minute of each client that is to pay. Replays pay, and queue nothing.
    """
    messages = [message for intake in intakes for message in intake.messages()]
    keyed = [(place, intake) for place, intake in enumerate(intakes, 1) if intake.is_keyed and not intake.replayed]
    buckets = {client: number for number, client in enumerate(limits, 1)}
    sealed = list(sealer.envelopes(messages, now))
    lines = list(_lines(intakes, sealed, now))
    plan = {
        "most": most,
        "messages": len(messages),
        "keep": IDEMPOTENCY_SECONDS,
        "records": [intake.record(lines[place - 1], now) for place, intake in keyed],
        "payers": [place for place, _ in keyed],
        "window": WINDOW,
        "limits": list(limits.values()),
        "costs": [(buckets.get(intake.peer.name, 0), intake.cost) for intake in intakes],
    }
    keys = [queue.name(), *(intake.idempotency_key for _, intake in keyed), *map(bucket_key, limits)]
    call = queue.Call(keys, [json.dumps(plan), *(one.task for one in sealed)])
    return Commit(call, [line for of_intake in lines for line in of_intake])


def _lines(intakes: Sequence[Intake], sealed: Sequence[Sealed], now: float) -> Iterator[list[Line]]:
    """Yield, for each intake, which messages went into which envelope: both are in the messages' order."""
    envelopes = iter(sealed)
    envelope, room = None, 0
    for intake in intakes:
        lines = list(intake.replay_lines(now))
        position, count = 0, 0 if intake.replayed else len(intake.parsed.good)
        while position < count:
            if envelope is None or not room:
                envelope = next(envelopes)
                room = envelope.count
            taken = min(room, count - position)
            lines.append(Line(envelope.id, following(intake.first_id, position), taken, intake.peer.name))
            position += taken
            room -= taken
        yield lines


def bucket_key(client: str) -> str:
    return f"msgsys:bucket:{client}"
