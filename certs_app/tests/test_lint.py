"""Each rule that certificates are held to: broken alone, it is the one that is named."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs_app import lint, profiles
from certs_app.lint import LintError
from certs_app.profiles import key_usage

NOW = datetime(2026, 11, 24, tzinfo=UTC)
KEY, OTHER_KEY, ROOT_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
URI = "spiffe://msgsys/client/alice"

Parts = dict[str, Any]
Change = Callable[[Parts], None]


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def names(*uris: str, dns: str = "") -> x509.SubjectAlternativeName:
    hosts = [x509.DNSName(dns)] if dns else []
    return x509.SubjectAlternativeName([*(x509.UniformResourceIdentifier(uri) for uri in uris), *hosts])


def root_parts() -> Parts:
    """What a root is made of: fields of the builder, and extensions by name, each with whether it is critical."""
    return {
        "subject": named("root"),
        "issuer": named("root"),
        "key": ROOT_KEY,
        "serial": 1 << 120,
        "begin": NOW,
        "end": NOW + timedelta(days=3650),
        "extensions": {
            "constraints": (x509.BasicConstraints(ca=True, path_length=1), True),
            "usage": (key_usage("key_cert_sign", "crl_sign"), True),
            "own_key": (x509.SubjectKeyIdentifier.from_public_key(ROOT_KEY.public_key()), False),
        },
    }


def issuing_parts() -> Parts:
    parts = {**root_parts(), "subject": named("issuing"), "key": KEY, "end": NOW + timedelta(days=1000)}
    parts["extensions"] |= {
        "constraints": (x509.BasicConstraints(ca=True, path_length=0), True),
        "own_key": (x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()), False),
        "its_key": (x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT_KEY.public_key()), False),
        "extended": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
    }
    return parts


def leaf_parts() -> Parts:
    parts = {**issuing_parts(), "subject": named("alice"), "end": NOW + timedelta(days=365)}
    parts["extensions"] |= {
        "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
        "usage": (key_usage("digital_signature"), True),
        "names": (names(URI), False),
    }
    return parts


def builder(parts: Parts) -> x509.CertificateBuilder:
    made = (
        x509.CertificateBuilder()
        .subject_name(parts["subject"])
        .issuer_name(parts["issuer"])
        .public_key(parts["key"].public_key())
        .serial_number(parts["serial"])
        .not_valid_before(parts["begin"])
        .not_valid_after(parts["end"])
    )
    for value, critical in parts["extensions"].values():
        made = made.add_extension(value, critical=critical)
    return made


ROOT = lint._draft(builder(root_parts()))


def check_leaf(parts: Parts, usage: str = profiles.CLIENT) -> None:
    lint.check_leaf(builder(parts), ROOT, URI, usage)


def sets(name: str, value: Any) -> Change:
    return lambda parts: parts.update({name: value})


def extends(name: str, value: x509.ExtensionType, *, critical: bool = False) -> Change:
    return lambda parts: parts["extensions"].update({name: (value, critical)})


def lacks(name: str) -> Change:
    return lambda parts: parts["extensions"].pop(name)


OF_EVERY: list[tuple[str, Change]] = [
    ("at most 20 octets and at least 64 bits", sets("serial", 1)),
    ("at most 20 octets and at least 64 bits", sets("serial", (1 << 63) - 1)),
    ("the issuer is the CA's subject", sets("issuer", named("somebody"))),
    ("it begins before it ends", lambda parts: parts.update(end=parts["begin"])),
    ("the subject is not empty", sets("subject", x509.Name([]))),
    (
        "the subject key identifier is its own key's",
        extends("own_key", x509.SubjectKeyIdentifier.from_public_key(OTHER_KEY.public_key())),
    ),
    ("the subject key identifier is its own key's", lacks("own_key")),
]

OF_ISSUED: list[tuple[str, Change]] = [
    *OF_EVERY,
    ("it does not outlive its issuer", sets("end", NOW + timedelta(days=3651))),
    ("the authority key identifier is the issuer's key", lacks("its_key")),
    (
        "the authority key identifier is the issuer's key",
        extends("its_key", x509.AuthorityKeyIdentifier.from_issuer_public_key(OTHER_KEY.public_key())),
    ),
]

CRITICAL = "basic constraints and key usage are critical, nothing else is"

OF_LEAVES: list[tuple[str, Change]] = [
    *OF_ISSUED,
    (CRITICAL, extends("usage", key_usage("digital_signature"))),
    (CRITICAL, extends("names", names(URI), critical=True)),
    ("it is no CA", extends("constraints", x509.BasicConstraints(ca=True, path_length=0), critical=True)),
    (
        "its key signs and does nothing else",
        extends("usage", key_usage("digital_signature", "key_cert_sign"), critical=True),
    ),
    ("its key signs and does nothing else", extends("usage", key_usage("key_encipherment"), critical=True)),
    (
        "exactly one extended key usage",
        extends("extended", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
    ),
    (
        "exactly one extended key usage",
        extends("extended", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])),
    ),
    ("exactly one SAN URI", extends("names", names("spiffe://msgsys/admin/alice"))),
    ("exactly one SAN URI", extends("names", names(URI, "spiffe://msgsys/admin/alice"))),
    ("clients have none", extends("names", names(URI, dns="alice.example.org"))),
    ("six extensions and no seventh", extends("more", x509.OCSPNoCheck())),
]

OF_CAS: list[tuple[str, Change]] = [
    *OF_ISSUED,
    (CRITICAL, extends("usage", key_usage("key_cert_sign", "crl_sign"))),
    ("none below an issuing CA", extends("constraints", x509.BasicConstraints(ca=True, path_length=1), critical=True)),
    (
        "none below an issuing CA",
        extends("constraints", x509.BasicConstraints(ca=False, path_length=None), critical=True),
    ),
    ("its key signs certificates and lists", extends("usage", key_usage("key_cert_sign"), critical=True)),
    ("an issuing CA has exactly one extended key usage", lacks("extended")),
    (
        "an issuing CA has exactly one extended key usage",
        extends("extended", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])),
    ),
]

OF_ROOTS: list[tuple[str, Change]] = [
    ("the issuer is the CA's subject", sets("issuer", named("somebody"))),
    ("one CA below a root", extends("constraints", x509.BasicConstraints(ca=True, path_length=0), critical=True)),
    ("one CA below a root", extends("constraints", x509.BasicConstraints(ca=True, path_length=None), critical=True)),
    (
        "the authority key identifier is the issuer's key",
        extends("its_key", x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT_KEY.public_key())),
    ),
    ("a root none", extends("extended", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))),
]


def test_what_keeps_every_rule_is_signed() -> None:
    check_leaf(leaf_parts())
    server = leaf_parts()
    extends("extended", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))(server)
    extends("names", names(URI, dns="alice.example.org"))(server)
    check_leaf(server, profiles.SERVER)
    lint.check_ca(builder(issuing_parts()), ROOT)
    lint.check_ca(builder(root_parts()), None)


@pytest.mark.parametrize(("sentence", "change"), OF_LEAVES)
def test_a_leaf_that_breaks_a_rule_is_not_signed(sentence: str, change: Change) -> None:
    broken = leaf_parts()
    change(broken)

    with pytest.raises(LintError, match=sentence):
        check_leaf(broken)


@pytest.mark.parametrize(("sentence", "change"), OF_CAS)
def test_an_issuing_ca_that_breaks_a_rule_is_not_signed(sentence: str, change: Change) -> None:
    broken = issuing_parts()
    change(broken)

    with pytest.raises(LintError, match=sentence):
        lint.check_ca(builder(broken), ROOT)


@pytest.mark.parametrize(("sentence", "change"), OF_ROOTS)
def test_a_root_that_breaks_a_rule_is_not_signed(sentence: str, change: Change) -> None:
    broken = root_parts()
    change(broken)

    with pytest.raises(LintError, match=sentence):
        lint.check_ca(builder(broken), None)


def test_a_server_without_a_host_name_is_not_signed() -> None:
    broken = leaf_parts()
    extends("extended", x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))(broken)

    with pytest.raises(LintError, match="servers have host names or addresses"):
        check_leaf(broken, profiles.SERVER)


def test_a_certificate_of_version_1_breaks_the_first_rule(tmp_path: Path) -> None:
    """Our builder makes version 3 only: the rule is for the day it does not. openssl still makes version 1."""
    new = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(tmp_path / "key"), "-subj", "/CN=alice"]
    request = subprocess.run(["openssl", "req", "-new", *new], capture_output=True, check=True).stdout
    signed = ["openssl", "x509", "-req", "-signkey", str(tmp_path / "key"), "-days", "1"]
    pem = subprocess.run(signed, input=request, capture_output=True, check=True).stdout

    assert not lint.EVERY[0].holds(lint.Draft(x509.load_pem_x509_certificate(pem), None))


@pytest.mark.parametrize(("rules", "cases"), [(lint.LEAF, OF_LEAVES), (lint.CA, [*OF_CAS, *OF_ROOTS])])
def test_every_rule_has_a_test_that_breaks_it(rules: tuple[lint.Rule, ...], cases: list[tuple[str, Change]]) -> None:
    untested = [rule.sentence for rule in rules if not any(sentence in rule.sentence for sentence, _ in cases)]

    assert untested == ["the version is 3"]


def test_every_broken_rule_is_named_with_its_clause() -> None:
    broken = leaf_parts()
    sets("serial", 1)(broken)
    lacks("own_key")(broken)

    with pytest.raises(LintError) as refusal:
        check_leaf(broken)

    said = str(refusal.value)
    assert said.startswith("not signed, it breaks: ")
    assert "(RFC 5280 §4.1.2.2); " in said
    assert "(RFC 5280 §4.2.1.2)" in said
