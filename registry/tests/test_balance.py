"""An ingest asks what is stored of what it accepted, and says how its queue is."""

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from registry import balance
from registry.models import Alias, Message, QueueReport
from registry.tests.conftest import Ingest, a_message, a_row, new_id
from wire import sums
from wire.ids import following
from wire.sums import Sum

KEY = bytes(range(16))
NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QUEUE = {"depth": 3, "held": 1, "dead": 0, "unaccounted": 2}


def ms(at):
    return int(at.timestamp() * 1000)


def a_range(start, length=MINUTE):
    return [ms(start), ms(start + length)]


def total(*uids):
    return sum((sums.of(uid.bytes, KEY) for uid in uids), Sum())


@pytest.fixture
def ask(call, people):
    """Post to /balance as the ingest of this name."""

    def go(name="ingest", **body):
        return call("/balance", body, peer=people.peer(name, "ingest"))

    return go


@pytest.fixture
def sums_of(ask):
    """Ask for the sums of ranges; return, for each, {client: Sum}."""

    def go(*ranges, name="ingest"):
        answer = ask(name, key=KEY.hex(), ranges=list(ranges))
        assert answer.status_code == 200, answer.content
        return [
            {client: Sum(one["count"], sums.read_digest(one["digest"])) for client, one in clients.items()}
            for clients in answer.json()["ranges"]
        ]

    return go


def test_the_digest_of_an_id_is_the_frozen_one():
    first = 0x019BF3A85C007ABC8DEF0123456789AB
    assert sums.of(first.to_bytes(16), KEY).digest_hex == "381d28be4c89e698"
    assert sums.of_following(first, 3, KEY) == Sum(3, 0x33F353C1653867D6)


def test_what_one_ingest_accepted_is_summed_by_client_and_range(ingest, register, sums_of):
    ids = [new_id(NOON + second * timedelta(seconds=1)) for second in range(3)]
    later = new_id(NOON + MINUTE)
    register(
        ingest.envelope(a_message(id=ids[0]), a_message(id=ids[1], client="dave"), a_message(id=ids[2])),
        ingest.envelope(a_message(id=later)),
    )
    first, second, third = sums_of(*(a_range(NOON + number * MINUTE) for number in range(3)))
    assert first == {"alice": total(ids[0], ids[2]), "dave": total(ids[1])}
    assert second == {"alice": total(later)}
    assert third == {}


def test_a_range_ends_before_its_end(ingest, register, sums_of):
    edge = new_id(NOON)
    register(ingest.envelope(a_message(id=edge)))
    before, after = sums_of(a_range(NOON - MINUTE), a_range(NOON))
    assert (before, after) == ({}, {"alice": total(edge)})


def test_many_pages_make_one_sum(call, sums_of, monkeypatch):
    monkeypatch.setattr(balance, "_PAGE", 7)
    first = new_id(NOON)
    rows = [a_row(id=following(first, number)) for number in range(50)]
    for row in rows:
        row.accepted_by = "ingest"
    Message.objects.bulk_create(rows)
    assert sums_of(a_range(NOON)) == [{"alice": total(*(row.uid for row in rows))}]


def test_an_expensive_call_is_answered_in_part(ingest, register, sums_of, monkeypatch):
    monkeypatch.setattr(balance, "MAX_ROWS", 2)
    for number in range(3):
        register(ingest.envelope(a_message(id=new_id(NOON + number * MINUTE))))
    assert len(sums_of(*(a_range(NOON + number * MINUTE) for number in range(3)))) == 2


def test_two_ingests_see_their_own_messages_only(ingest, register, people, ask, sums_of):
    people.issue("second", "ingest", usage="client")
    ours, theirs = new_id(NOON), new_id(NOON)
    register(ingest.envelope(a_message(id=ours)), Ingest(people.folder, "second-client").envelope(a_message(id=theirs)))
    assert sums_of(a_range(NOON)) == [{"alice": total(ours)}]
    assert sums_of(a_range(NOON), name="second") == [{"alice": total(theirs)}]
    answer = ask("second", ids=[str(ours), str(theirs)]).json()
    assert (answer["unknown"], answer["elsewhere"]) == ([str(ours)], [str(ours)])


def test_what_was_posted_in_the_clear_belongs_to_no_ingest(call, ask):
    uid = str(new_id())
    assert call("/register", {"id": uid, "sender_number": "+4915200000000", "message_body": "x"}).status_code == 201
    assert Message.objects.get().accepted_by == ""
    answer = ask(ids=[uid]).json()
    assert (answer["unknown"], answer["elsewhere"]) == ([uid], [])


