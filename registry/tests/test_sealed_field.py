import json
import pickle

import pytest
from django.core import serializers
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.db import IntegrityError, models, transaction
from django.db.models import F, Value

from registry import fields
from registry.fields import EncryptedTextField, Opened, Sealed, UnboundValue
from registry.models import Message
from registry.tests.conftest import BODY, NOW, SENDER, Column, a_row, new_id, whole_table


@pytest.mark.parametrize("text", ["x", "Hello wörld", "a\0b", "emoji \U0001f600", "sealed:AAAA", " \n\t", "x" * 10_000])
def test_a_text_comes_back_as_it_was(stored, text):
    assert stored(message_body=text).message_body == text


def test_ten_thousand_four_byte_characters_fit(stored):
    text = "\U0001f600" * 10_000
    assert stored(message_body=text).message_body == text


def test_the_longest_reference_and_number_fit(stored):
    message = stored(client_reference="\U0001f600" * 128, sender_number="+" + "9" * 15)
    assert message.client_reference == "\U0001f600" * 128
    assert message.sender_number == "+" + "9" * 15


def test_what_does_not_fit_is_refused_before_the_database(db):
    with pytest.raises(ValueError, match="more than the 40000"):
        a_row(message_body="\U0001f600" * 10_001)


def test_no_reference_stays_none(stored):
    assert stored().client_reference is None


def test_the_table_holds_no_plain_text(stored):
    stored(client_reference="reference-canary")
    table = whole_table()
    for secret in (SENDER.encode(), SENDER[1:].encode(), BODY.encode(), b"canary"):
        assert secret not in table


def test_equal_texts_look_different_in_the_table(stored):
    assert Column(stored()).read() != Column(stored()).read()


def test_the_length_of_a_text_is_hidden_to_32_bytes(stored):
    assert len({len(Column(stored(message_body="x" * length)).read()) for length in range(1, 32)}) == 1


def test_bulk_create_seals(db):
    Message.objects.bulk_create([a_row(message_body=f"bulk {number}") for number in range(5)])
    assert b"bulk" not in whole_table()
    assert [message.message_body for message in Message.objects.order_by("id")] == [f"bulk {n}" for n in range(5)]


def test_a_second_read_opens_nothing(stored, monkeypatch):
    message = stored()
    first = message.message_body
    monkeypatch.setattr(fields.sealing, "open_sealed", None)
    assert message.message_body is first


def test_an_edit_is_sealed_and_read_back(stored):
    message = stored()
    message.message_body = "changed-canary"
    assert message.message_body == "changed-canary"
    message.save()
    assert Message.objects.get(pk=message.pk).message_body == "changed-canary"
    assert b"canary" not in whole_table()


def test_saving_without_a_change_keeps_the_ciphertext(stored):
    message = stored()
    before = Column(message).read()
    assert message.message_body == BODY
    message.save()
    assert Column(message).read() == before


@pytest.mark.parametrize("loaded", [{"defer": ["message_body"]}, {"only": ["id"]}, {"only": ["message_body"]}])
def test_a_deferred_text_is_loaded_when_it_is_read(stored, loaded):
    pk = stored().pk
    (method, names), *_ = loaded.items()
    assert getattr(Message.objects, method)(*names).get(pk=pk).message_body == BODY


def test_saving_a_deferred_text_that_was_read_keeps_the_ciphertext(stored):
    message = Message.objects.defer("message_body").get(pk=stored().pk)
    before = Column(message).read()
    assert message.message_body == BODY
    message.save()
    assert Column(message).read() == before


def test_saving_a_deferred_text_by_name_does_not_empty_it(stored):
    message = Message.objects.defer("client_reference").get(pk=stored(client_reference="r1").pk)
    message.save(update_fields=["client_reference"])
    assert Message.objects.get(pk=message.pk).client_reference == "r1"


def test_refresh_from_db_reads_what_is_there_now(stored):
    message = stored()
    assert message.message_body == BODY
    other = Message.objects.get(pk=message.pk)
    other.message_body = "newer-canary"
    other.save()
    message.refresh_from_db()
    assert message.message_body == "newer-canary"
    assert b"canary" not in pickle.dumps(message)


def test_a_pickle_holds_no_plain_text_and_opens_again(stored):
    message = stored()
    assert message.message_body == BODY
    frozen = pickle.dumps(message)
    assert BODY.encode() not in frozen
    assert SENDER.encode() not in frozen
    assert pickle.loads(frozen).message_body == BODY


