"""System checks of certificates and lists: a misconfiguration is told at start, not at the first handshake."""

from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.utils import timezone

from certs_app.files import UnsafeFile, read_secret
from certs_app.revocation import pem_blocks

INIT = "Run `manage.py up` once, or `manage.py init_ca` and `manage.py issue_cert`."


@register("certificates")
def certificates(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """Check each certificate this process is configured with: readable, its key private and fitting, not expired."""
    pairs = [getattr(settings, name, None) for name in ("SERVER_CERTIFICATE", "CLIENT_CERTIFICATE")]
    found: list[CheckMessage] = []
    for pair in pairs:
        if pair is not None:
            found += _check_pair(pair["certificate"], pair["key"])
    return found


def _check_pair(certificate_file: Path, key_file: Path) -> list[CheckMessage]:
    try:
        certificate = x509.load_pem_x509_certificates(certificate_file.read_bytes())[0]
    except (OSError, ValueError) as error:
        return [Error(f"The certificate {certificate_file} cannot be read: {error}", hint=INIT, id="msgsys.E101")]
    try:
        key = load_pem_private_key(read_secret(key_file), password=None)
    except (UnsafeFile, ValueError, TypeError) as error:
        return [Error(f"The private key {key_file} cannot be used: {error}", hint=INIT, id="msgsys.E102")]
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        return [
            Error(f"{key_file} is not the key of {certificate_file}.", hint="Issue the pair again.", id="msgsys.E103")
        ]
    left = certificate.not_valid_after_utc - timezone.now()
    if left.total_seconds() <= 0:
        return [Error(f"The certificate {certificate_file} has expired.", hint="Issue it again.", id="msgsys.E104")]
    if left.days < 14:
        return [CheckWarning(f"The certificate {certificate_file} expires in {left.days} days.", id="msgsys.W105")]
    return []


@register("certificates")
def revocation_lists(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """Check that the CA bundle and the lists are there, signed by those CAs, and in date."""
    if not (getattr(settings, "SERVER_CERTIFICATE", None) or getattr(settings, "CLIENT_CERTIFICATE", None)):
        return []
    try:
        authorities = x509.load_pem_x509_certificates(settings.CA_FILE.read_bytes())
    except (OSError, ValueError) as error:
        return [Error(f"The CA bundle {settings.CA_FILE} cannot be read: {error}", hint=INIT, id="msgsys.E106")]
    try:
        lists = [x509.load_pem_x509_crl(block) for block in pem_blocks(settings.CRL_FILE.read_bytes())]
    except (OSError, ValueError) as error:
        return [Error(f"The revocation list {settings.CRL_FILE} cannot be read: {error}", hint=INIT, id="msgsys.E107")]
    in_use = _in_use(authorities, lists)
    roots = [one for one in in_use if one.issuer == one.subject]
    issuing = [one for one in in_use if one.issuer != one.subject]
    of_issuing = [message for authority in issuing for message in _check_list(authority, lists)]
    return [message for root in roots for message in _check_list(root, lists)] + _one_is_enough(of_issuing, issuing)


def _in_use(authorities: list[x509.Certificate], lists: list[x509.CertificateRevocationList]) -> list[x509.Certificate]:
    """Return the CAs whose lists matter: not those that have ended, nor a root that has signed nothing yet."""
    revoked = {(crl.issuer, entry.serial_number) for crl in lists for entry in crl}
    parents = {authority.issuer for authority in authorities if authority.issuer != authority.subject}
    return [
        one
        for one in authorities
        if one.not_valid_after_utc > timezone.now()
        and (one.issuer, one.serial_number) not in revoked
        and (one.issuer != one.subject or one.subject in parents)
    ]


def _check_list(authority: x509.Certificate, lists: list[x509.CertificateRevocationList]) -> list[CheckMessage]:
    name = authority.subject.rfc4514_string()
    own = next((crl for crl in lists if crl.issuer == authority.subject), None)
    hint = "Run `manage.py publish_crl`."
    if own is None:
        return [
            Error(f"There is no revocation list of {name}: every handshake would fail.", hint=hint, id="msgsys.E108")
        ]
    try:
        valid = own.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # CA keys are EC or RSA
    except (InvalidSignature, TypeError):
        valid = False
    if not valid:
        return [Error(f"The revocation list of {name} is not signed by it.", hint=hint, id="msgsys.E109")]
    if own.next_update_utc is None or own.next_update_utc <= timezone.now():
        return [Error(f"The revocation list of {name} is out of date.", hint=hint, id="msgsys.E110")]
    return []


def _one_is_enough(messages: list[CheckMessage], issuing: list[x509.Certificate]) -> list[CheckMessage]:
    """Let an outdated list of one issuing CA be a warning while another's is good: only its own are refused."""
    outdated = [one for one in messages if one.id == "msgsys.E110"]
    if len(messages) != len(outdated) or len(outdated) >= len(issuing):
        return messages
    return [CheckWarning(one.msg, hint=one.hint, id="msgsys.W112") for one in outdated]


@register("certificates")
def proxy_token(app_configs: Any, **options: Any) -> list[CheckMessage]:
    """Behind a TLS terminator, its token must be one that cannot be guessed and that stands in a header as it is."""
    if settings.ROLE == "operator" or getattr(settings, "BEHIND_PROXY", None) is None:
        return []
    if len(settings.PROXY_TOKEN) >= 32 and settings.PROXY_TOKEN.replace("-", "").replace("_", "").isalnum():
        return []
    # The jobs run under the registry's settings.
    role = "REGISTRY" if settings.ROLE == "jobs" else settings.ROLE.upper()
    name = f"MSGSYS_{role}_PROXY_TOKEN"
    hint = f"Run `manage.py up` once, or write 32 or more of A-Z, a-z, 0-9, - and _ into the file {name}_FILE names."
    return [Error(f"{name} is missing, short or has other characters.", hint=hint, id="msgsys.E111")]
