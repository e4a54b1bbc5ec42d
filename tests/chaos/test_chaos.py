"""The short chaos. MSGSYS_CHAOS_SEED and MSGSYS_CHAOS_FAULTS change it; `make chaos` is the long one."""

import contextlib
import os
import random
import re
import sqlite3
from pathlib import Path
from uuid import UUID

import pytest

from tests.chaos import drama, plan
from tests.chaos.drama import Drama, Figures, Reporter, Violated
from tests.chaos.faults import BY_NAME

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(900)]

SEED = int(os.environ.get("MSGSYS_CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
FAULTS = int(os.environ.get("MSGSYS_CHAOS_FAULTS", "14"))
MESSAGES_PER_FAULT = 120
# Quick ones, which need nothing installed and hit where messages change hands.
SHORT = ["kill-worker", "term-worker", "kill-ingest", "kill-registry", "kill-redis", "term-redis", "reset-before-reply"]
SHORT += ["reset-in-reply", "registry-500", "registry-429", "registry-garbage", "two-workers"]


def test_faults_under_load_lose_and_double_nothing_and_a_row_that_is_gone_is_missed(tmp_path: Path) -> None:
    print(f"chaos: seed {SEED}, {FAULTS} faults")
    among = [BY_NAME[name] for name in SHORT]
    figures = Figures(SEED, "everysec")
    with (
        drama.on_stage(tmp_path, among, figures.fsync) as scene,
        contextlib.closing(Drama(scene, figures, Reporter())) as played,
    ):
        played.play(plan.draw(SEED, FAULTS, FAULTS * MESSAGES_PER_FAULT, among))
        assert figures.faults.total() == FAULTS
        assert figures.accepted == figures.stored == FAULTS * MESSAGES_PER_FAULT
        assert (figures.lost, figures.doubled, figures.unknown, figures.dead) == (0, 0, 0, 0)

        gone = scene.load.ids()[0]
        delete(tmp_path / "msgsys.sqlite3", UUID(gone))
        with pytest.raises(Violated, match=re.escape(f"1 accepted, but nowhere: {gone}")):
            played.check()


def delete(database: Path, uid: UUID) -> None:
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        assert connection.execute("DELETE FROM registry_message WHERE uid = ?", [uid.bytes]).rowcount == 1
