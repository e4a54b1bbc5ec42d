"""The commands an operator types."""

import json
import shlex
import stat
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from django.core.management import CommandError, call_command, load_command_class
from django.utils import timezone

from certs_app.ca_keys import path_of
from certs_app.management import finding
from certs_app.models import Certificate, Crl, Issuer
from certs_app.tests.test_revocation_lists import listed, number, published
from conftest import People


def run(command: str, *arguments: str) -> str:
    out = StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


def refused(command: str, *arguments: str) -> str:
    with pytest.raises(CommandError) as refusal:
        run(command, *arguments)
    return str(refusal.value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- init_ca ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_yet(transactional_db: None, tmp_path: Path, settings: Any) -> Path:
    settings.CA_FILE, settings.CRL_FILE = tmp_path / "ca.crt", tmp_path / "crl.pem"
    settings.CERTIFICATES_DIR, settings.CA_KEYS_DIR = tmp_path / "certs", tmp_path / "ca"
    return tmp_path


def test_init_ca_makes_the_cas_and_their_files(nothing_yet: Path) -> None:
    said = run("init_ca")

    root, *issuing = x509.load_pem_x509_certificates((nothing_yet / "ca.crt").read_bytes())
    assert len(issuing) == 2
    for one in issuing:
        one.verify_directly_issued_by(root)
    assert str(path_of(Issuer.ROOT)) in said
    for name in (Issuer.ROOT, Issuer.CLIENTS, Issuer.SERVERS):
        assert mode(path_of(name)) == 0o600
    assert mode(nothing_yet / "ca") == 0o700
    assert number(published()) == Crl.objects.get(issuer__name=Issuer.CLIENTS).number


def test_a_second_init_ca_is_refused_and_changes_nothing(nothing_yet: Path) -> None:
    run("init_ca")
    before = {file: file.read_bytes() for file in nothing_yet.rglob("*") if file.is_file()}

    assert "there is a CA already" in refused("init_ca")

    assert {file: file.read_bytes() for file in nothing_yet.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("half", [Issuer.ROOT, Issuer.CLIENTS, Issuer.SERVERS])
def test_a_key_without_its_database_is_never_overwritten(nothing_yet: Path, half: str) -> None:
    path_of(half).parent.mkdir()
    path_of(half).write_bytes(b"the only copy")

    assert "Restore the database that belongs to it, or move the key away" in refused("init_ca")

    assert path_of(half).read_bytes() == b"the only copy"
    assert not Issuer.objects.exists()


def test_a_ca_whose_files_cannot_be_written_is_no_ca(nothing_yet: Path, settings: Any) -> None:
    (nothing_yet / "file").touch()
    settings.CA_FILE = nothing_yet / "file" / "ca.crt"

    with pytest.raises(OSError, match="file"):
        run("init_ca")
    assert not Issuer.objects.exists()


# --- issue_cert -------------------------------------------------------------------------------------------------------


def test_issue_cert_writes_a_pair_and_the_ca(people: People) -> None:
    said = run("issue_cert", "alice", "--role", "client")

    key = load_pem_private_key((people.folder / "alice.key").read_bytes(), password=None)
    leaf = x509.load_pem_x509_certificate((people.folder / "alice.crt").read_bytes())
    assert key.public_key() == leaf.public_key()
    assert mode(people.folder / "alice.key") == 0o600
    assert mode(people.folder / "alice.crt") == 0o644
    assert Certificate.objects.get().serial_number in said


def test_issue_cert_writes_to_another_folder(people: People, tmp_path: Path) -> None:
    run("issue_cert", "alice", "--role", "client", "--out", str(tmp_path / "for alice"))

    assert {file.name for file in (tmp_path / "for alice").iterdir()} == {"alice.crt", "alice.key", "ca.crt"}
    assert (tmp_path / "for alice" / "ca.crt").read_bytes() == (people.folder / "ca.crt").read_bytes()


def test_issue_cert_names_the_second_usage_of_a_role(people: People) -> None:
    run("issue_cert", "ingest", "--role", "ingest", "--dns", "localhost", "--ip", "127.0.0.1")
    run("issue_cert", "ingest", "--role", "ingest", "--usage", "client")

    assert (people.folder / "ingest.key").exists()
    assert (people.folder / "ingest-client.key").exists()


def test_issue_cert_with_a_csr_writes_no_key(people: People, tmp_path: Path) -> None:
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    file = tmp_path / "alice.csr"
    file.write_bytes(csr.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM))

    run("issue_cert", "alice", "--role", "client", "--csr", str(file))

    assert (people.folder / "alice.crt").exists()
    assert not (people.folder / "alice.key").exists()


def test_an_empty_csr_file_is_not_taken_for_none(people: People, tmp_path: Path) -> None:
    (tmp_path / "empty.csr").touch()

    assert "is empty" in refused("issue_cert", "alice", "--role", "client", "--csr", str(tmp_path / "empty.csr"))
    assert "cannot be read" in refused("issue_cert", "alice", "--role", "client", "--csr", str(tmp_path / "none.csr"))
    assert not Certificate.objects.exists()


def test_an_existing_key_is_never_overwritten(people: People) -> None:
    run("issue_cert", "alice", "--role", "client")
    before = (people.folder / "alice.key").read_bytes()

    assert "exists already" in refused("issue_cert", "alice", "--role", "client")

    assert (people.folder / "alice.key").read_bytes() == before
    assert Certificate.objects.count() == 1


def test_issue_cert_passes_a_refusal_on_in_words(people: People) -> None:
    assert "use 1 to 64 of a-z" in refused("issue_cert", "Alice", "--role", "client")
    assert "not 1000" in refused("issue_cert", "alice", "--role", "client", "--days", "1000")
    path_of(Issuer.CLIENTS).unlink()
    assert "the key of the clients CA cannot be used" in refused("issue_cert", "alice", "--role", "client")


# --- revoke_cert ------------------------------------------------------------------------------------------------------


def test_revoke_cert_by_name_revokes_all_live_ones(people: People) -> None:
    numbers = {people.issue("alice", "client").row.serial_number for _ in range(2)}

    said = run("revoke_cert", "alice", "--reason", "superseded")

    assert listed() == numbers
    assert all(number in said for number in numbers)
    assert set(Certificate.objects.values_list("reason", flat=True)) == {"superseded"}


@pytest.mark.parametrize("spelling", ["plain", "upper", "colons", "zeros"])
def test_revoke_cert_by_serial_number_as_people_copy_it(people: People, spelling: str) -> None:
    people.issue("alice", "client")
    serial_number = people.issue("alice", "client").row.serial_number
    even = serial_number.zfill(len(serial_number) + len(serial_number) % 2).upper()
    typed = {
        "plain": serial_number,
        "upper": serial_number.upper(),
        "colons": ":".join(even[start : start + 2] for start in range(0, len(even), 2)),
        "zeros": "00" + even,
    }[spelling]

    run("revoke_cert", typed)

    assert listed() == {serial_number}


def test_a_name_of_several_roles_must_be_told_apart(people: People) -> None:
    people.issue("alice", "client")
    admin = people.issue("alice", "admin").row

    assert "several roles (admin, client): add --role" in refused("revoke_cert", "alice")
    assert listed() == set()

    run("revoke_cert", "alice", "--role", "admin")
    assert listed() == {admin.serial_number}


def test_an_unknown_name_is_told(people: People) -> None:
    assert "no certificate named or numbered 'nobody'" in refused("revoke_cert", "nobody")


def test_revoking_again_publishes_again(people: People) -> None:
    """The first try may have failed between the commit and the file."""
    people.issue("alice", "client")
    run("revoke_cert", "alice")
    (people.folder / "crl.pem").unlink()

    assert "Nothing to revoke" in run("revoke_cert", "alice")
    assert len(listed()) == 1


def test_without_the_key_revoke_cert_says_that_nothing_was_revoked(people: People) -> None:
    people.issue("alice", "client")
    path_of(Issuer.CLIENTS).unlink()

    assert "Nothing was revoked" in refused("revoke_cert", "alice")
    assert Certificate.objects.get().revoked_at is None


# --- list_certs, publish_crl ------------------------------------------------------------------------------------------


def test_list_certs_shows_state_and_filters(people: People) -> None:
    people.issue("alice", "client")
    people.issue("bob", "client")
    people.issue("root", "admin")
    people.revoke("bob")

    everything = run("list_certs").splitlines()
    assert [line.split()[:3] for line in everything[1:]] == [
        ["valid", "admin", "root"],
        ["valid", "client", "alice"],
        ["revoked", "client", "bob"],
    ]
    assert "bob" not in run("list_certs", "--live")
    assert "root" not in run("list_certs", "--role", "client")


@pytest.fixture
def ending(people: People) -> People:
    """alice has 5 days left, bob 50; dora is revoked, erin was replaced, and both would end tomorrow."""
    for name, days in (("alice", 5), ("bob", 50), ("dora", 1), ("erin", 1)):
        people.issue(name, "client", days=days)
    people.revoke("dora")
    Certificate.objects.filter(name="erin").update(superseded_at=timezone.now())
    return people


def listing(*arguments: str) -> list[dict[str, str]]:
    return list(json.loads(run("list_certs", "--json", *arguments)))


def test_list_certs_shows_what_expires_soon_and_is_still_needed(ending: People) -> None:
    assert [one["name"] for one in listing("--expiring", "6")] == ["alice"]
    assert [one["name"] for one in listing("--expiring", "60")] == ["alice", "bob"]
    assert listing("--expiring", "4") == []


def test_list_certs_shows_the_cas_that_expire_before_them(ending: People) -> None:
    names = [one["name"] for one in listing("--expiring", "1096")]
    assert names == ["clients", "servers", "alice", "bob"]
    assert [one["name"] for one in listing("--expiring", "3651")][:3] == ["root", "clients", "servers"]
    assert {one["usage"] for one in listing("--expiring", "3651")[:3]} == {"ca"}
    assert "(CA)" in run("list_certs", "--expiring", "1096")


def test_list_certs_for_programs_says_all_that_the_table_says_and_more(ending: People) -> None:
    row = Certificate.objects.get(name="dora")

    (one,) = [one for one in listing() if one["name"] == "dora"]

    assert one == {
        "state": "revoked",
        "role": "client",
        "name": "dora",
        "usage": "client",
        "serial_number": row.serial_number,
        "not_before": row.not_before.isoformat(),
        "not_after": row.not_after.isoformat(),
        "reason": "",
    }
    assert {one["name"]: one["state"] for one in listing()} == {
        "alice": "valid",
        "bob": "valid",
        "dora": "revoked",
        "erin": "superseded",
    }
    assert listing("--role", "admin") == []


def test_every_command_of_the_ca_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(finding.__file__).parent / "commands"
    for command in sorted(file.stem for file in folder.glob("[a-z]*.py")):
        with pytest.raises(SystemExit) as ended:
            call_command(command, "--help")
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert f"usage: manage.py {command}" in said or f" {command} " in said.splitlines()[0]
        assert len(said) > 500


@pytest.mark.parametrize("command", ["check_tls", "export_p12", "list_audit", "show_cert"])
def test_the_examples_in_a_help_text_can_be_parsed(command: str) -> None:
    loaded = load_command_class("certs_app", command)
    parser = loaded.create_parser("manage.py", command)

    for _, arguments in loaded.examples:
        parser.parse_args(shlex.split(arguments))
    assert f"manage.py {command} {loaded.examples[0][1]}\n" in parser.format_help()


def test_publish_crl_issues_the_next_list(people: People) -> None:
    said = run("publish_crl")

    assert f"Published list {number(published())} of the clients CA" in said
    assert Crl.objects.filter(issuer__name=Issuer.CLIENTS).count() == 2


def test_publish_crl_without_a_ca_says_what_to_do(nothing_yet: Path) -> None:
    assert "run `manage.py init_ca` first" in refused("publish_crl")


def test_publish_crl_without_its_key_says_so(people: People) -> None:
    path_of(Issuer.CLIENTS).chmod(0o644)

    assert "chmod 600" in refused("publish_crl")
