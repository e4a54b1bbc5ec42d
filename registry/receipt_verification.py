"""What a receipt proves to whoever has the CA's certificates: no database, no key, no connection is needed.

The signature is the registry certificate's; that certificate is the CA's, and was valid when it signed (`iat`).
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from certs_app.description import issued_by
from certs_app.identity import IdentityError, serial_hex, spiffe_identity, spiffe_uri
from certs_app.inspection import Trust
from registry.receipts import algorithm_of

MOST_CHARACTERS = 64 * 1024
MOST_CERTIFICATES = 5
# Who has the key can sign anything, with any time in it.
_STOLEN = {x509.ReasonFlags.key_compromise, x509.ReasonFlags.ca_compromise}


class NotProven(Exception):
    """The receipt proves nothing. The message says why, and what may be the cause."""


@dataclass(frozen=True)
class Proof:
    """What the registry has signed: it has this client's message of this id and content. Times are in UTC.

    `signer` is the serial number of the registry's certificate (hex), `content_sha256` is hex.
    """

    id: UUID
    client: str
    received_at: datetime
    stored_at: datetime
    signed_at: datetime
    content_sha256: str
    signer: str


def verify(receipt: str, trust: Trust, trust_domain: str) -> Proof:
    """Return what a receipt (compact JWS) proves. Raises NotProven.

    Revocation is looked at when `trust` has lists: each CA above the signer must then have its own.
    """
    chain = _chain(receipt)
    claims = _signed_claims(receipt, chain[0])
    proof = _proof(claims, chain[0])
    _check_chain(chain, trust.authorities, proof.signed_at)
    _check_registry(chain[0], claims, trust_domain)
    if trust.lists:
        _check_revocation(chain, trust, proof.signed_at)
    return proof


def _chain(receipt: str) -> list[x509.Certificate]:
    if len(receipt) > MOST_CHARACTERS or not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", receipt, re.ASCII):
        raise NotProven(
            "This is not a receipt: a receipt is one line of three parts with dots between them, the value of "
            '"receipt" in the answer to GET /messages/<id>.'
        )
    try:
        encoded = jwt.get_unverified_header(receipt)["x5c"]
        if not 1 <= len(encoded) <= MOST_CERTIFICATES:
            raise ValueError("a chain has 1 to 5 certificates")
        return [x509.load_der_x509_certificate(base64.b64decode(one, validate=True)) for one in encoded]
    except (jwt.InvalidTokenError, KeyError, ValueError, TypeError):
        raise NotProven("This is not a receipt: it does not bring the registry's certificate (x5c).") from None


def _signed_claims(receipt: str, signer: x509.Certificate) -> dict[str, Any]:
    key = signer.public_key()
    try:
        # The time is judged with the chain; nothing in a receipt runs out.
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
        claims: dict[str, Any] = jwt.decode(receipt, key, algorithms=[algorithm_of(key)], options=options)  # type: ignore[arg-type]  # algorithm_of has seen its kind
    except jwt.InvalidAlgorithmError:
        raise NotProven("The receipt is forged: its certificate's key does not sign in this way.") from None
    except (jwt.InvalidTokenError, ValueError):
        raise NotProven(
            "The receipt was changed: its signature does not fit. Was it copied whole, without line breaks?"
        ) from None
    return claims


def _proof(claims: dict[str, Any], signer: x509.Certificate) -> Proof:
    try:
        return Proof(
            id=UUID(claims["sub"]),
            client=_text(claims["client"], r"[\w.:-]{1,100}"),
            received_at=datetime.fromisoformat(claims["received_at"]).astimezone(UTC),
            stored_at=datetime.fromisoformat(claims["stored_at"]).astimezone(UTC),
            signed_at=datetime.fromtimestamp(claims["iat"], UTC),
            content_sha256=_text(claims["content_sha256"], r"[0-9a-f]{64}"),
            signer=serial_hex(signer.serial_number),
        )
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, OSError):
        raise NotProven("This is signed, but it is no receipt: what a receipt says is not in it.") from None


def _text(value: str, form: str) -> str:
    if not re.fullmatch(form, value, re.ASCII):
        raise ValueError(form)
    return value


def _check_chain(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], at: datetime) -> None:
    signer, *between = chain
    if not signer.not_valid_before_utc <= at <= signer.not_valid_after_utc:
        raise NotProven(
            f"The receipt says it was signed at {_time(at)}, but its certificate was valid from "
            f"{_time(signer.not_valid_before_utc)} to {_time(signer.not_valid_after_utc)} only."
        )
    roots = [one for one in authorities if one.issuer == one.subject]
    if not roots:
        raise NotProven("The CA file holds no root certificate: fetch ca.crt from whoever runs the CA.")
    between += [one for one in authorities if one.issuer != one.subject]
    try:
        policy = PolicyBuilder().store(Store(roots)).time(at).max_chain_depth(MOST_CERTIFICATES)
        policy.build_server_verifier(_host(signer)).verify(signer, between)
    except (VerificationError, ValueError, UnsupportedAlgorithm) as error:
        raise NotProven(
            "No CA of the CA file vouches for whoever signed the receipt. Is it the ca.crt of the system that gave the "
            f"receipt? ({str(error).splitlines()[0][:200]})"
        ) from None


def _host(signer: x509.Certificate) -> x509.DNSName | x509.IPAddress:
    """Return one of the names it has: the chain is judged as a server's, and which server is not the question."""
    try:
        names = signer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("the certificate has no name") from None
    for name in names:
        if isinstance(name, x509.DNSName | x509.IPAddress):
            return name
    raise ValueError("the certificate is not a server's")


