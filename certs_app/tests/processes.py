"""Run pieces of code in processes of their own, beside each other, on one home with a CA."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings

_BEGIN = """
import json, os, sys
import django
django.setup()
def result(**fields):
    print(json.dumps(fields))
"""
_MAKE_CA = """
from django.core.management import call_command
from django.utils import timezone
from certs_app.audit import Actor
from certs_app.authority import init_ca
call_command("migrate", "certs_app", verbosity=0)
init_ca(timezone.now(), Actor("operator:olga"))
"""
# Imports take long and unevenly; the work begins when both have said that they are ready.
_READY = """
print("ready", flush=True)
sys.stdin.readline()
"""


def run_beside(home: Path, *codes: str, before: str = "") -> None:
    """Make a CA in `home`, run `before`, and then every one of `codes` at the same moment."""
    result_of(home, _MAKE_CA + before)
    started = [_start(home, _READY + code) for code in codes]
    for one in started:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n", _errors(home, one)
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    for one in started:
        one.communicate(timeout=120)
        assert one.returncode == 0, _errors(home, one)


def result_of(home: Path, code: str) -> Any:
    """Run `code` and return what it gave to `result()`, if it did."""
    one = _start(home, code)
    said, _ = one.communicate(timeout=120)
    assert one.returncode == 0, _errors(home, one)
    return json.loads(said.splitlines()[-1]) if said else None


def _start(home: Path, code: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "MSGSYS_HOME": str(home), "DJANGO_SETTINGS_MODULE": "msgsys_project.settings.registry"}
    for name in ("DATABASE_URL", "MSGSYS_ENV_FILE", "MSGSYS_PKI_DIR", "MSGSYS_SECRETS_DIR"):
        environment.pop(name, None)
    # Not a pipe: whoever logs more than a pipe holds would wait for the other to be read first.
    with tempfile.NamedTemporaryFile(dir=home, delete=False) as errors:
        started = subprocess.Popen(
            [sys.executable, "-c", _BEGIN + code],
            text=True,
            env=environment,
            cwd=settings.BASE_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    Path(errors.name).rename(_log(home, started))
    return started


def _log(home: Path, process: "subprocess.Popen[str]") -> Path:
    return home / f"{process.pid}.log"


def _errors(home: Path, process: "subprocess.Popen[str]") -> str:
    return _log(home, process).read_text(encoding="utf-8")[-4000:]
