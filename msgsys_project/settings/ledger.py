"""The ledger of what ingest accepted, and how often it is compared: for ingest only."""

from msgsys_project import environment as env
from msgsys_project.settings.base import HOME

LEDGER_DIR = env.path("MSGSYS_LEDGER_DIR", HOME / "ledger", "Ingest's record of what it accepted.")
LEDGER_DAYS = env.integer("MSGSYS_LEDGER_DAYS", 400, "Days the hourly totals of what was accepted are kept.", minimum=3)
BALANCE_SECONDS = env.integer(
    "MSGSYS_BALANCE_SECONDS",
    60,
    "Seconds between comparisons of what ingest accepted with what is stored, queued and dead.",
    minimum=1,
    maximum=3600,
)
