"""Write .env.example from the settings as the code declares them: `python -m msgsys_project.environment_example`."""

import importlib
import textwrap
from pathlib import Path

MODULES = ("base", "queue", "registry_api", "database", "ingest", "worker", "registry", "portal", "operator")
HEAD = """\
# Every setting, with its default. Copy to .env and change what you need; an empty value means the default.
# Secrets are better kept in files: each NAME below that has a NAME_FILE is read from there.
"""


def text() -> str:
    """Return the content of .env.example."""
    for module in MODULES:
        importlib.import_module(f"msgsys_project.settings.{module}")
    from msgsys_project.environment import DECLARED

    entries = [f"{_comment(setting.help)}\n{name}={setting.default}\n" for name, setting in sorted(DECLARED.items())]
    return "\n".join([HEAD, *entries])


def _comment(help: str) -> str:
    return textwrap.fill(help, width=110, initial_indent="# ", subsequent_indent="# ")


if __name__ == "__main__":
    Path(__file__).resolve().parent.parent.joinpath(".env.example").write_text(text(), encoding="utf-8")
