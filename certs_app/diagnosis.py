"""Why does a TLS connection to one of our servers fail? Look at the files, the connection, the server and the clock.

Every check is one Finding; what comes later is looked at even when something before it failed, as far as it can be.
"""

import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from certs_app import inspection, probing
from certs_app.description import issued_by, names
from certs_app.inspection import Finding, Pair, Trust, Wrong
from certs_app.probing import Address, Answer
from certs_app.profiles import SERVER
from wire.problems import MEDIA_TYPE

# Lists are backdated by a minute; more than that between two clocks, and a new list is one from the future.
MAX_SKEW = timedelta(minutes=1)

_NO_CHAIN = {2, 7, 18, 19, 20, 21}  # X509_V_ERR_*: nothing leads from the certificate to one of our CAs
_OTHER_NAME = {62, 64}

Value = TypeVar("Value")


@dataclass(frozen=True)
class Target:
    """Whom to ask and with what: `certificate` and `key` are None to come without."""

    address: Address
    ca: Path
    crl: Path
    certificate: Path | None = None
    key: Path | None = None
    path: str = "/healthz"


def diagnose(target: Target, now: datetime) -> list[Finding]:
    """Return what was found, in the order it was looked at. Takes a few timeouts of the target's address at most."""
    run = _Run(target, now)
    run.files()
    run.server()
    return run.findings


def verdict(findings: list[Finding]) -> str:
    """Say in one sentence what to do first. A wrong clock explains the rest, so it goes before."""
    wrong = sorted((one for one in findings if one.ok is False), key=lambda one: one.check != CLOCK)
    if not wrong:
        return "Everything is fine."
    return wrong[0].sentence


CA, LISTS, PAIR, OURS = "CA file", "revocation lists", "our key", "our certificate"
CONNECTION, HANDSHAKE, THEIRS = "connection", "TLS 1.3", "server certificate"
ADMISSION, ANSWER, CLOCK = "admission", "answer", "clock"


