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
DATABASE_CA_FILE = env.text(
    "DATABASE_CA_FILE",
    "",
    "Who must have signed the certificate of MySQL or MariaDB, PEM; it switches TLS on and verifies the name.",
)
DATABASE_CERTIFICATE_FILE = env.text(
    "DATABASE_CERTIFICATE_FILE", "", "Certificate to show to the database, PEM, if it wants one."
)
DATABASE_KEY_FILE = env.text("DATABASE_KEY_FILE", "", "Private key of DATABASE_CERTIFICATE_FILE, PEM.")
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
    # Each of a server's threads keeps its connection, and asks first whether it still stands.
    _default["CONN_MAX_AGE"], _default["CONN_HEALTH_CHECKS"] = 60, True
    if DATABASE_CA_FILE:
        # Encrypted or not at all, for this host alone: the client library's default is to go on without.
        _files = {"ca": DATABASE_CA_FILE, "cert": DATABASE_CERTIFICATE_FILE, "key": DATABASE_KEY_FILE}
        _default["OPTIONS"]["ssl"] = {name: file for name, file in _files.items() if file}
        _default["OPTIONS"]["ssl_mode"] = "VERIFY_IDENTITY"

DATABASES: dict[str, Any] = {"default": _default}

# The data keys: one door, registry.keyring. Only roles whose settings name this file can import that module.
KEY_FILE = env.path("MSGSYS_KEY_FILE", base.SECRETS_DIR / "keyring.json", "Key ring that encrypts the stored fields.")
KEY_COMMAND = env.arguments(
    "MSGSYS_KEY_COMMAND",
    "Command that writes the key ring to its standard output, in place of the key file; no shell. On Windows a JSON "
    'list: ["C:\\\\Program Files\\\\vault.exe", "read"].',
)
