"""The ASGI application of the registry and the portal: Django, bounded, and what goes past it."""

from typing import cast

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.utils.module_loading import import_string

from certs_app.asgi import Application

# First of all: it sets Django up, which views need.
_django = cast(Application, get_asgi_application())

from certs_app.direct import Direct  # noqa: E402  as above
from certs_app.overload import Bounded  # noqa: E402  as above

application = Bounded(
    _django,
    # People reach the portal without a certificate, and so does whoever watches over it.
    health_for_anyone=settings.ROLE == "portal",
    direct=[Direct(path, import_string(work)) for path, work in settings.DIRECT_ROUTES.items()],
)