def _check_registry(signer: x509.Certificate, claims: dict[str, Any], trust_domain: str) -> None:
    try:
        role, name = spiffe_identity(signer, trust_domain)
    except IdentityError as error:
        raise NotProven(f"Our CA vouches for whoever signed this, but not as a registry: {error}.") from None
    if role != "registry" or claims.get("iss") != spiffe_uri(trust_domain, role, name):
        raise NotProven(f"This was signed by {role}/{name}. Only a registry gives receipts.")


def _check_revocation(chain: Sequence[x509.Certificate], trust: Trust, at: datetime) -> None:
    known = [*chain, *trust.authorities]
    certificate: x509.Certificate | None = chain[0]
    for _ in range(MOST_CERTIFICATES):
        if certificate is None or certificate.issuer == certificate.subject:
            return
        issuer = issued_by(certificate, known)
        if issuer is not None:
            _check_list(issuer, trust)
        entry = trust.revoked(certificate)
        if entry is not None:
            _check_entry(certificate, entry, at)
        certificate = issuer


def _check_list(issuer: x509.Certificate, trust: Trust) -> None:
    own = [one for one in trust.lists if one.issuer == issuer.subject]
    name = issuer.subject.rfc4514_string()
    if not own:
        raise NotProven(f"The file of revocation lists has none of {name}: fetch crl.pem from the registry.")
    try:
        genuine = all(one.is_signature_valid(issuer.public_key()) for one in own)  # type: ignore[arg-type]  # CA keys are EC or RSA
    except (TypeError, ValueError, InvalidSignature, UnsupportedAlgorithm):
        genuine = False
    if not genuine:
        raise NotProven(f"The revocation list of {name} is forged or damaged: fetch crl.pem from the registry.")


def _check_entry(certificate: x509.Certificate, entry: x509.RevokedCertificate, at: datetime) -> None:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        reason = x509.ReasonFlags.unspecified
    serial = serial_hex(certificate.serial_number)
    revoked = f"The certificate {serial} behind the receipt was revoked at {_time(entry.revocation_date_utc)}"
    if reason in _STOLEN:
        raise NotProven(
            f"{revoked} because its key was stolen: a thief can sign anything, with any time in it, so this proves "
            "nothing. Ask the registry for a new receipt."
        )
    if entry.revocation_date_utc <= at:
        raise NotProven(f"{revoked}, and the receipt was signed after that. Ask the registry for a new one.")


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
