"""The benchmark's harness works. It measures nothing here: that is for `make bench`."""

import json
import subprocess
import sys

import pytest

from tests.running import ROOT

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc"),
]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bench", "--quick", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)


def test_both_contestants_store_every_message_once_and_the_figures_are_complete(tmp_path):
    """A message too few or too many would end the run with NotExactlyOnce."""
    file = tmp_path / "figures.json"
    size = ("--messages", "300", "--stock-messages", "60", "--outage", "1", "--retry", "2", "--workers", "1,2")
    done = run(*size, "--json", str(file))
    assert done.returncode == 0, done.stderr
    measured = json.loads(file.read_text())
    ran = [(one["contestant"], one["workers"], one["messages"]) for one in measured["rounds"]]
    assert ran == [("ours", 1, 300), ("ours", 2, 300), ("stock", 1, 60)]
    for one in measured["rounds"]:
        assert one["away"]["rss_peak_mb"] >= one["away"]["rss_mb"] > 0
        assert one["drain"]["messages_per_second"] > 0
        assert one["drain"]["registry_us"] > 0
    assert set(measured["ours_to_stock"]) == {"messages_per_second", "worker_us", "registry_us"}
    assert "| ours, 2 workers | 300 |" in done.stdout


def test_without_an_outage_the_registry_is_there_first():
    done = run("--messages", "200", "--outage", "0", "--only", "ours")
    assert done.returncode == 0, done.stderr
    assert "| ours | 200 | - | - | - |" in done.stdout


def test_registering_is_measured_beside_raw_inserts_of_the_same_rows(tmp_path, start_mariadb):
    """It makes its own MariaDB: the fixture skips where there is none. Ends with NotAllStored if a row is missing."""
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.registering", "--quick", "--messages", "200", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    summary = json.loads(file.read_text())["summary"]
    assert [one["contestant"] for one in summary] == ["100 in an envelope", "1 in an envelope", "raw"]
    assert summary[-1]["of_raw"] == 1
    assert all(one["messages_per_second"][1] > 0 for one in summary)
    assert "| raw | 1 |" in done.stdout


def test_searching_is_measured_warm_cold_and_beside_the_naive_ways(tmp_path, start_mariadb):
    """As above. The table is filled by the code that registers and indexes, and every hit is opened and compared."""
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.searching", "--messages", "1500", "--cold", "1", "--plain-tokens"]
    done = subprocess.run([*command, "--json", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    asked = {name: one for name, one in figures["questions"].items() if "cold" in one}
    assert {"no filter", "sender, rare", "last 4 digits", "one rare word", "word + 30 days + status"} <= set(asked)
    assert all(one["p95"] >= one["p50"] > 0 and one["cold"] > 0 for one in asked.values())
    naive = set(figures["questions"]) - set(asked)
    assert len(naive) == 4
    assert figures["bytes_per_message"]["registry_search_posting.PRIMARY"] > 0
