"""The ASGI application of the registry and the portal: Django, bounded."""

from typing import cast

from django.conf import settings
from django.core.asgi import get_asgi_application

from certs_app.asgi import Application
from certs_app.overload import Bounded

# People reach the portal without a certificate, and so does whoever watches over it.
application = Bounded(cast(Application, get_asgi_application()), health_for_anyone=settings.ROLE == "portal")
