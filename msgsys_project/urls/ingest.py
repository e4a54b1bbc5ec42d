"""Ingest's routes, each with the roles that may call it. The accept path answers the first two before Django."""

from django.urls import path

from certs_app.admission import roles
from ingest.views import MessageStatus, Submit, SubmitBatch
from monitoring.health import alive, ready

handler400 = "certs_app.problems.malformed"
handler403 = "certs_app.problems.forbidden"
handler404 = "certs_app.problems.not_found"
handler500 = "certs_app.problems.internal_error"

urlpatterns = [
    path("submit", roles("client")(Submit.as_view())),
    path("submit/batch", roles("client")(SubmitBatch.as_view())),
    path("messages/<uuid:uid>", roles("client")(MessageStatus.as_view())),
    path("healthz", alive),
    path("readyz", ready),
]
