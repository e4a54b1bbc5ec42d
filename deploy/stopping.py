"""How a process is asked to stop where there are no signals: its standard input ends.

Whoever starts a process with MSGSYS_SUPERVISED set and a pipe to its standard input, as `up` does and a Windows service
can, closes that pipe to stop it. It also closes when its owner dies, so nothing is left behind. On Windows this is all
there is: SIGTERM ends a process there at once, and Ctrl-Break needs a console, which a service has not.
"""

import os
import signal
import subprocess
import sys
from threading import Thread


def request(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process that we started to finish what it is doing and end."""
    if sys.platform != "win32":
        process.terminate()
    elif process.stdin is not None:
        process.stdin.close()


def heed() -> None:
    """From now on, end at a SIGTERM, and at the end of standard input if whoever started this process means it so."""
    if sys.platform == "win32":
        # After uvicorn, which raises the signal again at its end: exit code 3 there, for a stop that went well.
        signal.signal(signal.SIGTERM, _end)
    if os.environ.get("MSGSYS_SUPERVISED"):
        Thread(target=_wait_for_end, name="stop request", daemon=True).start()


def _end(*_signal: object) -> None:
    """End at once, as the signal does on POSIX: leaving by sys.exit would wait for a thread that hangs."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a service has none
            stream.flush()
    os._exit(0)


def _wait_for_end() -> None:
    # Not sys.stdin: its lock would be held by this thread when the interpreter shuts down.
    while os.read(0, 1):
        pass
    if sys.platform == "win32":
        # Runs the handler that Python, uvicorn or Celery has set; os.kill would end the process.
        signal.raise_signal(signal.SIGTERM)
    else:
        # To the process, not to this thread: only that wakes a main thread that sleeps.
        os.kill(os.getpid(), signal.SIGTERM)
