"""show_cert: everything about a certificate, for a person and for a program."""

import json
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from django.utils import timezone

from certs_app import renewing, uses
from certs_app.authority import add_issuers
from certs_app.models import Certificate, Issuer
from certs_app.tests.test_commands import refused, run
from conftest import People


def shown(*arguments: str) -> dict[str, Any]:
    (one,) = json.loads(run("show_cert", *arguments, "--json"))
    return dict(one)


@pytest.fixture
def renewed(people: People) -> tuple[Certificate, Certificate]:
    """alice's certificate and its successor, which is in use."""
    old = people.issue("alice", "client").row
    now = timezone.now()
    new = renewing.renew(old, b"", now, People.operator).row
    uses.note_use([new.serial_number], now)
    return old, new


def test_it_says_what_openssl_says(people: People) -> None:
    people.issue("node", "registry", dns=["node.example.org"], ip=["192.0.2.7", "2001:db8::7"])
    file = people.folder / "node.crt"
    asked = ["-noout", "-serial", "-fingerprint", "-sha256", "-startdate", "-enddate", "-dateopt", "iso_8601"]
    said = subprocess.run(["openssl", "x509", "-in", file, *asked], capture_output=True, text=True, check=True).stdout
    theirs = dict(line.split("=", 1) for line in said.splitlines())

    ours = shown("node")

    assert int(ours["serial_number"], 16) == int(theirs["serial"], 16)
    assert ours["fingerprint"].upper() == theirs["sha256 Fingerprint"].replace(":", "")
    assert ours["not_before"][:19].replace("T", " ") + "Z" == theirs["notBefore"]
    assert ours["not_after"][:19].replace("T", " ") + "Z" == theirs["notAfter"]
    text = subprocess.run(
        ["openssl", "x509", "-in", file, "-noout", "-text"], capture_output=True, text=True, check=True
    ).stdout
    assert ours["serial_number_colons"] in text
    for name in ours["names"][:3]:
        assert name in text


def test_it_says_whose_it_is_and_who_signed_it(people: People) -> None:
    row = people.issue("node", "registry", dns=["node.example.org"], ip=["192.0.2.7"]).row

    one = shown("node")

    assert (one["owner"], one["usage"], one["state"]) == ("registry/node", "server", "valid")
    assert one["names"] == ["URI:spiffe://msgsys/registry/node", "DNS:node.example.org", "IP Address:192.0.2.7"]
    assert one["chain"] == ["CN=msgsys Servers CA 1,O=msgsys", "CN=msgsys Root CA 1,O=msgsys"]
    assert one["key"] == "EC secp256r1"
    assert 363 <= one["days_left"] <= 365
    assert one["events"] == [
        {
            "at": one["events"][0]["at"],
            "actor": "operator:olga",
            "action": "issued",
            "detail": f"server, until {row.not_after:%Y-%m-%dT%H:%M:%SZ}",
        }
    ]


def test_every_part_is_in_what_a_person_reads(renewed: tuple[Certificate, Certificate], people: People) -> None:
    old, new = renewed
    people.revoke("alice", "key_compromise")

    said = run("show_cert", new.serial_number)

    one = shown(new.serial_number)
    for part in ("owner", "usage", "state", "serial_number", "serial_number_colons", "fingerprint", "key"):
        assert one[part] in said
    for part in ("names", "chain"):
        assert all(value in said for value in one[part])
    assert f"replaces       {old.serial_number}" in said
    assert "first used     20" in said
    assert "UTC by operator:olga, reason: key_compromise" in said
    assert "operator:olga renewed: client, until" in said
    assert "days left" in said


def test_a_replaced_one_names_its_successor(renewed: tuple[Certificate, Certificate]) -> None:
    old, new = renewed

    one = shown(old.serial_number)

    assert (one["state"], one["replaced_by"]) == ("superseded", [new.serial_number])
    assert one["superseded"]
    assert [event["action"] for event in one["events"]] == ["issued", "superseded"]


def test_a_revoked_one_says_when_why_and_by_whom(people: People) -> None:
    people.issue("bob", "client")
    people.revoke("bob", "key_compromise")

    one = shown("bob")

    assert (one["state"], one["reason"], one["revoked_by"]) == ("revoked", "key_compromise", "operator:olga")
    assert one["revoked"]


