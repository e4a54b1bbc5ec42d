"""Store messages: a whole batch in a few statements, each message once, whoever else is storing the same.

The unique constraints decide. Nearly everything is new, so it is written unseen; one refusal, whatever the number of
duplicates, is followed by a look at the tables, which says what is left to write.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import DatabaseError, IntegrityError, connection, models, transaction

from registry import blind_index, deadlocks
from registry.fields import EncryptedTextField
from registry.models import Alias, Message, Removed
from registry.sealing import UNREADABLE
from registry.search.models import Unindexed
from registry.steps import REGISTERED
from wire import messages
from wire.ids import received_at

# SQLite takes an expression of 1,000 terms at most.
_KEYS_A_STATEMENT = 400
# How long ingest remembers a key: what comes later under the same one is another message.
_IDEMPOTENCY_LIFE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that is to be stored; `accepted_by` names the ingest that signed for it."""

    message: messages.Message
    received_at: datetime
    accepted_by: str = ""

    @classmethod
    def of(cls, message: messages.Message, *, accepted_by: str = "") -> "Arrival":
        return cls(message, received_at(message.id), accepted_by)

    @property
    def uid(self) -> UUID:
        return self.message.id

    @property
    def key(self) -> tuple[str, bytes] | None:
        """The client and its idempotency key."""
        idempotency = self.message.idempotency
        return (self.message.client, bytes.fromhex(idempotency)) if idempotency else None


def store(arrivals: Sequence[Arrival], now: datetime) -> set[UUID]:
    """Insert what is new, all or nothing; return the uids inserted. The same request sent again becomes an Alias.

    What was removed does not come back.
    """
    # In one order for all writers: two with the same rows then wait for each other more often than they deadlock.
    in_order = sorted({arrival.uid: arrival for arrival in arrivals}.values(), key=lambda arrival: arrival.uid)
    plan = _Plan.of(in_order, {})
    for tries_left in reversed(range(deadlocks.TRIES)):
        try:
            with transaction.atomic():
                _write(plan, now)
            break
        except DatabaseError as error:
            # Never taken for a duplicate unseen: the caller would let go of a message that is stored nowhere.
            if not tries_left or not _is_conflict(error):
                raise
        plan = _look(in_order)
    return {arrival.uid for arrival in plan.new}


def _is_conflict(error: DatabaseError) -> bool:
    """Tell whether somebody else has just stored or removed, or is about to, one of the same rows."""
    return isinstance(error, IntegrityError) or deadlocks.is_deadlock(error)


# -- what is to be written


class _Holder(NamedTuple):
    """Who has an idempotency key. `row_id` is None while it is not stored, `request` when it is unreadable."""

    uid: UUID
    row_id: int | None
    received_at: datetime
    request: tuple[str, str] | None

    def is_sent_again(self, arrival: Arrival) -> bool:
        """Tell whether `arrival`, under the same key, is this request sent again. In doubt, better twice than never."""
        return abs(arrival.received_at - self.received_at) < _IDEMPOTENCY_LIFE and self.request == _request(arrival)


def _request(arrival: Arrival) -> tuple[str, str]:
    return arrival.message.sender_number, arrival.message.message_body


_Holders = dict[tuple[str, bytes], _Holder]


@dataclass
class _Plan:
    """`keyed` are the uids of `new` that hold their idempotency key; `again` goes with the message it repeats."""

    new: list[Arrival] = field(default_factory=list)
    keyed: set[UUID] = field(default_factory=set)
    again: list[tuple[Arrival, _Holder]] = field(default_factory=list)

    @classmethod
    def of(cls, unknown: Sequence[Arrival], holders: _Holders) -> "_Plan":
        """Plan for what is not stored, given who has the idempotency keys; those that are free get a holder."""
        plan = cls()
        for arrival in unknown:
            key = arrival.key
            holder = holders.get(key) if key else None
            if holder and holder.is_sent_again(arrival):
                plan.again.append((arrival, holder))
                continue
            plan.new.append(arrival)
            if key and not holder:
                holders[key] = _Holder(arrival.uid, None, arrival.received_at, _request(arrival))
                plan.keyed.add(arrival.uid)
        return plan


def _look(arrivals: Sequence[Arrival]) -> _Plan:
    known = _known(arrivals)
    unknown = [arrival for arrival in arrivals if arrival.uid not in known]
    return _Plan.of(unknown, _holders(unknown))


def _known(arrivals: Sequence[Arrival]) -> set[UUID]:
    """Return the uids that are stored or were removed."""
    known = _among(Message, [arrival.uid for arrival in arrivals])
    # Only what came under a key can have become an alias.
    known |= _among(Alias, [arrival.uid for arrival in arrivals if arrival.key and arrival.uid not in known])
    # At the end: what is removed meanwhile is found in one place or the other.
    return known | _among(Removed, [arrival.uid for arrival in arrivals if arrival.uid not in known])


