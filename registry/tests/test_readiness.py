from typing import Any

import pytest
from django.db import OperationalError

from registry import readiness
from registry.tests.conftest import all_at_once


def test_a_database_that_answers_is_ready(shared_database):
    assert all_at_once(lambda number: readiness.database(), 1) == [None]


def test_a_database_that_does_not_answer_is_not_ready_and_its_connection_is_closed(monkeypatch):
    class Broken:
        closed = False

        def cursor(self) -> Any:
            raise OperationalError("gone")

        def close(self) -> None:
            self.closed = True

    broken = Broken()
    monkeypatch.setattr(readiness, "connection", broken)
    with pytest.raises(OperationalError):
        readiness.database()
    assert broken.closed
