"""Who gets through the TLS handshake of a live server, and who does not."""

import shutil
import ssl
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from django.utils import timezone

from certs_app import ca_keys, revocation, revocation_lists
from certs_app.models import Crl, Issuer
from certs_app.tests.conftest import Connection, Door, Live, serving, until
from certs_app.tests.strangers import strangers
from conftest import People


@pytest.fixture
def guarded(served: People) -> Iterator[Live]:
    strangers(served)
    with serving(Door(), served.folder) as running:
        yield running


def test_a_trusted_client_is_served_and_named(standing: Live) -> None:
    answer = standing.get("alice")

    assert answer.status == 200
    assert b'"peer": "client/alice"' in answer.body


def test_curl_is_served_with_a_certificate(standing: Live) -> None:
    result = standing.curl("alice", "--write-out", " %{http_code} %{ssl_verify_result}")

    assert result.stdout.endswith(" 200 0"), result.stderr


def test_everybody_else_is_refused_before_the_application(guarded: Live) -> None:
    refused = {stem: guarded.refuses(stem) for stem in (None, "bob", "carol", "erin", "frank")}

    assert all(refused.values()), refused
    assert guarded.door.reached == []
    assert guarded.get("alice").status == 200


def test_curl_is_refused_for_everybody_else(guarded: Live) -> None:
    for stem in (None, "bob", "carol", "erin", "frank"):
        result = guarded.curl(stem, "--write-out", "%{http_code}")
        assert result.returncode != 0
        assert result.stdout == "000"

    assert guarded.door.reached == []


def test_the_same_connection_works_by_address_without_a_server_name(standing: Live) -> None:
    with standing.raw() as plain, standing.context("alice").wrap_socket(plain, server_hostname="127.0.0.1") as tls:
        assert Connection(tls).get().status == 200


def test_a_revoked_client_is_refused_without_a_server_name_too(guarded: Live) -> None:
    context = guarded.context("bob")
    context.check_hostname = False

    with guarded.raw() as plain, context.wrap_socket(plain) as tls:
        assert Connection(tls).closed()
    assert guarded.door.reached == []


def test_older_tls_is_refused(standing: Live) -> None:
    context = standing.context("alice")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises(ssl.SSLError):
        standing.get(context=context)
    assert standing.curl("alice", "--tls-max", "1.2").returncode == 35


def test_no_session_can_be_resumed(standing: Live) -> None:
    context = standing.context("alice")
    with standing.connect(context=context) as first:
        first.get()
        session = first.tls.session
    assert session is None or not session.has_ticket

    with standing.raw() as plain, context.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
        assert Connection(tls).get().status == 200
        assert not tls.session_reused


def test_an_expired_list_closes_the_door_for_everybody(served: People, settings: Any) -> None:
    with serving(Door(), served.folder) as live:
        assert live.get("alice").status == 200
        revocation_lists.publish(timezone.now() - timedelta(hours=settings.CRL_HOURS, seconds=1))
        assert live.refuses("alice")

        revocation_lists.publish(timezone.now())
        assert live.get("alice").status == 200


def test_a_missing_list_of_the_root_closes_the_door_for_everybody(served: People, settings: Any) -> None:
    newest = Crl.objects.filter(issuer__name=Issuer.CLIENTS).latest("number")
    only_issuing = x509.load_der_x509_crl(bytes(newest.der)).public_bytes(Encoding.PEM)
    settings.CRL_FILE.write_bytes(only_issuing)

    with serving(Door(), served.folder) as live:
        assert live.refuses("alice")


