from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.running import eventually

pytestmark = pytest.mark.system


def test_the_same_key_fifty_times_in_parallel_is_one_row(installation):
    def once(_: int):
        with installation.session() as session:
            return installation.submit(session, "only once", **{"Idempotency-Key": "fifty"})

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(once, range(50)))
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert accepted
    assert len({answer.json()["id"] for answer in accepted}) == 1
    assert {answer.status_code for answer in answers} <= {202, 409}
    staff = installation.staff()

    def rows():
        return [message for message in installation.messages(staff) if message["message_body"] == "only once"]

    eventually(rows, within=10)
    assert len(rows()) == 1
