"""Where messages are kept: for the registry, its jobs and the portal only."""

from typing import Any

import dj_database_url

from msgsys_project import environment as env
from msgsys_project.settings import base

_url = env.secret(
    "DATABASE_URL",
    base.SECRETS_DIR / "database_url",
    "mysql://user:password@host:3306/name, or sqlite:///path. Empty: SQLite under MSGSYS_HOME.",
)
_default: Any = dj_database_url.parse(_url or f"sqlite:///{base.HOME / 'msgsys.sqlite3'}")

if _default["ENGINE"].endswith("sqlite3"):
    # IMMEDIATE: a writer queues for the lock at BEGIN instead of failing at its first write.
    _default["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
    }
else:
    _default["OPTIONS"] = {
        **_default.get("OPTIONS", {}),
        "charset": "utf8mb4",
        "connect_timeout": 5,
        "init_command": "SET sql_mode='STRICT_ALL_TABLES', innodb_strict_mode=1",
        "isolation_level": "read committed",
    }

DATABASES: dict[str, Any] = {"default": _default}

# The data keys: one door, registry.keyring. Only roles whose settings name this file can import that module.
KEY_FILE = env.path("MSGSYS_KEY_FILE", base.SECRETS_DIR / "keyring.json", "Key ring that encrypts the stored fields.")
