"""A Redis that demands TLS and knows the accounts of docs/operations.md, no others: for tests.

What is documented is what is tested: the rules are read from the document.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import redis

from ingest.tests.conftest import Valkey

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
PASSWORDS = {user: f"secret-of-{user}" for user in ("ingest", "worker", "operator")}


def documented_users() -> str:
    """Return an ACL file with the accounts that docs/operations.md shows."""
    found = re.findall(r"^ACL SETUSER (\w+) (.* >PASSWORD .*)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert {user for user, _ in found} == set(PASSWORDS)
    accounts = [f"{user} {rules.replace('>PASSWORD', f'>{PASSWORDS[user]}')}" for user, rules in found]
    return "".join(f"user {account}\n" for account in (*accounts, "root on >root ~* &* +@all", "default off"))


def documented_sentinel_user(password: str) -> str:
    """Return the line for a Sentinel's configuration that docs/operations.md shows."""
    (line,) = re.findall(r"^user msgsys .*$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return line.replace(">PASSWORD", f">{password}")


def make_certificates(folder: Path) -> None:
    """Make ca.crt, other.crt (another CA), and a pair for server and client each."""

    def openssl(*arguments: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        subprocess.run([*command, *arguments], cwd=folder, check=True, capture_output=True)

    for ca in ("ca", "other"):
        # Python 3.13 is strict: an authority says what its key is for.
        use = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        openssl("-subj", f"/CN={ca}", *use, "-keyout", f"{ca}.key", "-out", f"{ca}.crt")
    for leaf, names in (("server", "IP:127.0.0.1,DNS:localhost"), ("wrong", "DNS:redis.example"), ("client", "DNS:x")):
        issuer = ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
        files = ["-keyout", f"{leaf}.key", "-out", f"{leaf}.crt"]
        openssl("-subj", f"/CN={leaf}", *issuer, "-addext", f"subjectAltName={names}", *files)


class TlsRedis(Valkey):
    """A Redis of the distribution, by TLS only, that asks for a client's certificate; root may do all."""

    @classmethod
    def prepare(cls, folder: Path, binary: str) -> "TlsRedis":
        """Return one, not yet started, with its certificates and accounts in a new folder."""
        folder.mkdir()
        make_certificates(folder)
        (folder / "users.acl").write_text(documented_users(), encoding="utf-8")
        return cls(folder, binary)

    def tls(self) -> dict[str, Any]:
        pair = {"ssl_certfile": self.folder / "client.crt", "ssl_keyfile": self.folder / "client.key"}
        return {"ssl_ca_certs": str(self.folder / "ca.crt"), **{key: str(file) for key, file in pair.items()}}

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(
            port=self.port, ssl=True, ssl_check_hostname=False, username="root", password="root", **self.tls()
        )

    def start(self, *options: str, certificate: str = "server") -> None:
        files = {"cert": f"{certificate}.crt", "key": f"{certificate}.key", "ca-cert": "ca.crt"}
        tls = [part for what, file in files.items() for part in (f"--tls-{what}-file", str(self.folder / file))]
        users = ["--aclfile", str(self.folder / "users.acl")]
        kept = ("--appendonly", "yes", "--maxmemory", "4gb")
        super().start(*kept, "--port", "0", "--tls-port", str(self.port), *tls, *users, *options)

    def url_of(self, user: str, host: str = "127.0.0.1") -> str:
        return f"rediss://{user}:{PASSWORDS[user]}@{host}:{self.port}/0"

    def refused(self) -> list[tuple[str, str, str]]:
        """Return what was refused: user, reason, object; but for what the documentation says is refused at no cost."""
        found = [(entry["username"], entry["reason"], entry["object"]) for entry in self.client.acl_log()]
        return [one for one in found if one[2] not in ("client|setinfo", "config|get")]
