"""Our own clients (the worker, ingest) verify whom they call: authority, host name, usage, revocation."""

import ssl

import pytest

from certs_app.files import UnsafeFile
from certs_app.tests.conftest import Live
from certs_app.tls import TlsFiles, client_context
from conftest import People


def files(people: People, stem: str = "alice") -> TlsFiles:
    folder = people.folder
    return TlsFiles(folder / f"{stem}.crt", folder / f"{stem}.key", folder / "ca.crt", folder / "crl.pem")


def test_a_good_server_is_called(live: Live, served: People) -> None:
    assert live.get(context=client_context(files(served))).status == 200


def test_a_revoked_server_is_not_called(live: Live, served: People) -> None:
    served.revoke("localhost")

    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        live.get(context=client_context(files(served)))


def test_a_server_of_another_name_is_not_called(live: Live, served: People) -> None:
    context = client_context(files(served))

    with (
        live.raw() as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
        context.wrap_socket(plain, server_hostname="registry.example.org"),
    ):
        pass


def test_a_server_with_a_client_certificate_is_not_called(live: Live, served: People) -> None:
    for suffix in ("crt", "key"):
        (served.folder / f"localhost.{suffix}").write_bytes((served.folder / f"alice.{suffix}").read_bytes())

    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        live.get(context=client_context(files(served)))


def test_a_key_open_to_others_is_not_used(served: People) -> None:
    (served.folder / "alice.key").chmod(0o640)

    with pytest.raises(UnsafeFile, match="chmod 600"):
        client_context(files(served))
