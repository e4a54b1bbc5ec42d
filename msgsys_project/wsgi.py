"""The WSGI application of any role, for waitress behind a TLS terminator. Without its token, nobody has a name here."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from certs_app.terminator import ForwardedCaller, Terminator

application = ForwardedCaller(
    get_wsgi_application(), Terminator(settings.PROXY_TOKEN, settings.CA_FILE, settings.TRUST_DOMAIN)
)
