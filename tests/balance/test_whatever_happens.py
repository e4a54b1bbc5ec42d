"""Whatever happens, in whatever order: what is lost is named, all of it and nothing else."""

import json
import random

import pytest

from registry.models import Message
from tests.balance.conftest import as_ids


class Story:
    """Things that happen to messages, drawn from a seed, and what is true of them."""

    def __init__(self, home, seed):
        self.home = home
        self.random = random.Random(seed)
        self.lost: set[str] = set()
        self.unsettled_rows: set[str] = set()
        self.unwritten: set[str] = set()

    def submit(self):
        self.home.submit(self.random.randrange(1, 5), client=self.random.choice(["alice", "dave"]))

    def be_killed_before_the_line(self):
        (uid,) = self.home.submit(1)
        (file,) = [file for file in self.home.folder.glob("*.log") if uid in file.read_text()]
        file.write_bytes(b"".join(line for line in file.read_bytes().splitlines(True) if uid.encode() not in line))
        self.unwritten.add(uid)

    def deliver(self):
        before = {str(row.uid) for row in Message.objects.all()}
        self.home.deliver(self.random.randrange(1, 6))
        self.unsettled_rows |= {str(row.uid) for row in Message.objects.all()} - before

    def lose_an_entry(self):
        client = self.home.valkey.client
        entries = client.lrange("deliver", 0, -1)
        if entries:
            entry = self.random.choice(entries)
            client.lrem("deliver", 1, entry)
            envelope = json.loads(entry)["headers"]["id"]
            self.lost |= set(self.ids_of(envelope))

    def ids_of(self, envelope):
        lines = [line.split() for file in self.home.folder.glob("*.log") for line in file.read_text().splitlines()]
        return [line[1] for line in lines if line[0] == envelope]

    def lose_a_row(self):
        if self.unsettled_rows:
            uid = self.random.choice(sorted(self.unsettled_rows))
            Message.objects.filter(uid__in=as_ids(uid)).delete()
            self.unsettled_rows.discard(uid)
            self.lost |= {uid} - self.unwritten

    def hold(self):
        client = self.home.valkey.client
        if entry := client.rpop("deliver"):
            client.zadd("deliver.workers", {"w": 1.0})
            client.hset("deliver.held:w", json.loads(entry)["properties"]["delivery_tag"], entry)

    def give_back(self):
        client = self.home.valkey.client
        for tag, entry in client.hgetall("deliver.held:w").items():
            client.rpush("deliver", entry)
            client.hdel("deliver.held:w", tag)

    def die(self):
        client = self.home.valkey.client
        if entry := client.rpop("deliver"):
            client.hset("deliver.dead_letters", json.loads(entry)["headers"]["id"], json.dumps({"entry": "x"}))

    def compare(self):
        self.home.balance()
        # Settled now: who takes them away from here on is found by `reconcile`.
        self.unsettled_rows.clear()

    def restart(self):
        self.home.restart()

    def happen(self, times):
        steps = [self.submit, self.submit, self.deliver, self.deliver, self.lose_an_entry, self.lose_a_row]
        steps += [self.be_killed_before_the_line, self.hold, self.give_back, self.die, self.compare, self.restart]
        for _ in range(times):
            self.random.choice(steps)()


@pytest.mark.parametrize("seed", range(10))
def test_what_is_lost_is_named_and_nothing_else(home, seed):
    story = Story(home, seed)
    story.happen(40)
    assert home.balance(2).unaccounted == len(story.lost)
    assert home.missing == story.lost
    story.give_back()
    home.deliver()
    home.balance(2)
    assert home.missing == story.lost
