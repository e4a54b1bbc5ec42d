"""Where the registry is: for those who call it, ingest and the worker."""

from msgsys_project import environment as env
from msgsys_project.settings.base import ports

REGISTRY_URL = env.text("MSGSYS_REGISTRY_URL", "", "Base URL of the registry. Empty: this machine.") or (
    f"https://localhost:{ports('registry')[0]}"
)
REGISTRY_TIMEOUT = env.integer("MSGSYS_REGISTRY_TIMEOUT", 10, "Seconds to wait for the registry's answer.", minimum=1)
