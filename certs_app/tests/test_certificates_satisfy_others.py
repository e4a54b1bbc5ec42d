"""Independent judges of what we issue: openssl, pkilint, and the verifier of cryptography."""

import subprocess
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from django.utils import timezone
from pkilint import loader, pkix
from pkilint.pkix import certificate, crl, extension, name
from pkilint.validation import ValidationFindingSeverity

from certs_app.models import REASONS, Certificate, Crl, Issuer
from certs_app.profiles import PROFILES
from conftest import People

COMBINATIONS = [(role, usage) for role, profile in PROFILES.items() for usage in profile.usages]

# What the linter says of every spiffe:// identity; RFC 3986 allows it.
FALSE_POSITIVES = {"pkix.invalid_uri_syntax"}


def issued(people: People, role: str, usage: str) -> Path:
    names = {"dns": ["node.example.org"], "ip": ["192.0.2.7"]} if usage == "server" else {}
    people.issue("node", role, usage=usage, **names)
    return people.folder / f"node-{usage}.crt"


def openssl_verify(people: People, leaf: Path, purpose: str, at: Any = None) -> subprocess.CompletedProcess[str]:
    arguments = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-crl_check_all"]
    files = ["-CAfile", str(people.folder / "ca.crt"), "-CRLfile", str(people.folder / "crl.pem"), str(leaf)]
    when = ["-attime", str(int(at.timestamp()))] if at else []
    return subprocess.run([*arguments, *when, *files], capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(("role", "usage"), COMBINATIONS)
def test_openssl_verifies_every_role_for_its_own_purpose_only(people: People, role: str, usage: str) -> None:
    leaf = issued(people, role, usage)
    other = {"client": "server", "server": "client"}[usage]

    right = openssl_verify(people, leaf, f"ssl{usage}")
    assert right.returncode == 0, right.stderr
    wrong = openssl_verify(people, leaf, f"ssl{other}")
    assert "unsuitable certificate purpose" in wrong.stderr


def test_openssl_refuses_a_revoked_certificate(people: People) -> None:
    leaf = issued(people, "client", "client")
    people.revoke("node", "superseded")

    assert "certificate revoked" in openssl_verify(people, leaf, "sslclient").stderr


def test_openssl_refuses_when_the_list_is_out_of_date(people: People) -> None:
    leaf = issued(people, "client", "client")

    assert "CRL has expired" in openssl_verify(people, leaf, "sslclient", timezone.now() + timedelta(days=3)).stderr


def test_cryptography_verifies_clients_and_servers(people: People) -> None:
    root, clients, servers = (issuer.certificate for issuer in Issuer.objects.order_by("id"))
    policy = PolicyBuilder().store(Store([root])).time(timezone.now()).max_chain_depth(2)
    client = people.issue("alice", "client").row.certificate
    server = people.issue("node", "registry", dns=["node.example.org"], ip=["192.0.2.7"]).row.certificate

    verified = policy.build_client_verifier().verify(client, [clients])
    assert verified.subjects == [x509.UniformResourceIdentifier("spiffe://msgsys/client/alice")]
    assert len(policy.build_server_verifier(x509.DNSName("node.example.org")).verify(server, [servers])) == 3
    with pytest.raises(VerificationError):
        policy.build_client_verifier().verify(server, [servers])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("alice")).verify(client, [clients])


@pytest.mark.parametrize(("role", "usage"), COMBINATIONS)
def test_the_linter_finds_nothing_in_a_certificate(people: People, role: str, usage: str) -> None:
    issued(people, role, usage)

    assert findings(Certificate.objects.get().der) <= FALSE_POSITIVES


def test_the_linter_finds_nothing_in_the_ca_certificates(people: People) -> None:
    for issuer in Issuer.objects.all():
        assert findings(issuer.der) == set(), issuer


def test_the_linter_finds_nothing_in_the_lists(people: People) -> None:
    for number, reason in enumerate(["", *REASONS]):
        people.issue(f"client{number}", "client")
        people.revoke(f"client{number}", reason)

    for row in Crl.objects.all():
        document = loader.RFC5280CertificateListDocumentLoader().load_der_document(bytes(row.der))
        assert codes(crl_validator().validate(document.root)) == set()
        serial_numbers = [entry.serial_number for entry in x509.load_der_x509_crl(bytes(row.der))]
        assert len(serial_numbers) == len(set(serial_numbers)), "the linter does not see duplicates"


def findings(der: bytes) -> set[str]:
    document = loader.RFC5280CertificateDocumentLoader().load_der_document(bytes(der))
    return codes(x509_validator().validate(document.root))


def codes(results: Iterable[Any]) -> set[str]:
    found = [one.finding for result in results for one in result.finding_descriptions]
    return {finding.code for finding in found if finding.severity > ValidationFindingSeverity.INFO}


def x509_validator() -> Any:
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


def crl_validator() -> Any:
    return crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )
