from django.apps import AppConfig


class CertsConfig(AppConfig):
    name = "certs_app"
    verbose_name = "Certificates"

    def ready(self) -> None:
        from certs_app import checks  # noqa: F401  registers the system checks
