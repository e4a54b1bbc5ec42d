"""The registry's routes, each with the roles that may call it."""

from django.urls import path

from certs_app.admission import roles
from monitoring.health import alive, ready
from registry.views import ClientMessage, Register, StatusUpdate

handler400 = "certs_app.problems.malformed"
handler403 = "certs_app.problems.forbidden"
handler404 = "certs_app.problems.not_found"
handler500 = "certs_app.problems.internal_error"

urlpatterns = [
    path("register", roles("worker")(Register.as_view())),
    path("status_update", roles("worker", "gateway")(StatusUpdate.as_view())),
    path("clients/<str:client>/messages/<uuid:uid>", roles("ingest")(ClientMessage.as_view())),
    path("healthz", alive),
    path("readyz", ready),
]
