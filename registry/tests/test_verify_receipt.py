"""A receipt proves what it says to whoever has the CA's certificates, and nothing when anything about it is wrong."""

import base64
import hmac
import io
import json
import shlex
import sys
from datetime import timedelta

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from django.core.management import CommandError, call_command, load_command_class
from django.utils import timezone

from certs_app.audit import Actor
from certs_app.authority import init_ca
from certs_app.files import write_secret
from certs_app.issuing import Request, issue
from registry import receipts
from registry.tests.conftest import BODY, SENDER, a_row, new_id


@pytest.fixture
def signer(people, settings):
    """The registry's certificate, or another one in its place: the receipts are signed with that."""

    def use(name="registry", role="registry", **options):
        stem = people.issue(name, role, dns=["localhost"], **options).row.name
        if options.get("usage"):
            stem += f"-{options['usage']}"
        settings.SERVER_CERTIFICATE = {
            "certificate": people.folder / f"{stem}.crt",
            "key": people.folder / f"{stem}.key",
        }

    use()
    return use


@pytest.fixture
def message(people):
    row = a_row(id=new_id())
    row.save()
    return row


@pytest.fixture
def receipt(signer, message):
    return receipts.issue(message, timezone.now())


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command on a receipt; return its exit code and all it says."""

    def go(receipt, *arguments):
        file = tmp_path / "receipt.jws"
        file.write_text(receipt + "\n")
        try:
            call_command("verify_receipt", str(file), *map(str, arguments))
        except CommandError as error:
            return error.returncode, capsys.readouterr().out + str(error)
        return 0, capsys.readouterr().out

    return go


def changed(receipt, **claims):
    """Put other claims under the signature of the old ones."""
    header, _, signature = receipt.split(".")
    kept = jwt.decode(receipt, options={"verify_signature": False})
    return f"{header}.{_encoded(json.dumps({**kept, **claims}).encode())}.{signature}"


def _encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_by_registry(settings, receipt, **claims):
    """Sign other claims with the registry's own key."""
    key = load_pem_private_key(settings.SERVER_CERTIFICATE["key"].read_bytes(), None)
    kept = jwt.decode(receipt, options={"verify_signature": False})
    header = {"x5c": jwt.get_unverified_header(receipt)["x5c"]}
    return jwt.encode({**kept, **claims}, key, algorithm="ES256", headers=header)


def test_a_good_receipt_says_in_words_what_it_proves(run, receipt, message):
    code, said = run(receipt)
    assert code == 0
    assert "Proven: the registry has this message." in said
    for fact in (str(message.uid), "alice", receipts.content_sha256(SENDER, BODY)):
        assert fact in said
    assert BODY not in said
    assert "Not looked at: whether the registry's key was stolen" in said


def test_the_whole_answer_will_do_and_so_will_standard_input(run, receipt, monkeypatch, capsys):
    assert run(json.dumps({"id": "x", "receipt": receipt}))[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(receipt))
    call_command("verify_receipt", "-")
    assert "Proven" in capsys.readouterr().out


def test_the_message_is_compared(run, receipt, tmp_path):
    file = tmp_path / "message.json"
    file.write_text(json.dumps({"sender_number": SENDER, "message_body": BODY, "client_reference": "mine"}))
    code, said = run(receipt, "--message-file", file)
    assert (code, "the very same" in said) == (0, True)
    file.write_text(json.dumps({"sender_number": SENDER, "message_body": BODY + "."}))
    code, said = run(receipt, "--message-file", file)
    assert code == 1
    assert "not about this message" in said
    file.write_text(json.dumps({"sender_number": "1"}))
    code, said = run(receipt, "--message-file", file)
    assert code == 2
    assert "sender_number" in said


@pytest.mark.parametrize("claim", [{"client": "bob"}, {"content_sha256": "0" * 64}, {"iat": 1}])
def test_a_changed_receipt_is_not_proven(run, receipt, claim):
    code, said = run(changed(receipt, **claim))
    assert code == 1
    assert "was changed" in said


def test_a_receipt_signed_by_somebody_else_is_not_proven(run, receipt):
    header = {"x5c": jwt.get_unverified_header(receipt)["x5c"]}
    claims = jwt.decode(receipt, options={"verify_signature": False})
    other = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers=header)
    assert run(other)[0] == 1


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_no_other_algorithm_is_believed(run, receipt, algorithm):
    """The classic forgeries: the public key as a shared secret, and no signature at all."""
    chain = jwt.get_unverified_header(receipt)["x5c"]
    header = json.dumps({"alg": algorithm, "x5c": chain}).encode()
    signed = f"{_encoded(header)}.{receipt.split('.')[1]}"
    key = x509.load_der_x509_certificate(base64.b64decode(chain[0])).public_key()
    secret = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    code, said = run(f"{signed}.{_encoded(hmac.digest(secret, signed.encode(), 'sha256'))}")
    assert code == 1
    assert "forged" in said


@pytest.mark.parametrize(
    "text",
    ["", "hello", "a.b.c", "{}", '{"receipt": null}', "[1]", "x" * 100_000, "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"],
)
def test_what_is_no_receipt_is_told_so(run, people, text):
    code, said = run(text)
    assert code in (1, 2)
    assert "receipt" in said


def test_another_ca_vouches_for_nothing(run, receipt, stranger_ca):
    code, said = run(receipt, "--ca", stranger_ca)
    assert code == 1
    assert "Is it the ca.crt of the system that gave the receipt?" in said