def test_only_unknown_ids_come_back(ingest, register, ask):
    here, lost = new_id(), new_id()
    register(ingest.envelope(a_message(id=here)))
    assert ask(ids=[str(lost), str(here)]).json() == {"ranges": [], "unknown": [str(lost)], "elsewhere": []}


def keyed(uid, **changes):
    return a_message(id=uid, idempotency="ab" * 32, **changes)


@pytest.fixture
def collapsed(ingest, register):
    """One request, carried under two ids: return the id it is stored under, and the other one."""
    stored, other = new_id(NOON), new_id(NOON + timedelta(seconds=1))
    register(ingest.envelope(keyed(stored)))
    (outcome,) = register(ingest.envelope(keyed(other)))
    assert outcome["outcome"] == "duplicate"
    assert Message.objects.get().uid == stored
    return stored, other


def test_an_id_that_collapsed_into_another_counts_as_stored(collapsed, ask, sums_of):
    assert ask(ids=[str(uid) for uid in collapsed]).json()["unknown"] == []
    assert sums_of(a_range(NOON)) == [{"alice": total(*collapsed)}]


def test_a_collapsed_id_that_comes_again_is_kept_once(collapsed, ingest, register):
    register(ingest.envelope(keyed(collapsed[1])))
    assert Alias.objects.get().uid == collapsed[1]


def test_a_client_finds_its_message_under_the_collapsed_id(collapsed, call, people, settings):
    stored, other = map(str, collapsed)
    ingest = people.peer("ingest", "ingest")
    people.issue("registry", "registry", dns=["localhost"])
    pair = {"certificate": people.folder / "registry.crt", "key": people.folder / "registry.key"}
    settings.SERVER_CERTIFICATE = pair
    answer = call(f"/clients/alice/messages/{other}", peer=ingest)
    assert (answer.status_code, answer.json()["id"]) == (200, stored)
    assert call(f"/clients/bob/messages/{other}", peer=ingest).status_code == 404


def test_other_content_under_the_same_key_is_no_alias(ingest, register, ask):
    first, second = new_id(NOON), new_id(NOON)
    register(ingest.envelope(keyed(first)))
    register(ingest.envelope(keyed(second, message_body="something else")))
    assert not Alias.objects.exists()
    assert ask(ids=[str(first), str(second)]).json()["unknown"] == []


def test_the_queue_of_each_ingest_is_kept_in_one_row(ask):
    ask(queue=QUEUE)
    ask("second", queue={**QUEUE, "depth": 9})
    ask(queue={**QUEUE, "oldest_at": "2026-05-04T12:00:00Z", "settled_until": "2026-05-04T14:04:00+02:00"})
    first, second = QueueReport.objects.all()
    assert (first.ingest, first.depth, first.unaccounted, first.oldest_at) == ("ingest", 3, 2, NOON)
    assert first.settled_until == NOON + 4 * MINUTE
    assert abs(first.reported_at - timezone.now()) < timedelta(minutes=1)
    assert (second.ingest, second.depth, second.oldest_at, second.settled_until) == ("second", 9, None, None)


@pytest.mark.parametrize(
    "body",
    [
        {"ranges": [[0, 60000]]},
        {"key": "short", "ranges": [[0, 60000]]},
        {"key": KEY.hex(), "ranges": [[60000, 60000]]},
        {"key": KEY.hex(), "ranges": [[60000, 0]]},
        {"key": KEY.hex(), "ranges": [[0, 3_600_001]]},
        {"key": KEY.hex(), "ranges": [[-1, 60000]]},
        {"key": KEY.hex(), "ranges": [[0, 1 << 48]]},
        {"key": KEY.hex(), "ranges": [[0]]},
        {"key": KEY.hex(), "ranges": [[0, 60000]] * 121},
        {"ids": ["no-uuid"]},
        {"ids": [str(new_id())] * 1001},
        {"queue": {**QUEUE, "depth": -1}},
        {"queue": {**QUEUE, "depth": 1 << 64}},
        {"queue": {"depth": 1}},
        {"queue": {**QUEUE, "oldest_at": "yesterday"}},
        {"queue": {**QUEUE, "oldest_at": "0001-01-01T00:00:00+14:00"}},
        {"queue": {**QUEUE, "more": 1}},
        {"more": 1},
        [],
    ],
)
def test_what_is_no_comparison_is_refused_by_name(call, people, body):
    answer = call("/balance", body, peer=people.peer("ingest", "ingest"))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.content
    assert answer.json()["errors"]
    assert not QueueReport.objects.exists()


@pytest.mark.parametrize("role", ["client", "worker", "gateway", "admin", "portal"])
def test_only_ingest_compares(call, people, role):
    answer = call("/balance", {"ids": []}, peer=people.peer("somebody", role))
    assert (answer.status_code, answer.json()["code"]) == (403, "role_not_allowed")