def _among(model: type[Message | Alias | Removed], uids: Sequence[UUID]) -> set[UUID]:
    """Return those uids that this table has. By hand: Django's __in takes four times as long to write down."""
    if not uids:
        return set()
    slots = ", ".join(["%s"] * len(uids))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT uid FROM {model._meta.db_table} WHERE uid IN ({slots})",  # noqa: S608  slots are %s, nothing else
            [uid.bytes for uid in uids],
        )
        return {UUID(bytes=bytes(uid)) for (uid,) in cursor.fetchall()}


def _holders(arrivals: Sequence[Arrival]) -> _Holders:
    """Return the stored messages that have the idempotency keys of these."""
    keys = sorted({arrival.key for arrival in arrivals if arrival.key})
    found: _Holders = {}
    for start in range(0, len(keys), _KEYS_A_STATEMENT):
        for row in Message.objects.filter(_any_of(keys[start : start + _KEYS_A_STATEMENT])):
            assert row.idempotency is not None
            found[row.client, row.idempotency] = _Holder(row.uid, row.pk, row.received_at, _request_of(row))
    return found


def _any_of(keys: Sequence[tuple[str, bytes]]) -> models.Q:
    # By client, for a list of pairs makes SQLite scan the table.
    by_client: dict[str, list[bytes]] = {}
    for client, idempotency in keys:
        by_client.setdefault(client, []).append(idempotency)
    any_of = models.Q()
    for client, idempotencies in by_client.items():
        any_of |= models.Q(client=client, idempotency__in=idempotencies)
    return any_of


def _request_of(row: Message) -> tuple[str, str] | None:
    try:
        return row.sender_number, row.message_body
    except UNREADABLE:
        return None


# -- writing it

_NUMBER: EncryptedTextField = Message._meta.get_field("sender_number")
_BODY: EncryptedTextField = Message._meta.get_field("message_body")
_REFERENCE: EncryptedTextField = Message._meta.get_field("client_reference")


def _write(plan: _Plan, now: datetime) -> None:
    if plan.new:
        # Not bulk_create: for a batch, Django's model instances and fields take longer than the database.
        with connection.cursor() as cursor:
            cursor.executemany(_INSERT, list(_rows(plan, now)))
        Unindexed.objects.note([arrival.uid for arrival in plan.new])
    if plan.again:
        _write_aliases(plan.again)
    _refuse_removed(plan)


def _refuse_removed(plan: _Plan) -> None:
    """Raise IntegrityError if any of this was removed: a conflict like any other, that no constraint can see.

    Not before the INSERT: that waits for a removal under way, whose note is there when it goes through.
    """
    uids = [arrival.uid for arrival in plan.new] + [arrival.uid for arrival, _ in plan.again]
    if uids and _any_removed_from_about(uids) and _among(Removed, uids):
        raise IntegrityError("a message that was removed was delivered again")


def _any_removed_from_about(uids: Sequence[UUID]) -> bool:
    """Tell whether any was removed of those times. Nearly always none: two ids are asked for in place of a hundred."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT 1 FROM {Removed._meta.db_table} WHERE uid BETWEEN %s AND %s LIMIT 1",  # noqa: S608  a name of ours
            [min(uids).bytes, max(uids).bytes],
        )
        return cursor.fetchone() is not None


# In the order of _rows. The plain form: drivers make statements of many rows of it.
COLUMNS = (
    *("uid", "client", "certificate", "sender_number", "message_body", "client_reference", "sent_at", "received_at"),
    *("stored_at", "status", "sender_index", "idempotency", "accepted_by"),
)
_INSERT = f"INSERT INTO {Message._meta.db_table} ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"  # noqa: S608  constants, all of them


def _rows(plan: _Plan, now: datetime) -> Iterator[tuple[Any, ...]]:
    # Of one envelope's messages, most have the same times.
    moment = functools.cache(connection.ops.adapt_datetimefield_value)
    stored_at = moment(now)
    for arrival in plan.new:
        one = arrival.message
        yield (
            one.id.bytes,
            one.client,
            one.certificate,
            _NUMBER.seal(one.sender_number, arrival).blob,
            _BODY.seal(one.message_body, arrival).blob,
            None if one.client_reference is None else _REFERENCE.seal(one.client_reference, arrival).blob,
            moment(one.sent_at),
            moment(arrival.received_at),
            stored_at,
            REGISTERED,
            blind_index.sender(one.sender_number),
            arrival.key[1] if arrival.key and arrival.uid in plan.keyed else None,
            arrival.accepted_by,
        )


def _write_aliases(again: Sequence[tuple[Arrival, _Holder]]) -> None:
    # MySQL does not tell the ids of a bulk insert.
    just_stored = [holder.uid for _, holder in again if holder.row_id is None]
    ids = dict(Message.objects.filter(uid__in=just_stored).values_list("uid", "id")) if just_stored else {}
    Alias.objects.bulk_create(
        # A holder that was removed meanwhile breaks the foreign key: a conflict like any other.
        Alias(uid=arrival.uid, message_id=holder.row_id or ids[holder.uid], accepted_by=arrival.accepted_by)
        for arrival, holder in again
    )