@pytest.fixture
def stranger_ca(tmp_path):
    """carol's root: the same name, another key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), timezone.now()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "carol's CA")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=9))
    made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    file = tmp_path / "stranger.crt"
    file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return file


def test_a_receipt_outlives_every_certificate_behind_it(run, transactional_db, settings, tmp_path):
    long_ago = timezone.now() - timedelta(days=12_000)
    settings.PKI_DIR = settings.CERTIFICATES_DIR = tmp_path
    settings.CA_FILE, settings.CRL_FILE, settings.CA_KEYS_DIR = (tmp_path / n for n in ("ca.crt", "crl.pem", "ca"))
    init_ca(long_ago, Actor("operator:olga"))
    request = Request(name="registry", role="registry", dns=["localhost"])
    issued = issue(request, long_ago, Actor("operator:olga"))
    (tmp_path / "registry.crt").write_bytes(issued.chain_pem)
    write_secret(tmp_path / "registry.key", issued.key_pem)
    settings.SERVER_CERTIFICATE = {"certificate": tmp_path / "registry.crt", "key": tmp_path / "registry.key"}
    row = a_row(id=new_id())
    row.save()
    for certificate in x509.load_pem_x509_certificates(settings.CA_FILE.read_bytes()):
        assert certificate.not_valid_after_utc < timezone.now()
    assert run(receipts.issue(row, long_ago + timedelta(days=1)))[0] == 0
    assert run(receipts.issue(row, timezone.now()))[0] == 1


@pytest.mark.parametrize("days", [-4000, 4000])
def test_a_time_of_signing_outside_the_certificates_is_not_believed(run, receipt, settings, days):
    moved = int((timezone.now() + timedelta(days=days)).timestamp())
    code, said = run(signed_by_registry(settings, receipt, iat=moved))
    assert code == 1
    assert "its certificate was valid from" in said


@pytest.mark.parametrize("claims", [{"iat": "soon"}, {"sub": 1}, {"content_sha256": None}, {"client": "a\x1b[2J"}])
def test_something_else_that_the_registry_signed_is_no_receipt(run, receipt, settings, claims):
    code, said = run(signed_by_registry(settings, receipt, **claims))
    assert code == 1
    assert "no receipt" in said or "was changed" in said


def test_only_a_registry_gives_receipts(run, signer, message):
    signer("ingest", "ingest", usage="server")
    code, said = run(receipts.issue(message, timezone.now()))
    assert code == 1
    assert "signed by ingest/ingest" in said


def test_a_client_cannot_make_a_receipt(run, signer, people, message, settings):
    people.issue("alice", "client")
    settings.SERVER_CERTIFICATE = {
        "certificate": people.folder / "alice.crt",
        "key": people.folder / "alice.key",
    }
    assert run(receipts.issue(message, timezone.now()))[0] == 1


@pytest.mark.parametrize(
    ("reason", "when", "expected"),
    [("key_compromise", "after", 1), ("superseded", "after", 0), ("superseded", "before", 1), ("", "before", 1)],
)
def test_a_revoked_signer_proves_what_it_signed_before_unless_its_key_was_stolen(
    run, signer, people, message, settings, reason, when, expected
):
    moment = timezone.now() + timedelta(seconds=2 if when == "before" else 0)
    receipt = receipts.issue(message, moment - timedelta(seconds=0 if when == "before" else 1))
    people.revoke("registry", reason)
    code, said = run(receipt, "--crl", settings.CRL_FILE)
    assert code == expected
    if reason == "key_compromise":
        assert "its key was stolen" in said
    assert run(receipt)[0] == 0, "without the lists, nobody knows"


def test_with_lists_of_another_ca_nothing_is_proven(run, receipt, settings, tmp_path):
    first = settings.CRL_FILE.read_bytes().split(b"-----END X509 CRL-----")[0] + b"-----END X509 CRL-----\n"
    file = tmp_path / "one.pem"
    file.write_bytes(first)
    assert run(receipt, "--crl", settings.CRL_FILE)[0] == 0
    code, said = run(receipt, "--crl", file)
    assert code == 1
    assert "has none of" in said


def test_files_that_cannot_be_used_are_not_a_verdict(run, receipt, tmp_path, capsys):
    missing = tmp_path / "missing"
    assert run(receipt, "--ca", missing)[0] == 2
    assert run(receipt, "--crl", missing)[0] == 2
    assert run(receipt, "--message-file", missing)[0] == 2
    with pytest.raises(CommandError) as error:
        call_command("verify_receipt", str(missing))
    assert error.value.returncode == 2


@pytest.mark.parametrize("kind", ["RSA", "P-384"])
def test_a_registry_may_have_a_key_of_another_kind(run, people, message, settings, kind):
    key = rsa.generate_private_key(65537, 3072) if kind == "RSA" else ec.generate_private_key(ec.SECP384R1())
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    people.issue("registry", "registry", dns=["localhost"], csr=csr.public_bytes(Encoding.PEM))
    file = people.folder / "own.key"
    write_secret(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    settings.SERVER_CERTIFICATE = {"certificate": people.folder / "registry.crt", "key": file}
    assert run(receipts.issue(message, timezone.now()))[0] == 0


def test_help_and_examples():
    loaded = load_command_class("registry", "verify_receipt")
    parser = loaded.create_parser("manage.py", "verify_receipt")
    for _, arguments in loaded.examples:
        parser.parse_args(shlex.split(arguments))
    assert "manage.py verify_receipt receipt.jws --ca ca.crt" in parser.format_help()
