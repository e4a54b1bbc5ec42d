"""nginx as the TLS terminator of a role: its configuration, with this installation's paths, ports and token."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from django.conf import settings

from certs_app.terminator import ADDRESS, CERTIFICATE
from deploy.behind_proxy import shown
from msgsys_project.settings.base import behind_proxy, certificate, ports, proxy_token
from wire.problems import Problem, retry_later

TEMPLATES = Path(__file__).parent
ROLES = ("ingest", "registry", "portal")

# What nginx itself refuses. Of a certificate it cannot tell a client why: revoked, expired and foreign are all 495.
REFUSALS = (
    Problem(
        "certificate_required",
        "Call by TLS, with a client certificate of this system neither revoked nor expired (curl --cert, --key).",
    ),
    Problem("malformed_request", "This is not HTTP/1.1 as we understand it."),
    Problem("headers_too_large", "Address and headers together are larger than this server takes."),
    retry_later("overloaded", "Nobody behind this address can answer right now. Try again.", 1),
)


class CannotConfigure(Exception):
    """A setting is missing or cannot be written into nginx's configuration. The message says which."""


def text(role: str, *, whole: bool = False) -> str:
    """Return the server block of a role's terminator; with `whole`, a configuration that runs by itself.

    Raises CannotConfigure.
    """
    server = _server(role)
    if not whole:
        return server
    names = {
        "role": role,
        "folder": _path(_folder()),
        "user": _user(),
        "error_log": _path(_logs() / f"nginx-{role}.error.log"),
        "server": server,
    }
    return _filled("whole.conf", names)


def make_folders() -> None:
    """Make the folders that the configuration names."""
    _folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    _logs().mkdir(parents=True, exist_ok=True, mode=0o700)


def _server(role: str) -> str:
    address, token = behind_proxy(role), proxy_token(role)
    if address is None:
        raise CannotConfigure(f"MSGSYS_{role.upper()}_BEHIND_PROXY is not set: the {role} speaks TLS itself")
    if not re.fullmatch(r"[A-Za-z0-9_-]{32,}", token):
        raise CannotConfigure(f"the token of {role} is missing or malformed: `manage.py up` makes {role}_proxy_token")
    pair = certificate(role)
    names = {
        "role": role,
        "certificate_header": CERTIFICATE,
        "address_header": ADDRESS,
        "address": shown(address),
        "token": token,
        "listen": f"{_host()}:{ports(role)[0]}",
        "certificate": _path(pair["certificate"]),
        "key": _path(pair["key"]),
        "access_log": _path(_logs() / f"nginx-{role}.access.log"),
        "client_certificates": _client_certificates(role),
        # People come to the portal without a certificate. Empty: nginx sends no such header, a client's neither.
        "caller": "" if role == "portal" else f"{token} $ssl_client_escaped_cert",
        "refusals": "\n\n".join(_refusal(problem) for problem in (*REFUSALS, _too_large())),
        "handshake_timeout": settings.HANDSHAKE_TIMEOUT,
        "request_timeout": settings.REQUEST_TIMEOUT,
        "keep_alive": settings.KEEP_ALIVE,
        "upstream_keep_alive": max(1, settings.KEEP_ALIVE // 2),
        "max_body": settings.MAX_BODY_BYTES,
        "max_connections": settings.MAX_CONNECTIONS,
    }
    return _filled("server.conf", names)


def _client_certificates(role: str) -> str:
    if role == "portal":
        return "    ssl_verify_client off;"
    return _filled("client_certificates.conf", {"ca": _path(settings.CA_FILE), "crl": _path(settings.CRL_FILE)})


def _too_large() -> Problem:
    return Problem("too_large", f"A request body holds at most {settings.MAX_BODY_BYTES} bytes.")


def _refusal(problem: Problem) -> str:
    seconds = problem.headers.get("Retry-After")
    names = {
        "code": problem.code,
        "status": problem.status,
        "retry_after": f"add_header Retry-After {seconds} always;" if seconds else "",
        "body": problem.body().decode().replace("\\", "\\\\").replace("'", "\\'"),
    }
    return _filled("refusal.conf", names)


def _filled(template: str, names: Mapping[str, object]) -> str:
    """Fill <<name>>s in: nginx's own language uses all of $, @, % and {}."""
    content = (TEMPLATES / template).read_text(encoding="utf-8").rstrip("\n")
    content = re.sub(r"<<(\w+)>>", lambda match: str(names[match[1]]), content)
    return re.sub(r"\n +\n", "\n", content) + ("\n" if template in ("server.conf", "whole.conf") else "")


def _path(path: Path) -> str:
    written = path.as_posix()
    if set(written) & set("\"$'\\\n"):
        raise CannotConfigure(f"{path} has characters that nginx's configuration takes for its own")
    return written


def _host() -> str:
    host: str = settings.HOST
    return f"[{host}]" if ":" in host else host


def _folder() -> Path:
    return Path(settings.HOME) / "nginx"


def _logs() -> Path:
    return Path(settings.HOME) / "logs"


def _user() -> str:
    """Name who runs this: as root, nginx would otherwise go on as somebody who may not open the socket."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return ""
    import grp
    import pwd

    return f"user {pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name};"
