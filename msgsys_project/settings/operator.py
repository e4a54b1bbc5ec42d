"""The person at the terminal, who runs `manage.py`: the registry's, the portal's and the queue's settings together.

No network-facing process runs under this module.
"""

import secrets

from msgsys_project import environment as env
from msgsys_project import logs
from msgsys_project.settings.base import HOME as HOME
from msgsys_project.settings.base import LOGGING
from msgsys_project.settings.base import SECRETS_DIR as SECRETS_DIR
from msgsys_project.settings.portal import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.portal import INSTALLED_APPS as PORTAL_APPS
from msgsys_project.settings.portal import SECRET_KEY as PORTAL_SECRET_KEY
from msgsys_project.settings.queue import *  # noqa: F403  as above
from msgsys_project.settings.registry import CA_KEYS_DIR as CA_KEYS_DIR
from msgsys_project.settings.registry import CERTIFICATE_ACTIVITY as CERTIFICATE_ACTIVITY
from msgsys_project.settings.registry import CRL_HOURS as CRL_HOURS
from msgsys_project.settings.registry import CRL_REISSUE_MINUTES as CRL_REISSUE_MINUTES
from msgsys_project.settings.registry import LEDGER_DAYS as LEDGER_DAYS
from msgsys_project.settings.registry import RETENTION_DAYS as RETENTION_DAYS
from msgsys_project.settings.registry import RETENTION_FILE as RETENTION_FILE
from msgsys_project.settings.registry import ROOT_KEY_PASSPHRASE as ROOT_KEY_PASSPHRASE
from msgsys_project.settings.registry import SEALING_KEY_FILE as SEALING_KEY_FILE

ROLE = "operator"
INSTALLED_APPS = [*PORTAL_APPS, "ingest"]
LOGGING = logs.with_record(LOGGING, HOME / "logs" / "ca.log")
# A person has no certificate of a role: the checks of served roles are not theirs.
SERVER_CERTIFICATE = None  # type: ignore[assignment]  # the one role without
CLIENT_CERTIFICATE = None  # type: ignore[assignment]  # as above

# Before the first `up` there is no key, yet Django refuses to run commands without one, the CA's among them. Commands
# sign nothing; should one ever, nobody can forge what a key made for this process alone has signed.
SECRET_KEY = PORTAL_SECRET_KEY or secrets.token_urlsafe(48)

ADMIN_USER = env.text("ADMIN_USER", "admin@example.com", "Name of the first portal administrator, made by `up`.")
ADMIN_PASS = env.secret(
    "ADMIN_PASS",
    SECRETS_DIR / "admin_password",
    "Password of the first administrator. Empty: `up` makes one and shows it.",
)