@dataclass
class _Run:
    target: Target
    now: datetime
    findings: list[Finding] = field(default_factory=list)
    trust: Trust = field(default_factory=Trust)
    pair: Pair | None = None
    leaf: x509.Certificate | None = None
    started: float = field(default_factory=time.monotonic)

    def note(self, check: str, ok: bool | None, sentence: str) -> None:
        self.findings.append(Finding(check, ok, sentence))

    def look(self, check: str, examine: Callable[[], Value], sentence: Callable[[Value], str] = str) -> Value | None:
        """Note what `examine` comes to, and return it; None when it found something wrong."""
        try:
            value = examine()
            self.note(check, True, sentence(value))
        except Wrong as wrong:
            self.note(check, False, str(wrong))
            return None
        return value

    # --- what needs no network ---

    def files(self) -> None:
        target, now = self.target, self.now
        authorities = self.look(CA, lambda: inspection.read_authorities(target.ca), lambda some: f"{len(some)} CAs.")
        self.trust = Trust(authorities or ())
        self.look(LISTS, self._read_lists)
        if target.certificate is None or target.key is None:
            self.note(OURS, None, "None was given (--cert and --key, or --as STEM): the server is asked without one.")
            return
        certificate, key = target.certificate, target.key
        self.pair = pair = self.look(
            PAIR, lambda: inspection.read_pair(certificate, key), lambda _: f"{key} belongs to {certificate}."
        )
        if pair is not None:
            self.look(OURS, lambda: inspection.check_own(pair, self.trust, now))

    def _read_lists(self) -> str:
        self.trust = Trust(self.trust.authorities, inspection.read_lists(self.target.crl))
        return inspection.check_lists(self.trust, self.now)

    # --- what the server shows and says ---

    def server(self) -> None:
        answer = None
        if self.look(CONNECTION, self._reach) and self.look(HANDSHAKE, self._see, self._shown) and self._trusted():
            answer = self._answer()
        self._clock(answer)

    def _reach(self) -> str:
        probing.connect(self.target.address).close()
        return f"{self.target.address} takes connections."

    def _see(self) -> x509.Certificate:
        """Shake hands without judging, to see the server's certificate even if it is to be refused."""
        context = _context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with probing.shaken(self.target.address, context) as tls:
            der = tls.getpeercert(binary_form=True)
        assert der is not None, "a TLS server always shows a certificate"
        self.leaf = x509.load_der_x509_certificate(der)
        return self.leaf

    def _shown(self, leaf: x509.Certificate) -> str:
        return f"The server shows a certificate for {', '.join(names(leaf)) or leaf.subject.rfc4514_string()}."

    def _trusted(self) -> bool:
        if not self.trust.authorities or not self.trust.lists:
            self.note(THEIRS, None, "It cannot be judged without the CA file and the revocation lists.")
            return False
        return self.look(THEIRS, self._judge) is not None

    def _judge(self) -> str:
        assert self.leaf is not None
        leaf, whose = self.leaf, "The server's certificate"
        if issued_by(leaf, self.trust.authorities) is not None:
            inspection.check_validity(whose, leaf, self.now, "its operator must renew it")
            inspection.check_not_revoked(whose, leaf, self.trust)
            inspection.check_usage(whose, leaf, SERVER, "its operator must configure the server one")
        try:
            with probing.shaken(self.target.address, self._strict()):
                return f"Trusted, {inspection.days_left(leaf, self.now)}."
        except ssl.SSLCertVerificationError as error:
            raise Wrong(self._distrust(leaf, error)) from None

    def _distrust(self, leaf: x509.Certificate, error: ssl.SSLCertVerificationError) -> str:
        if error.verify_code in _NO_CHAIN:
            return (
                f"The server's certificate is not trusted, another CA issued it ({leaf.issuer.rfc4514_string()}): "
                "is it the right server, and the right --ca file?"
            )
        if error.verify_code in _OTHER_NAME:
            return (
                f"The server's certificate is for another host ({', '.join(names(leaf))}), not for "
                f"{self.target.address.host}: use one of its names, or issue it with --dns or --ip."
            )
        return f"The server's certificate is refused: {error.verify_message} (OpenSSL's error {error.verify_code})."

    def _strict(self, *, with_pair: bool = False) -> ssl.SSLContext:
        context = _context()
        context.load_verify_locations(self.target.ca)
        context.load_verify_locations(self.target.crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN | ssl.VERIFY_X509_STRICT
        if with_pair and self.pair is not None and self.target.certificate is not None:
            context.load_cert_chain(self.target.certificate, self.target.key)
        return context

    def _answer(self) -> Answer | None:
        address = self.target.address
        try:
            with probing.shaken(address, self._strict(with_pair=True)) as tls:
                probing.settle(tls, address.timeout)
                self.note(ADMISSION, True, "The server lets us in.")
                return self.look(ANSWER, lambda: probing.ask(tls, address, self.target.path), self._approve)
        except (Wrong, ssl.SSLError) as error:
            self.note(ADMISSION, False, self._refused(str(error)))
        return None

    def _refused(self, sentence: str) -> str:
        if self.pair is None:
            return "The server requires a certificate, and we came without: give --cert and --key, or --as STEM."
        if any(one.check == OURS and one.ok is False for one in self.findings):
            return f"{sentence} Our own certificate is not in order, see above."
        return sentence

    def _approve(self, answer: Answer) -> str:
        sentence = f"GET {self.target.path}: HTTP {answer.status}"
        if answer.status < 400:
            return f"{sentence}."
        raise Wrong(f"{sentence}, {_problem(answer)}")

    # --- the clock ---

    def _clock(self, answer: Answer | None) -> None:
        now = self.now + timedelta(seconds=time.monotonic() - self.started)
        theirs = _date(answer)
        seen = [self.leaf] if self.leaf else []
        if self.pair:
            seen.append(self.pair.certificate)
        later = inspection.begins_in_future(seen, self.trust, now)
        if theirs is not None:
            self.look(CLOCK, lambda: _compare(now, theirs))
        elif later is not None:
            says = f"it says {now:%Y-%m-%d %H:%M} UTC, but what others made begins at {later:%Y-%m-%d %H:%M} UTC"
            self.note(CLOCK, False, f"This machine's clock is probably behind ({says}): set it.")
        else:
            self.note(CLOCK, None, "The server told no time to compare with.")


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _problem(answer: Answer) -> str:
    """Say what an error answer means: our servers send a problem document, others do not."""
    if answer.headers.get_content_type() != MEDIA_TYPE:
        return "and not from this system (no problem document): is a proxy in between, or this not its port?"
    try:
        problem = json.loads(answer.body)
        return f"{problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return "with a damaged problem document: look at the server's log."


def _date(answer: Answer | None) -> datetime | None:
    try:
        return parsedate_to_datetime(answer.headers["Date"]) if answer is not None else None
    except (ValueError, TypeError):
        return None


def _compare(ours: datetime, theirs: datetime) -> str:
    behind = theirs - ours
    if abs(behind) <= MAX_SKEW:
        return "This machine's clock and the server's agree."
    minutes = round(abs(behind).total_seconds() / 60)
    where = "behind" if behind > timedelta(0) else "ahead of"
    raise Wrong(
        f"This machine's clock is {minutes} minutes {where} the server's ({ours:%Y-%m-%d %H:%M} and "
        f"{theirs:%Y-%m-%d %H:%M} UTC): set the wrong one, certificates and lists are judged by it."
    )
