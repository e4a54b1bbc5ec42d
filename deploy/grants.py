"""Which database user may do what with which table: the one list, of which `database_grants` makes the statements.

A table that is not in it is nobody's but `migrate`'s: the tests miss the decision.
"""

from collections.abc import Iterator

READ = ("SELECT",)
ADD = ("SELECT", "INSERT")
KEEP = ("SELECT", "INSERT", "UPDATE", "DELETE")
NOTHING: tuple[str, ...] = ()

# What `migrate`, and whoever runs manage.py's other commands, may do with the whole database.
MIGRATE = (*KEEP, "CREATE", "ALTER", "DROP", "INDEX", "REFERENCES")

REGISTRY, PORTAL, MIGRATING = "registry", "portal", "migrate"

# Table: rights of the registry and its jobs, rights of the portal.
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "registry_message": (KEEP, READ),
    "registry_alias": (KEEP, READ),
    "registry_statusevent": (KEEP, READ),
    "registry_unindexed": (KEEP, READ),
    "registry_search_run": (KEEP, READ),
    "registry_search_posting": (KEEP, READ),
    "registry_deadletterreport": (KEEP, READ),
    "registry_deadletter": (KEEP, READ),
    "registry_queuereport": (KEEP, READ),
    "registry_removed": (KEEP, NOTHING),
    # The portal, too, finds values that do not open.
    "registry_unreadable": (KEEP, ADD),
    "registry_canary": (KEEP, READ),
    "registry_checkpoint": (KEEP, NOTHING),
    # The CA: the portal shows all of it. What was issued, and the record of it, is never taken away; old lists are.
    "certs_app_issuer": (("SELECT", "INSERT", "UPDATE"), READ),
    "certs_app_certificate": (("SELECT", "INSERT", "UPDATE"), READ),
    "certs_app_crl": (KEEP, READ),
    "certs_app_auditevent": (ADD, READ),
    # The portal's own: who may sign in, who has, and what administrators changed.
    "auth_user": (NOTHING, KEEP),
    "auth_group": (NOTHING, KEEP),
    "auth_user_groups": (NOTHING, KEEP),
    "auth_user_user_permissions": (NOTHING, KEEP),
    "auth_group_permissions": (NOTHING, KEEP),
    "auth_permission": (NOTHING, READ),
    "django_content_type": (NOTHING, READ),
    "django_session": (NOTHING, KEEP),
    "django_admin_log": (NOTHING, ADD),
    "django_migrations": (NOTHING, NOTHING),
}


def rights() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return {user: {table: rights}}; the table * is the whole database."""
    return {
        MIGRATING: {"*": MIGRATE},
        REGISTRY: {table: registry for table, (registry, _) in TABLES.items() if registry},
        PORTAL: {table: portal for table, (_, portal) in TABLES.items() if portal},
    }


def statements(user: str, database: str, host: str) -> Iterator[str]:
    """Yield the GRANT statements for one of our users, who exists as 'msgsys_<user>'@'<host>'."""
    for table, allowed in rights()[user].items():
        yield f"GRANT {', '.join(allowed)} ON {_place(database, table)} TO 'msgsys_{user}'@'{host}';"


def _place(database: str, table: str) -> str:
    if table != "*":
        return f"`{database}`.`{table}`"
    # For a whole database its name is a pattern, in which _ is any character.
    pattern = database.replace("_", r"\_")
    return f"`{pattern}`.*"
