"""What every port of the running system does when the revocation lists are spoiled: serve nobody it cannot judge."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certs_app.files import write_atomic
from certs_app.revocation import file_identity, number_of, pem_blocks
from tests.running import Installation, eventually
from tests.test_handshakes_at_every_process import MUTUAL, Told, connects, serial_number
from tests.test_refused import certificate

pytestmark = pytest.mark.system

DAY = timedelta(days=1)


@dataclass
class Lists:
    """The lists of a running installation, and the keys to sign others. Each one made is newer than those before."""

    home: Path
    genuine: bytes
    number: int

    @property
    def file(self) -> Path:
        return self.home / "pki" / "crl.pem"

    def make(self, begins: timedelta = -DAY, *, without: str = "", forged: bool = False) -> bytes:
        """Return all lists, those of the issuing CAs valid for two days."""
        self.number += 1
        return self._all(self.number, begins, without, forged)

    def make_older(self) -> bytes:
        """Return lists from before all revocations."""
        return self._all(0, -DAY, revoked=False)

    def _all(
        self, number: int, begins: timedelta, without: str = "", forged: bool = False, revoked: bool = True
    ) -> bytes:
        root, *issuing = pem_blocks(self.genuine)
        made = [root]
        for block in issuing:
            genuine = x509.load_pem_x509_crl(block)
            (kind,) = [kind for kind in ("clients", "servers") if kind.title() in genuine.issuer.rfc4514_string()]
            if kind != without:
                builder = _rebuild(genuine, number, begins, revoked=revoked)
                key: Any = ec.generate_private_key(ec.SECP256R1()) if forged else self._key(kind)
                made.append(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return b"".join(made)

    def _key(self, kind: str) -> Any:
        return load_pem_private_key((self.home / "secrets" / "ca" / f"{kind}.key").read_bytes(), None)

    @contextmanager
    def replaced(self, content: bytes | None) -> Iterator[None]:
        """Put `content` (None: no file at all) in the lists' place for a while, then good ones."""
        if content is None:
            self.file.unlink()
        else:
            write_atomic(self.file, content)
        try:
            yield
        finally:
            write_atomic(self.file, self.make())


def _rebuild(
    genuine: x509.CertificateRevocationList, number: int, begins: timedelta, *, revoked: bool
) -> x509.CertificateRevocationListBuilder:
    begin = datetime.now(UTC) + begins
    builder = x509.CertificateRevocationListBuilder().issuer_name(genuine.issuer)
    builder = builder.last_update(begin).next_update(begin + 2 * DAY)
    for extension in genuine.extensions:
        is_number = isinstance(extension.value, x509.CRLNumber)
        builder = builder.add_extension(x509.CRLNumber(number) if is_number else extension.value, extension.critical)
    for entry in genuine if revoked else ():
        builder = builder.add_revoked_certificate(entry)
    return builder


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """`up`, whose processes fetch no lists after their start: what a test puts in place is there until it takes it."""
    installed = Installation(tmp_path_factory.mktemp("spoiled"), {"MSGSYS_CRL_FETCH_SECONDS": "3600"})
    try:
        installed.up("--no-demo")
        yield installed
    finally:
        installed.stop_all()


@pytest.fixture(scope="module")
def bob(installation: Installation) -> tuple[str, str]:
    pair = certificate(installation, "bob", "client")
    installation.manage("revoke_cert", "bob", "--reason", "key_compromise")
    return pair


@pytest.fixture(scope="module")
def lists(installation: Installation, bob: tuple[str, str]) -> Lists:
    file = installation.home / "pki" / "crl.pem"
    _wait_for_the_last_writer(file)
    genuine = file.read_bytes()
    held = Lists(installation.home, genuine, max(number_of(x509.load_pem_x509_crl(one)) for one in pem_blocks(genuine)))
    for door in MUTUAL:
        assert not connects(installation, door, bob), "the process holds the list that names bob"
    return held


def _wait_for_the_last_writer(file: Path) -> None:
    """Let the registry and the jobs process, who look every second, write the list that names bob."""
    seen = [file_identity(file)]

    def is_quiet() -> bool:
        seen.append(file_identity(file))
        return len(seen) > 25 and len(set(seen[-25:])) == 1

    eventually(is_quiet, within=20, every=0.1)


SPOILED: dict[str, Callable[[Lists], bytes]] = {
    "crl_expired": lambda lists: lists.make(-3 * DAY),
    "crl_not_yet_valid": lambda lists: lists.make(DAY),
    "crl_bad_signature": lambda lists: lists.make(forged=True),
}
KEPT: dict[str, Callable[[Lists], bytes | None]] = {
    "one list missing": lambda lists: lists.make(without="clients"),
    "rolled back": lambda lists: lists.make_older(),
    "file missing": lambda lists: None,
    "file emptied": lambda lists: b"",
    "file cut short": lambda lists: lists.make()[:-100],
}


@pytest.mark.parametrize("door", MUTUAL)
@pytest.mark.parametrize("reason", SPOILED)
def test_nobody_is_let_in_by_a_list_that_cannot_be_relied_on(reason, door, installation, lists):
    alice = (installation.ready["client_cert"], installation.ready["client_key"])
    told = Told(installation, door, reason)

    with lists.replaced(SPOILED[reason](lists)):
        assert not connects(installation, door, alice)

    # Prometheus is let in again as well, and reads what was counted meanwhile.
    told.check(serial_number(alice))
    assert connects(installation, door, alice)


@pytest.mark.parametrize("door", MUTUAL)
@pytest.mark.parametrize("case", KEPT)
def test_the_last_good_list_stays_in_force(case, door, installation, lists, bob):
    alice = (installation.ready["client_cert"], installation.ready["client_key"])
    told = Told(installation, door, "revoked")

    with lists.replaced(KEPT[case](lists)):
        assert connects(installation, door, alice)
        assert not connects(installation, door, bob)

    told.check(serial_number(bob))


@pytest.mark.parametrize("reason", SPOILED)
def test_people_who_show_no_certificate_reach_the_portal_all_the_same(reason, installation, lists):
    with lists.replaced(SPOILED[reason](lists)):
        assert connects(installation, "portal", None)
