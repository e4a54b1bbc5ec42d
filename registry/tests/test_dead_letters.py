"""Workers report their dead letters: the last report of a queue is what the portal shows."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from registry import dead_letters
from registry.models import DeadLetter, DeadLetterReport
from registry.tests.conftest import NOW, all_at_once, new_id
from wire.dead_letters import MALFORMED_ENTRY, MAX_REPORTED, REASONS
from wire.envelope import EnvelopeError

AT = 1_790_000_000


def letter(**changes):
    return {"id": str(new_id()), "code": "bad_seal", "at": AT, **changes}


def report(*letters, **changes):
    return {"total": len(letters), "letters": list(letters), **changes}


@pytest.fixture
def post(call):
    def go(body, **options):
        return call("/dead_letters", body, **options)

    return go


def stored(queue="deliver"):
    letters = DeadLetter.objects.filter(report__queue=queue)
    return {one.envelope_id: (one.code, int(one.at.timestamp())) for one in letters}


def test_a_report_is_kept_with_who_and_when(post):
    one, two = letter(), letter(code="signer_revoked", at=AT + 5)
    before = datetime.now(UTC)
    answer = post(report(one, two, total=7))
    assert (answer.status_code, answer.json()) == (200, {"queue": "deliver", "total": 7, "listed": 2})
    kept = DeadLetterReport.objects.get()
    assert (kept.total, kept.reporter) == (7, "worker/worker")
    assert before <= kept.reported_at <= datetime.now(UTC)
    assert stored() == {one["id"]: ("bad_seal", AT), two["id"]: ("signer_revoked", AT + 5)}


def test_a_report_replaces_the_one_before(post):
    stays, goes, changes, comes = letter(), letter(), letter(), letter()
    post(report(stays, goes, changes))
    row = DeadLetter.objects.get(envelope_id=stays["id"])
    changes = {**changes, "code": "bad_content", "at": AT + 1}
    post(report(stays, changes, comes))
    assert stored() == {one["id"]: (one["code"], one["at"]) for one in (stays, changes, comes)}
    assert DeadLetter.objects.get(envelope_id=stays["id"]).pk == row.pk, "what is the same is not written again"
    post(report())
    assert stored() == {}
    assert DeadLetterReport.objects.get().total == 0


def test_the_same_report_again_changes_only_when_it_came(post):
    body = report(letter(), letter())
    post(body)
    rows, first = list(DeadLetter.objects.values()), DeadLetterReport.objects.get().reported_at
    post(body)
    assert list(DeadLetter.objects.values()) == rows
    assert DeadLetterReport.objects.get().reported_at > first


def test_two_workers_of_one_queue_speak_for_the_same_letters(post, people):
    one, two = letter(), letter()
    post(report(one))
    post(report(one, two), peer=people.peer("worker-2", "worker"))
    assert set(stored()) == {one["id"], two["id"]}
    assert DeadLetterReport.objects.get().reporter == "worker/worker-2"


def test_another_queue_has_a_report_of_its_own(post):
    shared = letter()
    post(report(shared))
    post(report(shared, queue="north"))
    post(report(queue="deliver"))
    assert (set(stored()), set(stored("north"))) == (set(), {shared["id"]})


OURS, THEIRS = "0f" * 16, "f0" * 16


def named(secret):
    return f"deliver.{hashlib.sha256(secret.encode()).hexdigest()[:16]}"


def test_two_installations_do_not_overwrite_each_other(post):
    one, two = letter(), letter()
    assert post(report(one, secret=OURS)).json()["queue"] == named(OURS)
    post(report(two, secret=THEIRS))
    post(report(secret=OURS))
    assert (stored(named(OURS)), set(stored(named(THEIRS)))) == ({}, {two["id"]})


@pytest.mark.parametrize("changes", [{"queue": named(OURS)}, {"secret": THEIRS, "queue": named(OURS)}, {}])
def test_whoever_does_not_know_a_queues_secret_cannot_speak_for_it(changes, post, people):
    kept = letter()
    post(report(kept, secret=OURS))
    post(report(**changes), peer=people.peer("mallory", "worker"))
    assert set(stored(named(OURS))) == {kept["id"]}


def test_the_secret_is_kept_nowhere(post):
    post(report(letter(), secret=OURS))
    assert OURS not in str([*DeadLetterReport.objects.values(), *DeadLetter.objects.values()])


def test_a_worker_that_was_updated_takes_its_former_report_along(post, people):
    other = letter()
    post(report(other), peer=people.peer("north", "worker"))
    post(report(secret=OURS))
    assert set(stored()) == {other["id"]}, "another's stays"
    post(report(letter()))
    post(report(secret=OURS))
    assert not DeadLetterReport.objects.filter(queue="deliver").exists()


def test_a_queue_of_which_nothing_is_heard_for_a_month_is_forgotten(post):
    post(report(letter(), secret=OURS))
    post(report(letter(), secret=THEIRS))
    old = datetime.now(UTC) - dead_letters.FORGOTTEN
    DeadLetterReport.objects.filter(queue=named(OURS)).update(reported_at=old)
    DeadLetterReport.objects.filter(queue=named(THEIRS)).update(reported_at=old + timedelta(hours=1))
    post(report())
    assert set(DeadLetterReport.objects.values_list("queue", flat=True)) == {"deliver", named(THEIRS)}


def test_as_many_as_a_report_may_list_are_taken(post):
    letters = [letter() for _ in range(MAX_REPORTED)]
    assert post(report(*letters, total=100_000)).status_code == 200
    assert len(stored()) == MAX_REPORTED
    assert post(report(*letters, letter())).json()["code"] == "invalid_request"


TWICE = letter()
BAD = {
    "no object": [],
    "no total": {"letters": []},
    "no letters": {"total": 0},
    "an unknown field": report(since=1),
    "an unknown field of a letter": report(letter(envelope="x")),
    "a total below the list": report(letter(), total=0),
    "a negative total": report(total=-1),
    "a total no column holds": report(total=1 << 31),
    "a total that is true": report(total=True),
    "a total in quotes": report(total="0"),
    "an id twice": report(TWICE, TWICE),
    "an id in upper case": report(letter(id="ABC")),
    "an id with a line break": report(letter(id="a\n")),
    "an empty id": report(letter(id="")),
    "a long id": report(letter(id="a" * 65)),
    "a code with blanks": report(letter(code="bad seal")),
    "a code that is markup": report(letter(code="<b>")),
    "a time before 1970": report(letter(at=-1)),
    "a time in milliseconds": report(letter(at=AT * 1000)),
    "a time in words": report(letter(at="2026-11-24")),
    "a fraction": report(letter(at=1.5)),
    "a queue without a name": report(queue=""),
    "a secret that is none": report(secret="x" * 32),
    "a secret that is too short": report(secret="0f"),
    "letters that are none": report(letters={}),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_report_that_breaks_a_rule_is_refused_and_changes_nothing(body, post):
    kept = letter()
    post(report(kept))
    answer = post(body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"]
    assert set(stored()) == {kept["id"]}


@pytest.mark.parametrize("role", ["client", "ingest", "gateway", "admin", "prometheus"])
def test_nobody_but_a_worker_may_report(role, post, people):
    answer = post(report(letter()), peer=people.peer("mallory", role))
    assert (answer.status_code, answer.json()["code"]) == (403, "role_not_allowed")
    assert not DeadLetterReport.objects.exists()


def test_workers_that_report_at_once_leave_one_whole_report(shared_database):
    letters = [[dead_letters.Letter(str(new_id()), "bad_seal", AT) for _ in range(20)] for _ in range(4)]

    def work(number):
        for _ in range(5):
            dead_letters.record(dead_letters.Report(20 + number, letters[number]), f"worker/w{number}", NOW)

    all_at_once(work)
    connection.close()
    last = DeadLetterReport.objects.get()
    winner = last.total - 20
    assert set(stored()) == {one.id for one in letters[winner]}
    assert last.reporter == f"worker/w{winner}"


def test_every_code_with_which_an_envelope_is_rejected_has_words_and_a_remedy():
    def codes(kind):
        yield kind.code
        for below in kind.__subclasses__():
            yield from codes(below)

    from registry import envelopes  # noqa: F401  defines some of them

    assert set(REASONS) == {*codes(EnvelopeError), MALFORMED_ENTRY}
    assert all(words.endswith(".") and remedy.endswith(".") for words, remedy in REASONS.values())
