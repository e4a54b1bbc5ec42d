from django.db import migrations

PORTION = 10_000


def note_what_is_there(apps, schema_editor):
    """Have every stored message wait for the index: the jobs process works through them.

    A portion is a transaction of its own, and what waits already is left alone: cut short, `migrate` goes on with it.
    """
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT MIN(id), MAX(id) FROM registry_message")
        first, last = cursor.fetchone()
        if first is None:
            return
        for start in range(first, last + 1, PORTION):
            cursor.execute(
                """
                INSERT INTO registry_unindexed (message_id)
                SELECT id FROM registry_message
                WHERE id >= %s AND id < %s
                AND NOT EXISTS (SELECT 1 FROM registry_unindexed WHERE message_id = registry_message.id)
                """,
                [start, start + PORTION],
            )


class Migration(migrations.Migration):

    # Apart from the tables, and not in one transaction: ten million rows would be one very long one.
    atomic = False

    dependencies = [
        ('registry', '0004_search_index'),
    ]

    operations = [
        migrations.RunPython(note_what_is_there, migrations.RunPython.noop),
    ]
