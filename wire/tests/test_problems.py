"""Problem details: one shape, stable codes."""

import json
from http import HTTPStatus

import pytest

from wire.problems import CODES, FieldError, Problem, retry_later


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_an_error_status_and_a_title(code: str) -> None:
    status, title = CODES[code]

    assert 400 <= HTTPStatus(status) < 600
    assert title
    assert code.replace("_", "").isalpha()
    assert code == code.lower()


def test_the_body_has_the_members_of_rfc_9457() -> None:
    problem = Problem("too_large", "At most 10 bytes.")

    assert json.loads(problem.body()) == {
        "type": "urn:msgsys:problem:too_large",
        "title": "The request is too large",
        "status": 413,
        "code": "too_large",
        "detail": "At most 10 bytes.",
    }


def test_field_errors_are_listed() -> None:
    problem = Problem("invalid_message", "Broken.", [FieldError("sent_at", "not_rfc3339", "Write it so.")])

    assert json.loads(problem.body())["errors"] == [
        {"field": "sent_at", "code": "not_rfc3339", "detail": "Write it so."}
    ]


def test_what_a_client_sent_never_breaks_the_answer() -> None:
    """JSON can spell a lone surrogate as an escape; UTF-8 cannot."""
    name = json.loads('"\\ud800"')

    body = Problem("invalid_message", "Broken.", [FieldError(name, "unknown_field", name)]).body()

    assert json.loads(body.decode("utf-8"))["errors"][0]["field"] == "?"


@pytest.mark.parametrize(("seconds", "header"), [(30, "30"), (0, "1"), (-5, "1")])
def test_a_temporary_problem_says_when_to_try_again(seconds: int, header: str) -> None:
    assert retry_later("queue_full", "Later.", seconds).headers == {"Retry-After": header}


def test_a_problem_reads_as_its_code_and_detail_in_a_log() -> None:
    assert str(Problem("not_found", "Nothing here.")) == "not_found: Nothing here."