@pytest.mark.parametrize("spelling", ["serial_number", "serial_number_colons"])
def test_either_spelling_of_its_number_finds_it(people: People, spelling: str) -> None:
    people.issue("alice", "client")
    people.issue("alice", "client")
    first = Certificate.objects.order_by("id")[0]
    typed = shown(first.serial_number)[spelling]

    assert shown(typed.upper())["serial_number"] == first.serial_number


def test_a_name_shows_the_newest_of_each_usage_and_numbers_the_older(people: People) -> None:
    older = people.issue("ingest", "ingest", usage="client").row
    people.issue("ingest", "ingest", usage="client")
    people.issue("ingest", "ingest", usage="server")

    both = json.loads(run("show_cert", "ingest", "--json"))

    assert sorted(one["usage"] for one in both) == ["client", "server"]
    assert older.serial_number not in [one["serial_number"] for one in both]
    assert f"older ones of the same owner: {older.serial_number} (valid)" in run("show_cert", "ingest")


def test_a_name_of_several_roles_must_be_told_apart(people: People) -> None:
    people.issue("alice", "client")
    people.issue("alice", "admin")

    assert "several roles (admin, client): add --role" in refused("show_cert", "alice")
    assert shown("alice", "--role", "admin")["owner"] == "admin/alice"


def test_a_file_of_ours_is_recognised(people: People) -> None:
    people.issue("alice", "client")

    assert shown(str(people.folder / "alice.crt"))["events"] != []


def test_a_file_of_a_ca_is_recognised(people: People, tmp_path: Path) -> None:
    issuing = Issuer.objects.get(name=Issuer.CLIENTS)
    file = tmp_path / "clients.crt"
    file.write_bytes(issuing.certificate.public_bytes(Encoding.PEM))

    one = shown(str(file))

    assert (one["owner"], one["usage"], one["state"]) == ("clients CA", "signs clients", "valid")
    assert one["chain"] == ["CN=msgsys Root CA 1,O=msgsys"]
    assert shown(str(people.folder / "ca.crt"))["chain"] == []


def test_a_file_of_somebody_else_is_called_that(people: People, tmp_path: Path) -> None:
    file = tmp_path / "other.crt"
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(tmp_path / "other.key"), "-subj", "/CN=elsewhere"]
    subprocess.run(["openssl", "req", "-x509", *made, "-days", "3", "-out", file], check=True, capture_output=True)

    one = shown(str(file))

    assert (one["state"], one["owner"], one["key"]) == ("not issued by this CA", "CN=elsewhere", "RSA 2048")
    assert "not issued by this CA" in run("show_cert", str(file))


def test_a_file_that_is_no_certificate_is_refused(people: People, tmp_path: Path) -> None:
    (tmp_path / "junk.crt").write_bytes(b"junk")

    assert "holds no certificate" in refused("show_cert", str(tmp_path / "junk.crt"))


def test_a_name_is_a_name_even_beside_a_file_of_that_name(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.issue("alice", "client")
    (tmp_path / "alice").write_bytes(b"a diary")
    monkeypatch.chdir(tmp_path)

    assert shown("alice")["owner"] == "client/alice"
    assert "holds no certificate" in refused("show_cert", "./alice")


def test_an_unknown_name_is_told(people: People) -> None:
    assert "no certificate named or numbered 'nobody'" in refused("show_cert", "nobody")


def test_an_old_one_shows_the_ca_that_signed_it(people: People) -> None:
    people.issue("alice", "client")
    add_issuers((Issuer.CLIENTS,), timezone.now(), People.operator)
    people.issue("bob", "client")

    assert shown("alice")["chain"][0] == "CN=msgsys Clients CA 1,O=msgsys"
    assert shown("bob")["chain"][0] == "CN=msgsys Clients CA 2,O=msgsys"


def test_days_are_counted_past_the_end_as_well(people: People) -> None:
    row = people.issue("alice", "client", days=1).row
    Certificate.objects.update(not_after=timezone.now() - timedelta(days=1))

    assert shown("alice")["state"] == "expired"
    # What is shown is what is in the certificate, whatever the row says.
    assert x509.load_der_x509_certificate(bytes(row.der)).not_valid_after_utc.isoformat() == shown("alice")["not_after"]
