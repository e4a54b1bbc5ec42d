"""A key ring that is not the data's is found at the start, before anything is read or written with it."""

import base64
import json
from dataclasses import replace

import pytest
from django.core.checks import run_checks
from django.utils import timezone

from certs_app.files import write_secret
from registry import canaries, key_document, keyring
from registry.key_document import ENCRYPTION, INDEX, PRIMARY, KeyRingError
from registry.keyring import ring
from registry.models import Canary, Message
from registry.tests.conftest import NOW, Column, until

pytestmark = pytest.mark.django_db


def problems():
    return [(one.id, one.msg) for one in run_checks(tags=["canaries"])]


def put(file, document):
    write_secret(file, key_document.encode(document), replace=True)


@pytest.fixture(params=["registry", "jobs", "portal"])
def role(request, settings):
    settings.ROLE = request.param
    return request.param


@pytest.fixture
def made(key_file, role):
    """A key file whose canaries are made."""
    canaries.make_missing(timezone.now())
    return key_file


def test_there_is_one_of_each_key_and_it_fits(made):
    canaries.make_missing(timezone.now())
    assert sorted(Canary.objects.values_list("kind", "key_id")) == [(ENCRYPTION, 1), (INDEX, 1)]
    assert problems() == []


def test_nothing_is_compared_before_there_are_any(key_file, role):
    assert problems() == []
    assert not Canary.objects.exists(), "checking makes none: the portal may not write"


@pytest.mark.parametrize("kind", [ENCRYPTION, INDEX])
def test_the_key_file_of_another_installation_is_e211(made, kind):
    document = json.loads(made.read_text())
    document[kind] = json.loads(key_document.encode(key_document.first(NOW)))[kind]
    write_secret(made, json.dumps(document).encode(), replace=True)
    ((number, message),) = problems()
    assert number == "msgsys.E211"
    assert f"{kind} key 1" in message


def test_a_key_that_data_was_written_with_and_that_is_gone_is_e212(made):
    document = keyring.document()
    both, _ = document.add(ENCRYPTION, NOW)
    put(made, both)
    canaries.make_missing(NOW, keyring.load(made))
    put(made, document)
    assert problems() == [("msgsys.E212", "The encryption key 2 is missing, and data was written with it.")]


def test_a_retired_key_is_still_compared_and_a_destroyed_one_no_more(made):
    both, _ = keyring.document().add(ENCRYPTION, NOW)
    put(made, both)
    canaries.make_missing(NOW, keyring.load(made))
    retired = both.retire(ENCRYPTION, 2, NOW)
    put(made, retired)
    assert problems() == []
    other = key_document.first(NOW).add(ENCRYPTION, NOW)[0].encryption[2].material
    content = json.loads(key_document.encode(retired))
    content["encryption"]["keys"]["2"]["key"] = base64.b64encode(other).decode()
    write_secret(made, json.dumps(content).encode(), replace=True)
    assert [number for number, _ in problems()] == ["msgsys.E211"]
    put(made, retired.destroy(ENCRYPTION, 2, NOW))
    assert problems() == []


def test_a_canary_of_another_key_does_not_pass(made):
    Canary.objects.filter(kind=ENCRYPTION).update(value=Canary.objects.get(kind=INDEX).value)
    assert [number for number, _ in problems()] == ["msgsys.E211"]


def test_an_operator_starts_with_whatever_there_is(made, settings):
    settings.ROLE = "operator"
    put(made, key_document.first(NOW))
    assert problems() == []


def test_each_problem_says_what_to_do(made):
    put(made, key_document.first(NOW))
    assert all("backup" in one.hint for one in run_checks(tags=["canaries"]))


@pytest.fixture
def upgraded(key_file, role, stored):
    """Data, and no canary yet: the version before had none. Key 1 has sealed the oldest row, key 2 the newest."""
    stored()
    document = keyring.document()
    for kind in (ENCRYPTION, INDEX):
        document = document.add(kind, NOW)[0].promote(kind, 2, NOW)
    put(key_file, document)
    until(lambda: (ring().encryption.primary, ring().index.primary) == (2, 2))
    stored()
    return key_file


def test_data_without_canaries_gets_them_of_its_own_keys(upgraded):
    assert problems() == []
    canaries.make_missing(NOW)
    assert Canary.objects.count() == 4
    assert problems() == []


def test_the_first_canary_is_not_made_of_another_installations_keys(upgraded, settings, tmp_path):
    settings.KEY_FILE = tmp_path / "other" / "keyring.json"
    keyring.create(settings.KEY_FILE)
    assert problems() == [("msgsys.E211", "The encryption key 1 is not the one that the data was written with.")]
    with pytest.raises(KeyRingError, match="encryption key 1 is not the one"):
        canaries.make_missing(NOW)
    assert not Canary.objects.exists()


@pytest.mark.parametrize("wrong", [(ENCRYPTION, 1), (ENCRYPTION, 2), (INDEX, None)])
def test_the_first_canary_is_made_of_no_key_that_rows_contradict(upgraded, settings, tmp_path, wrong):
    kind, key_id = wrong
    content = json.loads(upgraded.read_text())
    for number, key in content[kind]["keys"].items():
        if key_id in (int(number), None):
            key["key"] = base64.b64encode(bytes(32)).decode()
    settings.KEY_FILE = tmp_path / "other" / "keyring.json"
    write_secret(settings.KEY_FILE, json.dumps(content).encode())
    told = f"{kind} key {key_id or 2} is not the one that the data was written with"
    assert problems() == [("msgsys.E211", f"The {told}.")]
    with pytest.raises(KeyRingError, match=told):
        canaries.make_missing(NOW)
    assert not Canary.objects.exists()


def test_keys_of_which_none_is_the_rows_are_found_where_the_rows_name_others(upgraded, settings, tmp_path):
    document = keyring.document()
    alone = replace(document, encryption={1: replace(document.encryption[1], state=PRIMARY)})
    Message.objects.order_by("id").first().delete()
    settings.KEY_FILE = tmp_path / "older" / "keyring.json"
    write_secret(settings.KEY_FILE, key_document.encode(alone))
    assert [number for number, _ in problems()] == ["msgsys.E211"]


def test_a_damaged_row_accuses_no_key(upgraded, stored):
    for spoiled in (stored(), stored()):
        column = Column(spoiled, "sender_number")
        column.write(column.read()[:-1] + b"\0")
    Column(stored(), "sender_number").write(b"never sealed")
    canaries.make_missing(NOW)
    assert problems() == []


def test_a_lost_key_that_is_known_of_accuses_no_new_one(upgraded):
    canaries.make_missing(NOW)
    Message.objects.order_by("id").first().delete()
    document = keyring.document()
    for kind in (ENCRYPTION, INDEX):
        document = document.add(kind, NOW)[0].promote(kind, 3, NOW).retire(kind, 2, NOW).destroy(kind, 2, NOW)
    put(upgraded, document)
    assert problems() == []
    canaries.make_missing(NOW, keyring.load(upgraded))
    assert Canary.objects.count() == 6
