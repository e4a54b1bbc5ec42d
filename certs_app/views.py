"""The CA over HTTPS: issue, revoke, renew, and the public files. Translate in, make one call, translate out."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import condition, require_safe
from rest_framework.request import Request as HttpCall
from rest_framework.response import Response

from certs_app import authority, revocation_lists
from certs_app.audit import Actor
from certs_app.ca_keys import CaKeyError
from certs_app.identity import Peer, read_serial_number
from certs_app.issuing import Issued, IssuingRefused, Request, issue
from certs_app.models import REASONS, Certificate, CertificateQuerySet, Issuer
from certs_app.problems import ProblemResponse
from certs_app.profiles import MAY_ISSUE, MAY_REVOKE
from certs_app.renewing import RenewalRefused, renew
from certs_app.rest import PeerView, body_as, caller
from certs_app.uses import note_use
from wire.problems import Problem, retry_later

PEM = "application/x-pem-file"
DER = "application/pkix-crl"  # RFC 2585 §4.2
MAX_CSR_CHARACTERS = 16 * 1024


class GenerateBody(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    role: str
    csr: str
    days: int = 0
    usage: str = ""


class GenerateCert(PeerView):
    """POST /generate_cert: issue a certificate for the key of a CSR. Private keys never travel."""

    def post(self, request: HttpCall) -> Response:
        asked, peer = body_as(request, GenerateBody), caller(request)
        _allow(asked.role, MAY_ISSUE.get(peer.role, frozenset()), "issued")
        wanted = Request(asked.name, asked.role, asked.usage, asked.days, csr=_csr(asked.csr))
        with _refusals():
            return _answer(issue(wanted, timezone.now(), Actor.of(peer)))


class RevokeBody(msgspec.Struct, forbid_unknown_fields=True):
    serial_number: str = ""
    name: str = ""
    role: str = ""
    reason: str = ""


class RevokeCert(PeerView):
    """POST /revoke_cert: revoke one certificate by its serial number, or all live ones of a role and name."""

    def post(self, request: HttpCall) -> Response:
        asked, peer = body_as(request, RevokeBody), caller(request)
        if asked.reason and asked.reason not in REASONS:
            raise Problem("invalid_request", f"reason is one of {', '.join(REASONS)}, or is left out.")
        found = _meant(asked)
        for role in sorted(set(found.values_list("role", flat=True))):
            _allow(role, MAY_REVOKE.get(peer.role, frozenset()), "revoked")
        now = timezone.now()
        with _refusals():
            revoked = revocation_lists.revoke(found.live(now), asked.reason, now, Actor.of(peer))
        named = [{"serial_number": one.serial_number, "role": one.role, "name": one.name} for one in revoked]
        return Response({"revoked": named})


def _meant(asked: RevokeBody) -> CertificateQuerySet:
    if bool(asked.serial_number) == bool(asked.name and asked.role):
        raise Problem("invalid_request", "Give serial_number, or name and role.")
    if asked.serial_number:
        found = Certificate.objects.filter(serial_number=read_serial_number(asked.serial_number))
    else:
        found = Certificate.objects.filter(name=asked.name, role=asked.role)
    if not found.exists():
        raise Problem("not_found", "This CA has issued no such certificate.")
    return found


class RenewBody(msgspec.Struct, forbid_unknown_fields=True):
    csr: str
    serial_number: str = ""


class RenewCert(PeerView):
    """POST /renew_cert: the successor of the caller's certificate, or of another one of the same role and name."""

    def post(self, request: HttpCall) -> Response:
        asked, peer = body_as(request, RenewBody), caller(request)
        with _refusals():
            return _answer(renew(_own(peer, asked.serial_number), _csr(asked.csr), timezone.now(), Actor.of(peer)))


class InUseBody(msgspec.Struct, forbid_unknown_fields=True):
    serial_number: str


class CertificateInUse(PeerView):
    """POST /certificate_in_use: a service says that it now shows a renewed server certificate.

    Of client certificates the registry sees the first use by itself.
    """

    def post(self, request: HttpCall) -> Response:
        certificate = _own(caller(request), body_as(request, InUseBody).serial_number)
        note_use([certificate.serial_number], timezone.now())
        return Response({"serial_number": certificate.serial_number})


def _own(peer: Peer, serial_number: str) -> Certificate:
    """Return the caller's certificate of this serial number (its present one when that is empty)."""
    wanted = (
        {"serial_number": read_serial_number(serial_number)} if serial_number else {"fingerprint": peer.fingerprint}
    )
    certificate = Certificate.objects.filter(role=peer.role, name=peer.name, **wanted).first()
    if certificate is None:
        raise Problem("not_found", f"{peer.role}/{peer.name} has no such certificate.")
    return certificate


def _csr(pem: str) -> bytes:
    if not pem or len(pem) > MAX_CSR_CHARACTERS:
        raise Problem(
            "invalid_request",
            f"csr is a PEM request of at most {MAX_CSR_CHARACTERS} characters, made where the key is: "
            "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=NAME -keyout NAME.key",
        )
    return pem.encode()


def _allow(role: str, allowed: frozenset[str], what: str) -> None:
    if role not in allowed:
        raise Problem(
            "forbidden",
            f"Over HTTPS, certificates of these roles are {what}: {', '.join(sorted(allowed))}. "
            f"Others at the CA's own machine, with manage.py.",
        )


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except RenewalRefused as error:
        raise Problem("renewal_refused", f"{error}.") from None
    except IssuingRefused as error:
        raise Problem("invalid_request", f"{error}.") from None
    except CaKeyError:
        raise retry_later("ca_unavailable", "The CA cannot sign at the moment. Tell the operator.", 60) from None


def _answer(issued: Issued) -> Response:
    row = issued.row
    return Response(
        {
            "serial_number": row.serial_number,
            "role": row.role,
            "name": row.name,
            "usage": row.usage,
            "not_after": row.not_after.isoformat(),
            "certificate": issued.chain_pem.decode(),
        },
        status=201,
    )


def _lists_tag(request: HttpRequest) -> str:
    numbers = [(issuer.name, crl.number if crl else 0) for issuer, crl in _newest_lists()]
    return f'"{hashlib.sha256(repr(numbers).encode()).hexdigest()[:32]}"'


def _newest_lists() -> Iterator[tuple[Issuer, Any]]:
    for issuer in Issuer.objects.order_by("id"):
        yield issuer, revocation_lists.newest(issuer)


_tagged: Callable[..., Any] = condition(etag_func=_lists_tag)


@require_safe
def ca_pem(request: HttpRequest) -> HttpResponse:
    """GET /ca.pem: every CA certificate, roots first."""
    return HttpResponse(authority.ca_bundle(timezone.now()), content_type=PEM)


@require_safe
@_tagged
def crl_pem(request: HttpRequest) -> HttpResponse:
    """GET /crl.pem: the newest list of each CA. With If-None-Match, 304 until there is a newer one."""
    return HttpResponse(revocation_lists.bundle(timezone.now()), content_type=PEM)


@require_safe
@_tagged
def crl_der(request: HttpRequest) -> HttpResponse:
    """GET /crl.der?issuer=clients: one CA's newest list, as DER holds no two."""
    name = request.GET.get("issuer", Issuer.CLIENTS)
    for issuer, crl in _newest_lists():
        if issuer.name == name and crl is not None:
            return HttpResponse(bytes(crl.der), content_type=DER)
    known = ", ".join(Issuer.objects.order_by("id").values_list("name", flat=True))
    return ProblemResponse(Problem("not_found", f"There is no list of that CA; issuer is one of: {known}."))