def test_a_pickle_of_an_unsaved_row_holds_no_plain_text(db):
    frozen = pickle.dumps(a_row())
    assert BODY.encode() not in frozen
    assert pickle.loads(frozen).message_body == BODY


def test_nothing_shows_a_text_by_its_repr(stored):
    message = stored()
    assert message.message_body == BODY
    shown = f"{message!r} {message.__dict__!r}"
    assert BODY not in shown
    assert SENDER not in shown
    assert repr(Sealed(b"12345")) == "<Sealed 5 bytes>"
    assert repr(Opened()) == "<Opened 0>"


def test_values_give_the_sealed_value(stored):
    pk = stored().pk
    (value,) = Message.objects.filter(pk=pk).values_list("message_body", flat=True)
    assert isinstance(value, Sealed)


def test_dumpdata_holds_no_plain_text_and_loaddata_restores_it(stored, tmp_path):
    uid = stored(client_reference="r1", idempotency="ab" * 32).uid
    stored(message_body="second")
    file = tmp_path / "dump.json"
    call_command("dumpdata", "registry", output=str(file))
    for secret in (BODY, SENDER, "second", "r1"):
        assert f'"{secret}' not in file.read_text()
        assert secret == "r1" or secret not in file.read_text()
    Message.objects.all().delete()
    call_command("loaddata", str(file), verbosity=0)
    restored = Message.objects.get(uid=uid)
    assert (restored.message_body, restored.sender_number, restored.client_reference) == (BODY, SENDER, "r1")
    assert restored.idempotency == bytes.fromhex("ab" * 32)
    assert {message.message_body for message in Message.objects.all()} == {BODY, "second"}


def test_dumpdata_does_not_stop_at_a_damaged_row(stored):
    Column(stored()).write(b"damaged")
    document = json.loads(serializers.serialize("json", Message.objects.all()))
    assert document[0]["fields"]["message_body"].startswith("sealed:")


@pytest.mark.parametrize(
    "lookup", ["exact", "iexact", "contains", "icontains", "startswith", "in", "gt", "lt", "regex", "range", "length"]
)
def test_lookups_on_a_sealed_text_are_refused(db, lookup):
    with pytest.raises(FieldError):
        Message.objects.filter(**{f"message_body__{lookup}": "x"}).count()


def test_isnull_is_the_one_lookup_there_is(stored):
    stored()
    assert Message.objects.filter(client_reference__isnull=True).count() == 1
    assert Message.objects.filter(message_body__isnull=True).count() == 0


@pytest.mark.parametrize(
    "value", ["plain", Value("plain"), F("client"), Value("plain", output_field=models.TextField())]
)
def test_update_is_refused(stored, value):
    message = stored()
    with pytest.raises(UnboundValue), transaction.atomic():
        Message.objects.filter(pk=message.pk).update(message_body=value)
    assert Message.objects.get(pk=message.pk).message_body == BODY


def test_bulk_update_is_refused(stored):
    message = stored()
    message.message_body = "plain"
    with pytest.raises(UnboundValue), transaction.atomic():
        Message.objects.bulk_update([message], ["message_body"])
    assert Message.objects.get(pk=message.pk).message_body == BODY


@pytest.mark.parametrize("value", [5, b"bytes", ["x"], Value("x"), F("client")])
def test_only_text_can_be_assigned(db, value):
    with pytest.raises(UnboundValue, match="takes text"):
        a_row().message_body = value


def test_a_text_without_a_row_to_bind_it_to_is_refused():
    with pytest.raises(UnboundValue, match="uid"):
        Message(message_body="x")


def test_a_uid_cannot_be_copied_into_a_second_row_with_its_texts(stored):
    message = stored()
    message.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        message.save(force_insert=True)


@pytest.mark.parametrize("option", ["primary_key", "unique", "db_index", "db_default"])
def test_options_that_need_to_compare_are_refused(option):
    with pytest.raises(FieldError):
        EncryptedTextField(label="x", max_bytes=1, **{option: True})


def test_the_models_and_the_migrations_agree(db):
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_uids_and_keyed_hashes_keep_their_width(db):
    message = a_row()
    message.sender_index = b"short"
    with pytest.raises(ValueError, match="takes 8 bytes"):
        message.save()


def test_rows_are_found_by_uid_as_uuid_and_as_text(stored):
    uid = new_id(NOW)
    stored(id=uid)
    assert Message.objects.get(uid=uid).uid == uid
    assert Message.objects.get(uid=str(uid)).uid == uid
