"""The group commit, without its I/O: what arrives in one tick becomes one or a few envelopes and two Redis scripts.

The accept path (asyncio) and the DRF view (threads) both drive the same steps: `claim`, `settle`, `commit`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from certs_app.identity import Peer
from ingest import queue
from ingest.parsing import Parsed
from ingest.rate_limit import WINDOW
from ingest.sealer import Sealer
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

    @classmethod
    def start(cls, peer: Peer, parsed: Parsed, now: float) -> "Intake":
        return cls(peer, parsed, new_id(now))

    def messages(self) -> Iterator[Message]:
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

    def record(self, state: str, now: float) -> str:
        return f"{state}|{self.parsed.fingerprint.hex()}|{self.first_id}|{int(now)}"


def claim(intakes: Sequence[Intake], now: float) -> queue.Call:
    """Build the script call that claims the idempotency keys of `intakes` (all of which have one)."""
    arguments = [str(int(now)), str(STALE_CLAIM_SECONDS), str(CLAIM_SECONDS)]
    for intake in intakes:
        arguments += [intake.parsed.fingerprint.hex(), str(intake.first_id)]
    return queue.Call([intake.idempotency_key for intake in intakes], arguments)


def settle(intake: Intake, answer: bytes) -> Problem | None:
    """Apply what the claim said of one intake: it goes on (None), is a replay, or is refused."""
    state, fingerprint, first_id = answer.decode().split("|")[:3]
    if fingerprint != intake.parsed.fingerprint.hex():
        return Problem("idempotency_key_reused", "This Idempotency-Key came before with another body: use a new key.")
    # The first request's ids stand, also when a later one finishes what it began.
    intake.first_id = UUID(first_id)
    if state == "pending":
        return retry_later("request_in_progress", "The first request with this Idempotency-Key has no answer yet.", 1)
    intake.replayed = state == "done"
    return None


def commit(intakes: Sequence[Intake], sealer: Sealer, now: float, max_length: int) -> queue.Call:
    """Build the script call that queues the messages of `intakes`, all or none."""
    messages = [message for intake in intakes for message in intake.messages()]
    sealed = list(sealer.envelopes(messages, now))
    keyed = [intake for intake in intakes if intake.parsed.key is not None]
    counts = rate_counts(intakes)
    keys = [queue.name(), *(intake.idempotency_key for intake in keyed), *rate_keys(counts, now)]
    arguments: list[str | bytes] = [
        str(max_length),
        str(len(sealed)),
        str(len(keyed)),
        str(IDEMPOTENCY_SECONDS),
        str(2 * WINDOW),
        str(len(messages)),
        *sealed,
        *(intake.record("done", now) for intake in keyed),
        *(str(count) for count in counts.values()),
    ]
    return queue.Call(keys, arguments)


def rate_counts(intakes: Sequence[Intake]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for intake in intakes:
        counts[intake.peer.name] += len(intake.parsed.good)
    return counts


def rate_keys(counts: Counter[str], now: float) -> list[str]:
    return [f"msgsys:rate:{client}:{int(now) // WINDOW}" for client in counts]
