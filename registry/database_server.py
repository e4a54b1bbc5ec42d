"""What the database is and how it is set, as it says itself: what would lose or mix up data must not begin to."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

# The oldest that the tests' statements are made for. MariaDB 10.6 and MySQL 8.0 change columns and indexes in place.
OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0), "SQLite": (3, 35)}
# A statement of the search index carries up to 1,000 lists of 8 kB.
SMALLEST_PACKET = 16 * 1024 * 1024
LOCAL = {"", "localhost", "127.0.0.1", "::1"}
_VARIABLES = (
    *("sql_mode", "tx_isolation", "transaction_isolation", "max_allowed_packet"),
    *("character_set_connection", "character_set_database"),
)


@dataclass(frozen=True)
class Facts:
    """`variables` are the session's. `other_engines` are tables that InnoDB does not keep."""

    product: str
    version: tuple[int, ...]
    variables: dict[str, str] = field(default_factory=dict)
    other_engines: list[str] = field(default_factory=list)
    is_remote: bool = False
    is_encrypted: bool = False
    is_verified: bool = False


class Finding(NamedTuple):
    """`id` as in system checks: W is a warning, E keeps a role from starting."""

    id: str
    sentence: str
    hint: str


def ask() -> Facts:
    """Ask the database. Raises DatabaseError."""
    with connection.temporary_connection() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT sqlite_version()")
            return Facts("SQLite", tuple(int(part) for part in cursor.fetchone()[0].split(".")))
        return _ask_mysql(connection, cursor)


def _ask_mysql(database: Any, cursor: Any) -> Facts:
    cursor.execute(f"SHOW SESSION VARIABLES WHERE Variable_name IN ({', '.join(['%s'] * len(_VARIABLES))})", _VARIABLES)
    variables = dict(cursor.fetchall())
    cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    cipher = dict(cursor.fetchall()).get("Ssl_cipher")
    cursor.execute(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' AND engine <> 'InnoDB' ORDER BY table_name"
    )
    return Facts(
        product="MariaDB" if database.mysql_is_mariadb else "MySQL",
        version=database.mysql_version,
        variables=variables,
        other_engines=[name for (name,) in cursor.fetchall()],
        is_remote=_is_remote(database),
        is_encrypted=bool(cipher),
        is_verified=database.settings_dict["OPTIONS"].get("ssl_mode") == "VERIFY_IDENTITY",
    )


def _is_remote(database: BaseDatabaseWrapper) -> bool:
    host = database.settings_dict["HOST"]
    # A path is a Unix socket.
    return host not in LOCAL and not host.startswith("/")


def judge(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong."""
    oldest = OLDEST[facts.product]
    if facts.version[:2] < oldest:
        yield Finding(
            "E221",
            f"This is {facts.product} {_dotted(facts.version)}; {_dotted(oldest)} is the oldest supported.",
            "Upgrade the database.",
        )
    if facts.product != "SQLite":
        yield from _judge_variables(facts.variables)
        yield from _judge_tables(facts)
        yield from _judge_connection(facts)


def _judge_variables(variables: dict[str, str]) -> Iterator[Finding]:
    if not {"STRICT_ALL_TABLES", "STRICT_TRANS_TABLES"} & set(variables["sql_mode"].split(",")):
        yield Finding(
            "E222",
            "The database is not in strict mode: it would cut off values that are too long.",
            "Let no proxy and no init_command in DATABASE_URL change sql_mode: it is set when a connection begins.",
        )
    isolation = variables.get("transaction_isolation") or variables.get("tx_isolation")
    if isolation != "READ-COMMITTED":
        yield Finding(
            "E223",
            f"Transactions are isolated by {isolation}, not READ-COMMITTED.",
            "Let no proxy change it: with others, two registries that store the same messages lock each other out.",
        )
    for name in ("character_set_connection", "character_set_database"):
        if variables[name] != "utf8mb4":
            yield Finding(
                "E224",
                f"{name} is {variables[name]}, not utf8mb4.",
                "Before the first migrate: ALTER DATABASE ... CHARACTER SET utf8mb4. Later the tables as well.",
            )
    if int(variables["max_allowed_packet"]) < SMALLEST_PACKET:
        yield Finding(
            "W226",
            f"max_allowed_packet is {variables['max_allowed_packet']}: statements of the search index may be refused.",
            f"Set it to {SMALLEST_PACKET} (16M) or more on the server.",
        )


def _judge_tables(facts: Facts) -> Iterator[Finding]:
    if facts.other_engines:
        yield Finding(
            "E225",
            f"Not kept by InnoDB: {', '.join(facts.other_engines)}.",
            "ALTER TABLE ... ENGINE=InnoDB: other engines have no transactions, so a crash leaves halves.",
        )


def _judge_connection(facts: Facts) -> Iterator[Finding]:
    if not facts.is_remote:
        return
    if not facts.is_encrypted:
        yield Finding(
            "W227",
            "The database is on another machine and is spoken to without TLS.",
            "Set DATABASE_CA_FILE, or the password, names and times travel in the clear.",
        )
    elif not facts.is_verified:
        yield Finding(
            "W228",
            "The certificate of the database's machine is not verified.",
            "Set DATABASE_CA_FILE, or whoever sits between can be the database.",
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
