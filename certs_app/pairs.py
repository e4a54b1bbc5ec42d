"""A certificate and its key, replaced together."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from certs_app.files import read_secret, write_atomic, write_secret


def replace_pair(certificate: Path, key: Path, chain_pem: bytes, key_pem: bytes) -> None:
    """Replace a certificate and its key so that no crash leaves a pair that does not fit.

    Two files cannot be replaced in one step. Both are written beside them first, as one: whoever finds that file
    finishes the work. Between the two steps readers see a pair that does not fit, for some milliseconds.
    """
    write_secret(_staged(certificate), key_pem + chain_pem, replace=True)
    _put_in_place(certificate, key)


def finish_replacing(certificate: Path, key: Path) -> None:
    """Finish a replacement that a crash cut short, if there is one, and nobody has put a newer pair in place since.

    Raises UnsafeFile, OSError.
    """
    staged = _staged(certificate)
    if not staged.exists():
        return
    if _begins(staged) >= _begins(certificate):
        _put_in_place(certificate, key)
    else:
        staged.unlink(missing_ok=True)


def _put_in_place(certificate: Path, key: Path) -> None:
    staged = _staged(certificate)
    key_pem, begin, chain_pem = read_secret(staged).partition(b"-----BEGIN CERTIFICATE-----")
    write_secret(key, key_pem, replace=True)
    write_atomic(certificate, begin + chain_pem)
    staged.unlink(missing_ok=True)


def _begins(file: Path) -> datetime:
    """Return when the first certificate in a file begins; long ago when there is none."""
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())[0].not_valid_before_utc
    except (OSError, ValueError):
        return datetime.min.replace(tzinfo=UTC)


def _staged(certificate: Path) -> Path:
    return certificate.with_name(f".{certificate.name}.renewed")
