from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    KeySerializationEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PBES,
    PKCS12PrivateKeyTypes,
    serialize_key_and_certificates,
)
from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from certs_app.description import issued_by
from certs_app.files import UnsafeFile, read_secret, write_secret
from certs_app.management import asking, finding
from certs_app.management.teaching import TeachingCommand

# OWASP's figure for PBKDF2 with SHA-256.
ROUNDS = 600_000


class Command(TeachingCommand):
    help = (
        "Put a key, its certificate and its CAs into one file (PKCS #12) for a browser or for Windows. The file is "
        "encrypted with a password, which is asked for: it is never an argument."
    )
    examples = (
        ("A browser's certificate: writes alice.p12 beside alice.crt", "alice"),
        ("For Windows before 10 1709, Windows Server before 2019 and macOS before 15", "alice --legacy"),
        ("Without a terminal", "alice --password-file password.txt --out alice.p12"),
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("stem", metavar="STEM", help="name of a pair in the certificate folder: STEM.crt, STEM.key")
        parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: STEM.p12 beside them)")
        parser.add_argument("--password-file", type=Path, metavar="FILE", help="file whose first line is the password")
        parser.add_argument("--force", action="store_true", help="replace a file that is there")
        parser.add_argument(
            "--legacy", action="store_true", help="weak encryption (3DES, SHA-1) that old systems can read"
        )

    def handle(self, **options: Any) -> None:
        certificate_file, key_file = finding.pair(options["stem"])
        certificates, key = _read(certificate_file, key_file)
        out = options["out"] or certificate_file.with_suffix(".p12")
        # Before the password is asked for, and once more when it is written.
        if out.exists() and not options["force"]:
            raise CommandError(f"{out} exists already and is not overwritten: move it away, or add --force")
        password = asking.secret(options["password_file"], "Password for the file").encode()
        encryption = _legacy(password) if options["legacy"] else _modern(password)
        content = serialize_key_and_certificates(
            options["stem"].encode(), key, certificates[0], certificates[1:], encryption
        )
        try:
            write_secret(out, content, replace=options["force"])
        except OSError as error:
            raise CommandError(f"{out} cannot be written: {error}") from None
        self.stdout.write(f"Wrote {out}: the key, the certificate and {len(certificates) - 1} CA certificates.")
        if options["legacy"]:
            self.stdout.write("Its encryption is weak: pass it on like a bare key, and delete it once it is imported.")


def _read(certificate_file: Path, key_file: Path) -> tuple[list[x509.Certificate], PKCS12PrivateKeyTypes]:
    """Return the certificate, followed by its CAs up to the root, and its key."""
    try:
        chain = x509.load_pem_x509_certificates(certificate_file.read_bytes())
        authorities = x509.load_pem_x509_certificates(settings.CA_FILE.read_bytes())
        key = load_pem_private_key(read_secret(key_file), password=None)
    except (OSError, UnsafeFile, ValueError, TypeError) as error:
        raise CommandError(f"the pair cannot be used: {error}") from None
    if key.public_key() != chain[0].public_key():
        raise CommandError(f"{key_file} is not the key of {certificate_file}")
    whole = chain[:1]
    while (above := issued_by(whole[-1], [*chain[1:], *authorities])) not in (None, whole[-1]):
        assert above is not None
        whole.append(above)
    return whole, key  # type: ignore[return-value]  # a key that has a certificate can sign


def _modern(password: bytes) -> KeySerializationEncryption:
    return (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(ROUNDS)
        .key_cert_algorithm(PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password)
    )


def _legacy(password: bytes) -> KeySerializationEncryption:
    return (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(50_000)
        .key_cert_algorithm(PBES.PBESv1SHA1And3KeyTripleDESCBC)
        .hmac_hash(hashes.SHA1())  # noqa: S303  what the old systems know
        .build(password)
    )
