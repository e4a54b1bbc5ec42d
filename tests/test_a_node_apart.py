"""A node with CA files of its own, as on another machine: it fetches the lists, and needs no CA for what it has."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certs_app.revocation import pem_blocks
from tests.running import Installation, eventually

pytestmark = pytest.mark.system


@pytest.fixture
def node(services: Installation) -> Iterator[Path]:
    """The registry runs on the CA's files; ingest has copies and looks for newer ones every second."""
    services.manage("issue_cert", "bob", "--role", "client", "--out", str(services.home / "people"))
    folder = services.home / "node" / "pki"
    shutil.copytree(services.home / "pki", folder)
    services.serve("registry")
    services.settings["MSGSYS_CRL_FETCH_SECONDS"] = "1"
    start_ingest(services, folder)
    return folder


def as_bob(services: Installation) -> requests.Session:
    session = services.session("")
    session.cert = tuple(str(services.home / "people" / f"bob.{end}") for end in ("crt", "key"))
    return session


def is_refused(services: Installation) -> bool:
    with as_bob(services) as bob:
        try:
            return services.submit(bob, "hello").status_code != 202
        except requests.ConnectionError:
            return True


def start_ingest(services: Installation, node: Path) -> None:
    services.settings["MSGSYS_PKI_DIR"] = str(node)
    services.serve("ingest")
    del services.settings["MSGSYS_PKI_DIR"]


def outdated(services: Installation) -> list[bytes]:
    """Return lists of both issuing CAs that ended yesterday."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    made = []
    for block in pem_blocks((services.home / "pki" / "crl.pem").read_bytes())[1:]:
        genuine = x509.load_pem_x509_crl(block)
        (kind,) = [kind for kind in ("clients", "servers") if kind.title() in genuine.issuer.rfc4514_string()]
        key: Any = load_pem_private_key((services.home / "secrets" / "ca" / f"{kind}.key").read_bytes(), None)
        builder = x509.CertificateRevocationListBuilder(extensions=list(genuine.extensions))
        builder = builder.issuer_name(genuine.issuer).last_update(yesterday - timedelta(days=2)).next_update(yesterday)
        made.append(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return made


def test_a_revocation_reaches_the_node_within_the_fetch_interval_and_stays_without_the_ca(
    services: Installation, node: Path
) -> None:
    with as_bob(services) as kept:
        assert services.submit(kept, "before").status_code == 202

        services.manage("revoke_cert", "bob")

        eventually(lambda: is_refused(services), within=3)
        with pytest.raises((requests.ConnectionError, AssertionError)):
            assert services.submit(kept, "after").status_code == 202

    services.stop("registry")
    services.stop("ingest")
    start_ingest(services, node)
    assert is_refused(services), "the last good list is on disk"
    with services.session() as alice:
        assert services.submit(alice, "still served").status_code == 202


def test_a_node_takes_up_a_new_issuing_ca_by_itself(services: Installation, node: Path) -> None:
    services.manage("init_ca", "--add-issuer", "clients")
    services.manage("issue_cert", "dora", "--role", "client", "--out", str(services.home / "people"))

    eventually(lambda: len(pem_blocks((node / "crl.pem").read_bytes())) == 4, within=5)
    with services.session("") as dora:
        dora.cert = tuple(str(services.home / "people" / f"dora.{end}") for end in ("crt", "key"))
        assert services.submit(dora, "hello").status_code == 202


def test_a_rolled_back_list_on_the_node_is_replaced_by_the_newer_one(services: Installation, node: Path) -> None:
    before = (node / "crl.pem").read_bytes()
    services.manage("revoke_cert", "bob")
    eventually(lambda: is_refused(services), within=3)

    # From a backup, say.
    (node / "crl.pem").write_bytes(before)

    eventually(lambda: (node / "crl.pem").read_bytes() != before, within=5)
    assert is_refused(services)


def test_a_node_whose_lists_are_out_of_date_gets_new_ones(services: Installation, node: Path) -> None:
    """Switched off for a week, say. By such lists nobody could be verified, the registry neither."""
    root, *_ = pem_blocks((node / "crl.pem").read_bytes())
    services.stop("ingest")
    (node / "crl.pem").write_bytes(root + b"".join(outdated(services)))
    services.manage("publish_crl")

    start_ingest(services, node)

    assert len(pem_blocks((node / "crl.pem").read_bytes())) == 3
    with services.session() as alice:
        assert services.submit(alice, "hello").status_code == 202
