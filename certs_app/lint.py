"""The rules every certificate is held to before its CA signs it. Each names its clause; each is one line to read.

What a builder holds cannot be looked at, so it is signed first with a key that nobody trusts, and that is judged.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from certs_app.profiles import EKU, SERVER, key_usage

_NOBODYS_KEY = ec.generate_private_key(ec.SECP256R1())

Extension = TypeVar("Extension", bound=x509.ExtensionType)


class LintError(Exception):
    """A certificate would break the rules named in the message: a fault of this program, never of its user."""


@dataclass(frozen=True)
class Draft:
    """A certificate to be signed, with what it is meant to be. `issuer` is None for a root."""

    certificate: x509.Certificate
    issuer: x509.Certificate | None
    uri: str = ""
    usage: str = ""

    def value(self, kind: type[Extension]) -> Extension | None:
        try:
            return self.certificate.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    def critical(self) -> set[x509.ObjectIdentifier]:
        return {extension.oid for extension in self.certificate.extensions if extension.critical}

    def names(self, *kinds: type[x509.GeneralName]) -> list[object]:
        names = self.value(x509.SubjectAlternativeName)
        return [name.value for name in names or () if isinstance(name, kinds)]


@dataclass(frozen=True)
class Rule:
    clause: str
    sentence: str
    holds: Callable[[Draft], bool]


def _validity_within_issuer(draft: Draft) -> bool:
    return draft.issuer is None or draft.certificate.not_valid_after_utc <= draft.issuer.not_valid_after_utc


def _issuer_named(draft: Draft) -> bool:
    return draft.certificate.issuer == (draft.issuer or draft.certificate).subject


def _authority_key(draft: Draft) -> bool:
    found = draft.value(x509.AuthorityKeyIdentifier)
    if draft.issuer is None:
        return found is None
    wanted = draft.issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return found is not None and found.key_identifier == wanted


def _subject_key(draft: Draft) -> bool:
    return draft.value(x509.SubjectKeyIdentifier) == x509.SubjectKeyIdentifier.from_public_key(
        draft.certificate.public_key()
    )


def _host_names_belong(draft: Draft) -> bool:
    return bool(draft.names(x509.DNSName, x509.IPAddress)) == (draft.usage == SERVER)


EVERY = (
    Rule("RFC 5280 §4.1.2.1", "the version is 3", lambda d: d.certificate.version is x509.Version.v3),
    Rule(
        "RFC 5280 §4.1.2.2",
        "the serial number is positive, has at most 20 octets and at least 64 bits",
        lambda d: d.certificate.serial_number > 0 and 64 <= d.certificate.serial_number.bit_length() <= 159,
    ),
    Rule("RFC 5280 §4.1.2.4", "the issuer is the CA's subject", _issuer_named),
    Rule(
        "RFC 5280 §4.1.2.5",
        "it begins before it ends",
        lambda d: d.certificate.not_valid_before_utc < d.certificate.not_valid_after_utc,
    ),
    Rule("RFC 5280 §4.1.2.5", "it does not outlive its issuer", _validity_within_issuer),
    Rule("RFC 5280 §4.1.2.6", "the subject is not empty", lambda d: len(list(d.certificate.subject)) > 0),
    Rule("RFC 5280 §4.2.1.1", "the authority key identifier is the issuer's key", _authority_key),
    Rule("RFC 5280 §4.2.1.2", "the subject key identifier is its own key's", _subject_key),
    Rule(
        "RFC 5280 §4.2",
        "basic constraints and key usage are critical, nothing else is",
        lambda d: d.critical() == {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE},
    ),
)

LEAF = (
    *EVERY,
    Rule(
        "RFC 5280 §4.2.1.9",
        "it is no CA",
        lambda d: d.value(x509.BasicConstraints) == x509.BasicConstraints(ca=False, path_length=None),
    ),
    Rule(
        "RFC 5280 §4.2.1.3",
        "its key signs and does nothing else",
        lambda d: d.value(x509.KeyUsage) == key_usage("digital_signature"),
    ),
    Rule(
        "RFC 5280 §4.2.1.12",
        "it has exactly one extended key usage, its profile's",
        lambda d: d.value(x509.ExtendedKeyUsage) == x509.ExtendedKeyUsage([EKU[d.usage]]),
    ),
    Rule(
        "SPIFFE X509-SVID §2",
        "it has exactly one SAN URI, its identity",
        lambda d: d.names(x509.UniformResourceIdentifier) == [d.uri],
    ),
    Rule("RFC 9525 §6.1", "servers have host names or addresses, clients have none", _host_names_belong),
    Rule(
        "RFC 5280 §4.2",
        "it has six extensions and no seventh",
        lambda d: len(d.certificate.extensions) == 6,
    ),
)

CA = (
    *EVERY,
    Rule(
        "RFC 5280 §4.2.1.9",
        "it is a CA, with one CA below a root and none below an issuing CA",
        lambda d: (
            d.value(x509.BasicConstraints) == x509.BasicConstraints(ca=True, path_length=1 if d.issuer is None else 0)
        ),
    ),
    Rule(
        "RFC 5280 §4.2.1.3",
        "its key signs certificates and lists",
        lambda d: d.value(x509.KeyUsage) == key_usage("key_cert_sign", "crl_sign"),
    ),
    Rule(
        "RFC 5280 §4.2.1.12",
        "an issuing CA has exactly one extended key usage, a root none",
        lambda d: len(d.value(x509.ExtendedKeyUsage) or ()) == (0 if d.issuer is None else 1),
    ),
)


def check_leaf(builder: x509.CertificateBuilder, issuer: x509.Certificate, uri: str, usage: str) -> None:
    """Raise LintError when the certificate that `builder` makes breaks a rule."""
    _check(LEAF, Draft(_draft(builder), issuer, uri, usage))


def check_ca(builder: x509.CertificateBuilder, issuer: x509.Certificate | None) -> None:
    """Raise LintError when the CA certificate that `builder` makes breaks a rule."""
    _check(CA, Draft(_draft(builder), issuer))


def _draft(builder: x509.CertificateBuilder) -> x509.Certificate:
    return builder.sign(_NOBODYS_KEY, hashes.SHA256())


def _check(rules: Iterable[Rule], draft: Draft) -> None:
    broken = [f"{rule.sentence} ({rule.clause})" for rule in rules if not rule.holds(draft)]
    if broken:
        raise LintError(f"not signed, it breaks: {'; '.join(broken)}")
