"""The registry's routes, each with the roles that may call it."""

from django.urls import path

from certs_app import views as certs
from certs_app.admission import ANY_ROLE, roles
from monitoring.health import alive, ready
from registry.views import Balance, ClientMessage, DeadLetters, Register, StatusUpdate

handler400 = "certs_app.problems.malformed"
handler403 = "certs_app.problems.forbidden"
handler404 = "certs_app.problems.not_found"
handler500 = "certs_app.problems.internal_error"

urlpatterns = [
    path("register", roles("worker")(Register.as_view())),
    path("status_update", roles("worker", "gateway")(StatusUpdate.as_view())),
    path("dead_letters", roles("worker")(DeadLetters.as_view())),
    path("clients/<str:client>/messages/<uuid:uid>", roles("ingest")(ClientMessage.as_view())),
    path("balance", roles("ingest")(Balance.as_view())),
    path("generate_cert", roles("admin")(certs.GenerateCert.as_view())),
    path("revoke_cert", roles("admin")(certs.RevokeCert.as_view())),
    path("renew_cert", roles(*ANY_ROLE)(certs.RenewCert.as_view())),
    path("certificate_in_use", roles(*ANY_ROLE)(certs.CertificateInUse.as_view())),
    path("ca.pem", roles(*ANY_ROLE)(certs.ca_pem)),
    path("crl.pem", roles(*ANY_ROLE)(certs.crl_pem)),
    path("crl.der", roles(*ANY_ROLE)(certs.crl_der)),
    path("healthz", alive),
    path("readyz", ready),
]
