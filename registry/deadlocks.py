"""Deadlocks: MySQL ends one of two transactions that wait for each other, and expects it to be tried again."""

from collections.abc import Callable
from typing import TypeVar

from django.db import DatabaseError, transaction

TRIES = 5
_MYSQL_DEADLOCK = 1213

Result = TypeVar("Result")


def is_deadlock(error: DatabaseError) -> bool:
    return error.args[:1] == (_MYSQL_DEADLOCK,)


def retried(work: Callable[[], Result]) -> Result:
    """Do `work` in one transaction, and after a deadlock from the beginning in another. Returns what it returns."""
    for tries_left in reversed(range(TRIES)):
        try:
            with transaction.atomic():
                return work()
        except DatabaseError as error:
            if not tries_left or not is_deadlock(error):
                raise
    raise AssertionError("the last try returned or raised")
