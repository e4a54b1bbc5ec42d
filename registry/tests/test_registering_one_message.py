from registry.models import Message
from registry.tests.conftest import BODY, SENDER, a_row, new_id, whole_table

MESSAGE = {"sender_number": SENDER, "message_body": BODY}


def test_a_message_is_created_and_then_found(call):
    first = call("/register", MESSAGE)
    assert first.status_code == 201
    assert first.json()["status"] == "registered"
    again = call("/register", {**MESSAGE, "id": first.json()["id"]})
    assert (again.status_code, again.json()) == (200, first.json())
    assert Message.objects.count() == 1


def test_the_caller_may_choose_the_id(call):
    uid = new_id()
    assert call("/register", {**MESSAGE, "id": str(uid)}).json()["id"] == str(uid)
    message = Message.objects.get(uid=uid)
    assert (message.message_body, message.sender_number) == (BODY, SENDER)


def test_the_row_holds_no_plain_text(call):
    call("/register", {**MESSAGE, "message_body": "body-canary", "client_reference": "reference-canary"})
    assert b"canary" not in whole_table()


def test_a_worker_cannot_speak_for_a_client(people, call):
    assert call("/register", {**MESSAGE, "client": "alice"}).status_code == 422
    call("/register", MESSAGE)
    message = Message.objects.get()
    assert message.client == "worker:worker"
    assert message.certificate == people.peer("worker", "worker").serial_number


def test_workers_with_long_names_are_not_taken_for_each_other(people, call):
    for end in ("a", "b"):
        call("/register", MESSAGE, peer=people.peer("w" * 63 + end, "worker"))
    assert set(Message.objects.values_list("client", flat=True)) == {f"worker:{'w' * 63}{end}" for end in "ab"}


def test_the_id_of_anothers_message_is_taken(call):
    row = a_row()
    row.save()
    answer = call("/register", {**MESSAGE, "id": str(row.uid)})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "taken")
    assert Message.objects.get().client == "alice"
