"""Of the processes that serve one home, one compares; the next takes over when it ends."""

import os
import subprocess
import sys
import time

import pytest

from msgsys_project.environment import BASE_DIR
from tests.running import eventually

# Says so when its turn has come, instead of comparing.
SCRIPT = """
import django
django.setup()
from ingest import balance
balance._pass = lambda sheet: print("compares", flush=True)
balance._run()
"""


class Process:
    """A process of ingest; what it says goes into a file."""

    def __init__(self, home, name):
        environment = {**os.environ, "MSGSYS_HOME": str(home), "MSGSYS_BALANCE_SECONDS": "1"}
        environment |= {"DJANGO_SETTINGS_MODULE": "msgsys_project.settings.ingest", "MSGSYS_ENV_FILE": os.devnull}
        self._said = home / name
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT], cwd=BASE_DIR, env=environment, stdout=said, stderr=said
            )

    def compares(self):
        return "compares" in self._said.read_text()

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def two(tmp_path):
    processes = [Process(tmp_path, "first"), Process(tmp_path, "second")]
    yield processes
    for one in processes:
        one.kill()


def test_one_process_of_a_home_compares(two):
    eventually(lambda: any(one.compares() for one in two), within=30)
    # Long enough for both to have begun.
    time.sleep(3)
    (other,) = [one for one in two if not one.compares()]
    (first,) = [one for one in two if one.compares()]
    first.kill()
    eventually(other.compares, within=30)
