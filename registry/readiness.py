"""Can the database be asked?"""

from django.db import connection


def database() -> None:
    """Raise when the message table cannot be read."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM registry_message LIMIT 1")
            cursor.fetchone()
    finally:
        # The check runs in a thread of its own; its connection would be nobody's.
        connection.close()
