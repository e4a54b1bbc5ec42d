"""The docs are true: their commands run, their settings exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from msgsys_project import environment_example
from msgsys_project.environment import BASE_DIR

DOCUMENTS = sorted([BASE_DIR / "README.md", *(BASE_DIR / "docs").rglob("*.md")])
# These two are what runs these tests, and what the system tests run.
ELSEWHERE = {"make up", "make test"}


def commands(document: Path) -> list[str]:
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return [line for line in lines if line.strip() and line not in ELSEWHERE]


@pytest.mark.system
# Some sixty commands, each of which starts Python and Django.
@pytest.mark.timeout(900)
def test_every_command_in_the_docs_runs(installation):
    ran, known = 0, login(installation)
    for document in DOCUMENTS:
        for command in commands(document):
            done = subprocess.run(
                ["bash", "-euc", here(command, installation)],
                env={**installation.environment, **known},
                cwd=BASE_DIR,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, f"{document.name}: {command}\n{done.stdout}{done.stderr}"
            assert "urn:msgsys:problem" not in done.stdout, f"{document.name}: {command}\n{done.stdout}"
            ran += 1
    assert ran > 8


def here(command: str, installation) -> str:
    """Point a documented command at this test's installation."""
    command = command.replace(".venv/bin/python", sys.executable).replace("var/", f"{installation.home}/")
    return re.sub(r"localhost:(\d+)", lambda port: f"localhost:{int(port[1]) + installation.offset}", command)


def login(installation) -> dict[str, str]:
    name, password = installation.ready["admin_user"], installation.ready["admin_password"]
    answer = requests.post(
        f"https://localhost:{8080 + installation.offset}/api/token/",
        json={"username": name, "password": password},
        verify=str(installation.home / "pki" / "ca.crt"),
        timeout=30,
    )
    return {"ADMIN_USER": name, "ADMIN_PASS": password, "TOKEN": answer.json()["access"]}


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_env_example_has_every_setting_with_its_default():
    script = "from msgsys_project import environment_example; print(environment_example.text(), end='')"
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "SYSTEMROOT")}
    made = subprocess.run(
        [sys.executable, "-c", script],
        cwd=BASE_DIR,
        env={**clean, "MSGSYS_ENV_FILE": os.devnull, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (BASE_DIR / ".env.example").read_text(encoding="utf-8") == made, (
        f"run: python -m {environment_example.__name__}"
    )


def test_a_copied_env_example_changes_nothing(tmp_path):
    script = "from django.conf import settings as s; print(s.HOME, s.KEY_FILE, s.PORT, s.REDIS_URL, s.DATABASES)"
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "SYSTEMROOT")}
    shown = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=BASE_DIR,
            env={**clean, "MSGSYS_ENV_FILE": file, "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.operator"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for file in (os.devnull, str(BASE_DIR / ".env.example"))
    ]
    assert shown[0] == shown[1]
