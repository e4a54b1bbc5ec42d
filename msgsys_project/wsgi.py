"""The WSGI application of any role, for gunicorn or waitress behind a TLS terminator."""

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
