"""What a valid message is."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.problems import Problem
from wire.rules import MAX_BODY_CHARACTERS, Invalid, Submission, check

NUMBER = "+4915200000000"
GOOD = {"sender_number": NUMBER, "message_body": "Pump 7: 4.2 bar"}


def test_a_good_message_is_taken_as_it_is() -> None:
    full = {**GOOD, "client_reference": "job-42", "sent_at": "2026-01-31T12:00:00.25+02:00"}

    assert check(full) == Submission(
        NUMBER, "Pump 7: 4.2 bar", "job-42", datetime(2026, 1, 31, 10, 0, 0, 250_000, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    "message",
    [
        GOOD,
        {**GOOD, "client_reference": None, "sent_at": None},
        {**GOOD, "message_body": "x" * MAX_BODY_CHARACTERS},
        {**GOOD, "message_body": "😀" * MAX_BODY_CHARACTERS},
        {**GOOD, "message_body": " "},
        {**GOOD, "client_reference": "r" * 128},
        {**GOOD, "sent_at": "2026-01-31t12:00:00z"},
        {**GOOD, "sent_at": "2026-01-31T12:00:00.123456789Z"},
        {**GOOD, "sender_number": "+37255501234"},
        {**GOOD, "sender_number": "+12125550123"},
    ],
)
def test_the_edges_of_the_rules_are_inside(message: dict[str, Any]) -> None:
    assert isinstance(check(message), Submission)


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"sender_number": ...}, "sender_number", "required"),
        ({"message_body": ...}, "message_body", "required"),
        ({"sender_number": None}, "sender_number", "not_a_string"),
        ({"sender_number": 4915200000000}, "sender_number", "not_a_string"),
        ({"sender_number": [NUMBER]}, "sender_number", "not_a_string"),
        ({"sender_number": ""}, "sender_number", "not_e164"),
        ({"sender_number": "4915200000000"}, "sender_number", "not_e164"),
        ({"sender_number": "+49 152 00000000"}, "sender_number", "not_e164"),
        ({"sender_number": "+0915200000000"}, "sender_number", "not_e164"),
        ({"sender_number": "+491"}, "sender_number", "not_e164"),
        ({"sender_number": "+4915200000000000"}, "sender_number", "not_e164"),
        ({"sender_number": NUMBER + "\n"}, "sender_number", "not_e164"),
        ({"sender_number": "+٤٩١٥٢٠٠٠٠٠٠٠٠"}, "sender_number", "not_e164"),
        ({"sender_number": "+2100000000"}, "sender_number", "no_such_number"),
        ({"sender_number": "+4900000000"}, "sender_number", "no_such_number"),
        ({"sender_number": NUMBER + "\0"}, "sender_number", "nul_character"),
        ({"message_body": None}, "message_body", "not_a_string"),
        ({"message_body": {"text": "x"}}, "message_body", "not_a_string"),
        ({"message_body": True}, "message_body", "not_a_string"),
        ({"message_body": ""}, "message_body", "empty"),
        ({"message_body": "x" * (MAX_BODY_CHARACTERS + 1)}, "message_body", "too_long"),
        ({"message_body": "a\0b"}, "message_body", "nul_character"),
        ({"message_body": "a\ud800b"}, "message_body", "invalid_unicode"),
        ({"client_reference": ""}, "client_reference", "bad_length"),
        ({"client_reference": "r" * 129}, "client_reference", "bad_length"),
        ({"client_reference": 42}, "client_reference", "not_a_string"),
        ({"client_reference": "\0"}, "client_reference", "nul_character"),
        ({"client_reference": "\udfff"}, "client_reference", "invalid_unicode"),
        ({"sent_at": "2026-01-31"}, "sent_at", "not_rfc3339"),
        ({"sent_at": "2026-01-31T12:00:00"}, "sent_at", "not_rfc3339"),
        ({"sent_at": "2026-01-31 12:00:00Z"}, "sent_at", "not_rfc3339"),
        ({"sent_at": "2026-02-30T12:00:00Z"}, "sent_at", "not_rfc3339"),
        ({"sent_at": "2026-01-31T25:00:00Z"}, "sent_at", "not_rfc3339"),
        ({"sent_at": "2026-01-31T12:00:00+99:00"}, "sent_at", "not_rfc3339"),
        ({"sent_at": "0001-01-01T00:00:00+01:00"}, "sent_at", "not_rfc3339"),
        ({"sent_at": "٢٠٢٦-01-31T12:00:00Z"}, "sent_at", "not_rfc3339"),
        ({"sent_at": 1_700_000_000}, "sent_at", "not_rfc3339"),
        ({"sent_at": ""}, "sent_at", "not_rfc3339"),
        ({"sender": NUMBER}, "sender", "unknown_field"),
        ({"Message_body": "x"}, "Message_body", "unknown_field"),
        ({"": 1}, "", "unknown_field"),
        ({"x" * 100: 1}, "x" * 64, "unknown_field"),
    ],
)
def test_each_fault_has_its_field_and_code(change: dict[str, Any], field: str, code: str) -> None:
    message = {name: value for name, value in {**GOOD, **change}.items() if value is not ...}

    result = check(message)

    assert isinstance(result, Invalid)
    assert [(error.field, error.code) for error in result.errors] == [(field, code)]
    assert result.errors[0].detail


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", [], [GOOD]])
def test_what_is_no_object_is_told_so(value: Any) -> None:
    result = check(value)

    assert isinstance(result, Invalid)
    assert [error.code for error in result.errors] == ["not_an_object"]


def test_every_wrong_field_is_told_at_once() -> None:
    result = check({"sender_number": "x", "client_reference": "", "sent_at": "x", "extra": 1})

    assert isinstance(result, Invalid)
    assert {error.field for error in result.errors} == {
        "extra",
        "sender_number",
        "message_body",
        "client_reference",
        "sent_at",
    }


def test_the_answer_does_not_grow_with_the_nonsense() -> None:
    result = check({**GOOD, **{f"field{number}": 1 for number in range(10_000)}})

    assert isinstance(result, Invalid)
    assert len(result.errors) == 10


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
fields = st.sampled_from(["sender_number", "message_body", "client_reference", "sent_at"])
almost = st.dictionaries(
    fields | st.text(st.characters()), json_values | st.just(NUMBER) | st.from_regex(r"\A\d{4}-\d\d-\d\dT.{0,20}\Z")
)


@given(json_values | almost)
def test_no_json_value_breaks_the_judge_or_its_answer(value: Any) -> None:
    result = check(value)

    if isinstance(result, Invalid):
        assert result.errors
        assert Problem("invalid_message", "Broken.", result.errors).body()
    else:
        assert result.sent_at is None or result.sent_at.tzinfo is UTC


@pytest.mark.parametrize("number", ["+4901512345678", "+4401512345678", "+49015200000000"])
def test_a_number_with_its_national_zero_is_refused_because_nobody_would_find_it(number):
    (error,) = check({"sender_number": number, "message_body": "x"}).errors
    assert (error.field, error.code) == ("sender_number", "no_such_number")
