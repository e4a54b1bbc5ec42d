"""Processes that do not do as they are told."""

import subprocess
import sys
import time

import pytest

from deploy.supervisor import Child, Supervisor

IGNORES_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)


@pytest.fixture
def supervisor():
    supervised = Supervisor(lambda line: None, lambda: None)
    yield supervised
    for child in supervised.children:
        if child.process is not None:
            child.process.kill()
            child.finish(time.monotonic() + 5)


def child(name, tmp_path, program):
    return Child(name, [sys.executable, "-c", program], {}, tmp_path / f"{name}.log", tmp_path / f"{name}.stderr.log")


def prints(child, text):
    deadline = time.monotonic() + 10
    while text not in child.last_words():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_that_ignores_the_request_is_killed(supervisor, tmp_path):
    stubborn = child("stubborn", tmp_path, IGNORES_SIGTERM)
    supervisor.start([stubborn])
    prints(stubborn, "up")
    assert supervisor.stop([(("stubborn",), 0.2)]) == []
    assert not stubborn.running()


def test_one_that_outlives_even_that_is_named_and_the_others_are_stopped(supervisor, tmp_path, monkeypatch):
    hanging, other = (child(name, tmp_path, IGNORES_SIGTERM) for name in ("hanging", "other"))
    supervisor.start([hanging, other])
    prints(hanging, "up")

    def times_out(seconds):
        raise subprocess.TimeoutExpired("hanging", seconds)

    # As one does that waits in the kernel, for a dead disk for instance.
    with monkeypatch.context() as patched:
        patched.setattr(hanging.process, "kill", lambda: None)
        patched.setattr(hanging.process, "wait", times_out)
        assert supervisor.stop([(("hanging",), 0.2), (("other",), 0.2)]) == [hanging]
    assert not other.running()


def test_a_restart_keeps_why_the_last_run_ended_and_a_new_start_begins_anew(supervisor, tmp_path):
    crashing = child("crashing", tmp_path, "import os; print(os.getpid(), flush=True); raise SystemExit(1)")
    (tmp_path / "crashing.stderr.log").write_text("of yesterday\n")
    supervisor.start([crashing])
    crashing.process.wait()
    first = str(crashing.pid)
    crashing.start()
    crashing.process.wait()
    assert first in crashing.last_words()
    assert str(crashing.pid) in crashing.last_words()
    assert "yesterday" not in crashing.last_words()


def test_last_words_are_those_of_the_output_and_the_log(supervisor, tmp_path):
    speaking = child("speaking", tmp_path, "")
    speaking.output.write_text("".join(f"line {number}\n" for number in range(100)))
    speaking.log.write_text("as the log has it\n")
    assert "line 99" in speaking.last_words()
    assert "line 84\n" not in speaking.last_words()
    assert speaking.last_words().index("line 99") < speaking.last_words().index("as the log has it")
