"""DRF views for callers with a certificate."""

from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from certs_app.identity import Peer
from certs_app.middleware import peer_of


class PeerView(APIView):
    """A JSON view that PeerRequired guards: the certificate is the authentication, the route's roles the permission."""

    authentication_classes = ()
    permission_classes = ()
    renderer_classes = (JSONRenderer,)
    parser_classes = (JSONParser,)


def caller(request: Request) -> Peer:
    """Return the admitted caller."""
    peer = peer_of(request._request)
    assert peer is not None, "the middleware admits no request without a caller"
    return peer
