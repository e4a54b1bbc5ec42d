"""nginx's configuration is made of the settings, and says what must not be missing."""

import re
import stat
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from deploy.nginx import configuration

TOKEN = "a-token-of-more-than-thirty-two-characters"


@pytest.fixture(autouse=True)
def _behind_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for role in configuration.ROLES:
        monkeypatch.setenv(f"MSGSYS_{role.upper()}_BEHIND_PROXY", "127.0.0.1:9001")
        monkeypatch.setenv(f"MSGSYS_{role.upper()}_PROXY_TOKEN", TOKEN)


def shown(*arguments: str) -> str:
    out = StringIO()
    call_command("nginx_config", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("role", ["ingest", "registry"])
def test_certificates_are_required_and_passed_on_with_the_token(role: str) -> None:
    lines = [line.strip() for line in shown(role).splitlines()]
    assert "ssl_verify_client on;" in lines
    assert "ssl_protocols TLSv1.3;" in lines
    assert f'proxy_set_header X-SSL-Client-Cert "{TOKEN} $ssl_client_escaped_cert";' in lines
    assert any(line.startswith("ssl_crl ") for line in lines)


def test_of_a_caller_of_the_portal_the_address_alone_is_passed_on() -> None:
    lines = [line.strip() for line in shown("portal").splitlines()]
    assert "ssl_verify_client off;" in lines
    assert 'proxy_set_header X-SSL-Client-Cert "";' in lines
    assert f'proxy_set_header X-Real-IP "{TOKEN} $remote_addr";' in lines


@pytest.mark.parametrize("role", configuration.ROLES)
def test_nothing_is_left_to_fill_in_and_nothing_is_resumed(role: str) -> None:
    text = shown(role)
    assert not re.search(r"<<|>>", text)
    assert "ssl_session_tickets off;" in text
    assert "ssl_session_cache off;" in text


def test_every_error_page_leads_somewhere() -> None:
    text = shown("ingest")
    assert set(re.findall(r"= (@\w+);", text)) == set(re.findall(r"location (@\w+) ", text))


def test_a_role_that_speaks_tls_itself_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSGSYS_INGEST_BEHIND_PROXY")
    with pytest.raises(CommandError, match="MSGSYS_INGEST_BEHIND_PROXY is not set"):
        shown("ingest")


@pytest.mark.parametrize("token", ["short", f'{TOKEN}"; return 200 "', f"{TOKEN} x", f"{TOKEN}$uri"])
def test_a_token_that_is_no_token_is_not_written(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSGSYS_INGEST_PROXY_TOKEN", token)
    with pytest.raises(CommandError, match="token of ingest"):
        shown("ingest")


def test_a_path_that_nginx_would_read_otherwise_is_refused(settings: Any) -> None:
    settings.CRL_FILE = Path("/srv/$HOME/crl.pem")
    with pytest.raises(CommandError, match="characters"):
        shown("ingest")


@pytest.mark.skipif(sys.platform == "win32", reason="mode bits say nothing there")
def test_the_file_is_private(tmp_path: Path) -> None:
    file = tmp_path / "ingest.conf"
    assert TOKEN not in shown("ingest", "--out", str(file))
    assert TOKEN in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
