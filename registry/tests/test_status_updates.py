from datetime import UTC, datetime

import pytest

from registry.models import Message, MessageQuerySet, StatusEvent
from registry.tests.conftest import a_row, keep, new_id


@pytest.fixture
def message(people):
    row = a_row()
    row.save()
    return row


@pytest.fixture
def update(call, message):
    """Report a step of the message."""

    def go(status, **more):
        return call("/status_update", {"id": str(message.uid), "status": status, **more})

    return go


def status_of(message):
    return Message.objects.get(pk=message.pk).status


def steps():
    return list(StatusEvent.objects.values_list("status", flat=True))


def test_a_message_is_dispatched_and_delivered(message, update):
    for status in ("dispatched", "delivered"):
        answer = update(status)
        assert (answer.status_code, answer.json()) == (200, {"id": str(message.uid), "status": status})
        assert status_of(message) == status
    assert steps() == ["dispatched", "delivered"]


@pytest.mark.parametrize("way", [["failed"], ["dispatched", "failed"], ["delivered"]])
def test_a_step_may_skip_what_lies_between(message, update, way):
    assert [update(status).status_code for status in way] == [200] * len(way)
    assert status_of(message) == way[-1]


def test_an_event_keeps_who_when_and_what(message, update, call, people):
    moment = datetime(2026, 5, 4, 3, 2, 1, 123456, UTC)
    update("dispatched", at="2026-05-04T05:02:01.123456+02:00", detail="via modem 3 ✓")
    call("/status_update", {"id": str(message.uid), "status": "delivered"}, peer=people.peer("gsm", "gateway"))
    first, second = message.events.all()
    assert (first.reporter, first.at, first.detail) == ("worker/worker", moment, "via modem 3 ✓")
    assert (second.reporter, second.detail) == ("gateway/gsm", "")


def test_repeating_a_step_is_harmless(message, update):
    answers = [update("dispatched", detail=f"try {number}").json() for number in range(3)]
    assert {answer["status"] for answer in answers} == {"dispatched"}
    assert steps() == ["dispatched"]
    assert message.events.get().detail == "try 0"


def test_a_late_duplicate_is_harmless_and_told_where_the_message_is(message, update):
    update("dispatched")
    update("delivered")
    late = update("dispatched")
    assert (late.status_code, late.json()["status"]) == (200, "delivered")
    assert status_of(message) == "delivered"


@pytest.mark.parametrize(
    ("there", "back"),
    [("delivered", "dispatched"), ("failed", "dispatched"), ("failed", "delivered"), ("delivered", "failed")],
)
def test_a_status_never_goes_back(message, update, there, back):
    update(there)
    answer = update(back)
    assert (answer.status_code, answer.json()["code"]) == (409, "backward_step")
    assert status_of(message) == there
    assert steps() == [there]


def test_an_unknown_message_is_not_found(call, people):
    answer = call("/status_update", {"id": str(new_id()), "status": "delivered"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_batch_has_an_outcome_for_each(call, message):
    other, unknown = a_row(), new_id()
    other.save()
    reported = [(message.uid, "dispatched"), (message.uid, "delivered"), (message.uid, "failed")]
    reported += [(unknown, "delivered"), (other.uid, "failed"), (other.uid, "failed")]
    answer = call("/status_update", {"updates": [{"id": str(uid), "status": status} for uid, status in reported]})
    results = answer.json()["results"]
    assert [result["id"] for result in results] == [str(uid) for uid, _ in reported]
    assert [result.get("code", result["outcome"]) for result in results] == [
        "updated",
        "updated",
        "backward_step",
        "not_found",
        "updated",
        "updated",
    ]
    assert (status_of(message), status_of(other)) == ("delivered", "failed")


def test_a_full_batch_is_taken(call, message):
    updates = [{"id": str(message.uid), "status": "dispatched"}] * 1000
    assert len(call("/status_update", {"updates": updates}).json()["results"]) == 1000
    assert steps() == ["dispatched"]


def test_a_batch_with_one_malformed_update_changes_nothing(call, message):
    updates = [{"id": str(message.uid), "status": "delivered"}, {"id": str(message.uid), "status": "lost"}]
    answer = call("/status_update", {"updates": updates})
    assert answer.status_code == 422
    assert "updates[1]" in answer.json()["errors"][0]["field"]
    assert steps() == []


@pytest.fixture
def update_all(call):
    """Report (row, status) in one batch; return the results without their ids."""

    def go(*reported):
        updates = [{"id": str(row.uid), "status": status, "detail": status} for row, status in reported]
        answer = call("/status_update", {"updates": updates})
        assert answer.status_code == 200, answer.content
        return [{name: value for name, value in one.items() if name != "id"} for one in answer.json()["results"]]

    return go


def test_in_one_batch_the_order_of_steps_counts_for_nothing(message, update_all):
    results = update_all((message, "delivered"), (message, "dispatched"))
    assert results == [{"status": "delivered", "outcome": "updated"}] * 2
    assert steps() == ["dispatched", "delivered"]
    assert status_of(message) == "delivered"


def test_a_step_that_comes_a_batch_too_late_is_refused_and_changes_nothing(message, update_all):
    update_all((message, "delivered"))
    late = update_all((message, "dispatched"))
    assert late == [{"status": "delivered", "outcome": "refused", "code": "backward_step"}]
    assert steps() == ["delivered"]


def test_a_batch_that_comes_again_is_harmless(message, update_all):
    batch = [(message, "dispatched"), (message, "failed")]
    assert update_all(*batch) == update_all(*batch) == [{"status": "failed", "outcome": "updated"}] * 2
    assert steps() == ["dispatched", "failed"]


def test_of_two_ends_in_one_batch_the_first_named_stands(message, update_all):
    first, second = update_all((message, "failed"), (message, "delivered"))
    assert (first["outcome"], second["code"]) == ("updated", "backward_step")
    assert status_of(message) == "failed"


def test_many_updates_take_as_few_statements_as_some(call, people, update_all, django_assert_max_num_queries):
    rows = [a_row(message_body=f"{number}") for number in range(250)]
    keep(*rows)
    steps = [(row, status) for row in rows for status in ("dispatched", "delivered", "failed")]
    # SQLite takes fewer rows in one INSERT than MariaDB does.
    with django_assert_max_num_queries(25):
        results = update_all(*steps)
    assert [result.get("code", result["outcome"]) for result in results] == [
        "updated",
        "updated",
        "backward_step",
    ] * 250
    assert StatusEvent.objects.count() == 500
    assert set(Message.objects.values_list("status", flat=True)) == {"delivered"}


def test_a_batch_is_taken_as_a_whole_or_not_at_all(message, update_all, monkeypatch):
    def refuse(*arguments, **options):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(MessageQuerySet, "update", refuse)
        with pytest.raises(ZeroDivisionError):
            update_all((message, "dispatched"), (message, "delivered"))
    assert steps() == []
    assert status_of(message) == "registered"
