"""Code with a path of its own for Windows: files that are open cannot be replaced, and there are no signals.

Each test is a program that runs there.
"""

import pytest

pytestmark = pytest.mark.windows

SECRETS = """
import sys
from pathlib import Path
from certs_app.files import UnsafeFile, read_secret, write_secret

file = Path(sys.argv[1]) / "neue Schlüssel 鍵" / "key"
write_secret(file, b"first")
try:
    write_secret(file, b"second")
except FileExistsError:
    print("not overwritten")
write_secret(file, b"third", replace=True)
print(read_secret(file).decode())
try:
    read_secret(file.parent)
except UnsafeFile:
    print("a folder is no secret")
print(*(one.name for one in file.parent.iterdir()))
"""

REPLACED_WHILE_READ = """
import sys
from pathlib import Path
from threading import Timer
from certs_app.files import write_atomic

file = Path(sys.argv[1]) / "list"
write_atomic(file, b"old")
reader = file.open("rb")
try:
    file.with_name("other").write_bytes(b"")
    file.with_name("other").replace(file)
except PermissionError:
    print("as long as it is read, it stays")
Timer(0.3, reader.close).start()
write_atomic(file, b"new")
print(file.read_text())
"""

SUPERVISED = """
import sys, time
from pathlib import Path
from deploy.supervisor import Child, Supervisor

program = '''
import signal, threading
from deploy import stopping
asked = threading.Event()
stopping.heed()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
print("up", flush=True)
while not asked.wait(0.1): pass
print("finished what it did", flush=True)
'''
log = Path(sys.argv[1]) / "child.log"
child = Child("child", [sys.executable, "-c", program], {"MSGSYS_SUPERVISED": "1"}, log, log)
supervisor = Supervisor(print, lambda: None)
supervisor.start([child])
while "up" not in child.last_words() and child.running():
    time.sleep(0.1)
print(len(supervisor.stop([(["child"], 20.0)])), "still run, exit code", child.process.returncode)
print(child.last_words().splitlines()[-1].strip())
"""


@pytest.fixture
def says(windows, house, tmp_path_factory):
    """Run a program on Windows, with a folder of its own as its argument; return the lines it prints."""

    def run(program: str) -> list[str]:
        folder = tmp_path_factory.mktemp("on windows")
        done = windows.python.run("-c", program, windows.path(folder), **windows.environment())
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_secrets_are_made_once_and_read_in_folders_of_any_name(says):
    assert says(SECRETS) == ["not overwritten", "third", "a folder is no secret", "key"]


def test_a_file_is_replaced_as_soon_as_nobody_reads_it(says):
    assert says(REPLACED_WHILE_READ) == ["as long as it is read, it stays", "new"]


def test_a_supervised_process_is_asked_to_stop_and_finishes(says):
    assert says(SUPERVISED) == ["0 still run, exit code 0", "finished what it did"]
