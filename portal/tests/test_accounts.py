import io
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command

from portal import checks
from portal.accounts import admin_exists, create_staff
from portal.tests.conftest import PASSWORD

pytestmark = pytest.mark.django_db


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    return file


def run(*arguments: object) -> str:
    out = io.StringIO()
    call_command("create_staff", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_a_staff_user_is_made_from_a_password_file(password_file: Path) -> None:
    assert "sam@example.com" in run("sam@example.com", "--password-file", password_file)
    user = User.objects.get(username="sam@example.com")
    assert user.check_password(PASSWORD)
    assert (user.is_staff, user.is_superuser) == (True, False)
    assert not admin_exists()


def test_an_administrator_is_made_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert PASSWORD not in run("ada", "--admin")
    assert User.objects.get(username="ada").is_superuser
    assert admin_exists()


@pytest.mark.parametrize("weak", ["short", "q1w2e3r4t5y6", "123456789012345", "sam@example.com"])
def test_a_weak_password_makes_no_user(weak: str) -> None:
    with pytest.raises(ValidationError):
        create_staff("sam@example.com", weak, admin=False)
    assert not User.objects.exists()


@pytest.mark.parametrize("name", ["sam", "", "a b", "x" * 151])
def test_a_name_that_is_taken_or_no_name_is_refused(name: str, password_file: Path) -> None:
    create_staff("sam", PASSWORD, admin=False)
    with pytest.raises(CommandError):
        run(name, "--password-file", password_file)
    assert User.objects.count() == 1


def test_a_missing_or_empty_password_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(CommandError, match="cannot be read"):
        run("sam", "--password-file", tmp_path / "missing")
    with pytest.raises(CommandError, match="empty"):
        run("sam", "--password-file", tmp_path / "empty")


def test_the_password_is_no_argument() -> None:
    with pytest.raises(CommandError):
        run("sam", "--password", PASSWORD)


def test_a_portal_without_long_signing_keys_does_not_start(settings: pytest.FixtureRequest) -> None:
    settings.ROLE = "portal"
    assert checks.signing_keys(None) == []
    settings.SECRET_KEY = "short"
    settings.SIMPLE_JWT = {**settings.SIMPLE_JWT, "SIGNING_KEY": ""}
    assert [message.id for message in checks.signing_keys(None)] == ["msgsys.E401", "msgsys.E402"]