def test_a_list_signed_by_somebody_else_closes_the_door(served: People, settings: Any, tmp_path: Path) -> None:
    good = [x509.load_der_x509_crl(bytes(crl.der)) for crl in Crl.objects.order_by("issuer")]
    forged = (
        x509.CertificateRevocationListBuilder(extensions=list(good[1].extensions))
        .issuer_name(good[1].issuer)
        .last_update(timezone.now() - timedelta(minutes=1))
        .next_update(timezone.now() + timedelta(days=1))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    settings.CRL_FILE.write_bytes(good[0].public_bytes(Encoding.PEM) + forged.public_bytes(Encoding.PEM))

    with serving(Door(), served.folder) as live:
        assert live.refuses("alice")


def test_a_new_list_counts_at_the_next_handshake(live: Live, served: People) -> None:
    assert live.get("alice").status == 200

    served.revoke("alice")

    assert live.refuses("alice")


def test_two_revocations_within_one_second_both_count(served: People) -> None:
    served.issue("bob", "client")
    served.issue("dave", "client")
    with serving(Door(), served.folder) as live:
        assert [live.get(name).status for name in ("alice", "bob", "dave")] == [200, 200, 200]

        served.revoke("bob")
        assert live.refuses("bob")
        served.revoke("dave")

        assert live.refuses("dave")
        assert live.refuses("bob")
        assert live.get("alice").status == 200


def test_a_junk_list_keeps_the_last_good_one(
    guarded: Live, settings: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "SETTLING_SECONDS", 0)
    assert guarded.get("alice").status == 200
    settings.CRL_FILE.write_bytes(b"not a list")

    assert guarded.get("alice").status == 200
    assert guarded.refuses("bob")
    assert "the last good ones stay" in caplog.text


def test_a_deleted_list_keeps_the_last_good_one(guarded: Live, settings: Any) -> None:
    assert guarded.get("alice").status == 200
    settings.CRL_FILE.unlink()

    assert guarded.get("alice").status == 200
    assert guarded.refuses("bob")


def test_a_server_does_not_start_with_a_junk_list(served: People, settings: Any) -> None:
    settings.CRL_FILE.write_bytes(b"not a list")

    with pytest.raises(ssl.SSLError), serving(Door(), served.folder):
        pass


def test_a_renewed_server_certificate_is_served_without_a_restart(live: Live, served: People) -> None:
    def serial_number() -> str:
        with live.connect() as connection:
            return str(connection.tls.getpeercert()["serialNumber"]).lower().lstrip("0")  # type: ignore[index]

    renewed = served.issue("localhost", "registry", dns=["localhost"])

    assert serial_number() == renewed.row.serial_number


def test_half_a_renewal_keeps_the_last_good_pair_until_the_other_half_comes(
    live: Live, served: People, caplog: pytest.LogCaptureFixture
) -> None:
    old = served.folder / "old.key"
    shutil.copy(served.folder / "localhost.key", old)
    served.issue("localhost", "registry", dns=["localhost"])
    new = (served.folder / "localhost.key").read_bytes()
    old.replace(served.folder / "localhost.key")
    assert live.get("alice").status == 200
    assert "cannot be used" not in caplog.text, "a pair that is being replaced is no error"

    key = served.folder / "localhost.key"
    key.write_bytes(new)

    with live.connect() as connection:
        shown = connection.tls.getpeercert(binary_form=True)
    assert shown == x509.load_pem_x509_certificate((served.folder / "localhost.crt").read_bytes()).public_bytes(
        Encoding.DER
    )


def test_a_pair_that_does_not_fit_is_an_error_once_its_files_have_settled(
    live: Live, served: People, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "SETTLING_SECONDS", 0.3)
    shutil.copy(served.folder / "alice.key", served.folder / "localhost.key")
    time.sleep(0.4)

    for _ in range(3):
        assert live.get("alice").status == 200

    assert caplog.text.count("new TLS files cannot be used") == 1


def test_a_key_made_private_again_is_taken_up(live: Live, served: People) -> None:
    served.issue("localhost", "registry", dns=["localhost", "again.example.org"])
    key = served.folder / "localhost.key"
    key.chmod(0o640)

    def names() -> str:
        with live.connect() as connection:
            return str(connection.tls.getpeercert()["subjectAltName"])  # type: ignore[index]

    assert "again.example.org" not in names()
    key.chmod(0o600)
    until(lambda: "again.example.org" in names())


def test_a_door_for_people_asks_for_no_certificate(served: People) -> None:
    with serving(Door(), served.folder, client_certificates=False) as live:
        answer = live.get(None)

    assert answer.status == 403
    assert b"certificate_required" in answer.body


def test_a_certificate_that_breaks_rfc_5280_is_refused(served: People) -> None:
    """§4.2.1.1: without an authority key identifier; only strict verification looks."""
    genuine = x509.load_pem_x509_certificate((served.folder / "alice.crt").read_bytes())
    extensions = [one for one in genuine.extensions if not isinstance(one.value, x509.AuthorityKeyIdentifier)]
    builder = (
        x509.CertificateBuilder(extensions=extensions)
        .subject_name(genuine.subject)
        .issuer_name(genuine.issuer)
        .public_key(genuine.public_key())
        .serial_number(genuine.serial_number + 1)
        .not_valid_before(genuine.not_valid_before_utc)
        .not_valid_after(genuine.not_valid_after_utc)
    )
    sloppy = builder.sign(ca_keys.load(Issuer.CLIENTS), hashes.SHA256()).public_bytes(Encoding.PEM)
    issuing = Issuer.objects.get(name=Issuer.CLIENTS).certificate.public_bytes(Encoding.PEM)
    (served.folder / "alice.crt").write_bytes(sloppy + issuing)

    with serving(Door(), served.folder) as live:
        assert live.refuses("alice")
