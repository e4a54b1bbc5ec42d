"""The ASGI application of the registry and the portal: Django, nothing in front of it."""

from django.core.asgi import get_asgi_application

application = get_asgi_application()
