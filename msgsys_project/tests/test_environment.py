"""Settings are read from the environment, or refused by what is wrong with them."""

import json

import pytest

from msgsys_project import environment


@pytest.mark.parametrize(
    ("value", "command"),
    [
        ("", ()),
        ("vault read 'a b'", ("vault", "read", "a b")),
        (json.dumps(["C:\\Program Files\\vault.exe", "read"]), ("C:\\Program Files\\vault.exe", "read")),
    ],
)
def test_a_command_is_set_as_words_or_as_json(value, command, monkeypatch):
    monkeypatch.setenv("MSGSYS_SOME_COMMAND", value)
    assert environment.arguments("MSGSYS_SOME_COMMAND", "") == command


@pytest.mark.parametrize("value", ["vault 'read", "[1, 2]", "[", '["a", {}]'])
def test_what_is_no_command_is_refused(value, monkeypatch):
    monkeypatch.setenv("MSGSYS_SOME_COMMAND", value)
    with pytest.raises(environment.ImproperlyConfigured, match="MSGSYS_SOME_COMMAND must be a command"):
        environment.arguments("MSGSYS_SOME_COMMAND", "")
