"""Ingest accepts only what the registry will take: its own certificate must stand."""

import shutil

from ingest.tests.conftest import Call
from ingest.tests.malformed import GOOD
from ingest.tests.test_accepting import queued


def refusal(answer) -> tuple[int, str]:
    return answer.status, answer.json()["code"]


def test_with_a_revoked_signing_certificate_nothing_is_accepted(people, valkey, accept_path, drf_view):
    alice = people.peer("alice")
    people.revoke("ingest")
    for door in (accept_path, drf_view):
        (answer,) = door([Call(body=GOOD)], alice)
        assert refusal(answer) == (503, "signing_unavailable")
        assert "retry-after" in answer.headers
    assert valkey.client.llen("deliver") == 0


def test_without_its_key_ingest_says_so(people, valkey, accept_path):
    (people.folder / "ingest-client.key").unlink()
    (answer,) = accept_path([Call(body=GOOD)], people.peer("alice"))
    assert refusal(answer) == (503, "signing_unavailable")


def test_a_renewed_certificate_is_taken_up_without_a_restart(people, valkey, drf_view):
    alice = people.peer("alice")
    assert drf_view([Call(body=GOOD)], alice)[0].status == 202
    people.issue("ingest", "ingest", usage="client")
    assert drf_view([Call(body=GOOD)], alice)[0].status == 202
    newest, _ = valkey.client.lrange("deliver", 0, -1)
    valkey.client.delete("deliver")
    valkey.client.lpush("deliver", newest)
    assert len(queued(valkey)) == 1, "signed by the new certificate's key"


def test_a_half_replaced_pair_leaves_the_last_good_one_in_use(people, valkey, drf_view, settings, caplog):
    alice = people.peer("alice")
    old = people.folder / "old.crt"
    shutil.copy(people.folder / "ingest-client.crt", old)
    assert drf_view([Call(body=GOOD)], alice)[0].status == 202
    other = people.issue("ingest", "ingest", usage="client", csr=b"")
    shutil.copy(old, people.folder / "ingest-client.crt")
    assert other.key_pem, "the new key is in place, the old certificate beside it"
    assert drf_view([Call(body=GOOD)], alice)[0].status == 202
    assert "cannot be used" not in caplog.text, "a pair that is being replaced is no error"
    shutil.copy(old, settings.CLIENT_CERTIFICATE["certificate"])
    assert len(queued(valkey)) == 2, "both are signed by the key that fits"
