"""The portal: reads the database, holds the data keys to show messages. No queue, no CA key."""

from datetime import timedelta

from msgsys_project import environment as env
from msgsys_project.settings.base import *  # noqa: F403  settings modules are read by Django as one namespace
from msgsys_project.settings.base import SECRETS_DIR, behind_proxy, certificate, ports, proxy_token, rest_framework
from msgsys_project.settings.database import *  # noqa: F403  as above
from msgsys_project.settings.registry_api import *  # noqa: F403  as above

ROLE = "portal"
PORT, METRICS_PORT = ports(ROLE)
BEHIND_PROXY, PROXY_TOKEN = behind_proxy(ROLE), proxy_token(ROLE)
ROOT_URLCONF = "msgsys_project.urls.portal"
ASGI_APPLICATION = "msgsys_project.asgi.application"
SECRET_KEY = env.secret("SECRET_KEY", SECRETS_DIR / "django_secret_key", "Signs the portal's sessions and cookies.")
READINESS = {"database": "registry.readiness.database"}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_prometheus",
    "certs_app",
    "registry",
    "portal",
    "monitoring",
    "deploy",
]
MIDDLEWARE = [
    # First: django-prometheus counts by method, and an unknown method must not become a new time series.
    "certs_app.middleware.AllowedMethods",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "portal.static_files.StaticFiles",
    # Below the static files: these may be kept.
    "portal.middleware.NeverStored",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "portal.middleware.LoginsThrottled",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
# Holds the counts of LoginRate. Above MAX_ENTRIES the longest unused go, so a million made-up names cost no memory.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10_000}},
}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "/static/"
# Served from the packages themselves: there is no collectstatic step to forget.
WHITENOISE_USE_FINDERS = True
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "messages"
LOGOUT_REDIRECT_URL = "login"

SESSION_COOKIE_SECURE = True
SESSION_COOKIE_AGE = 8 * 3600
SESSION_EXPIRE_AT_BROWSER_CLOSE = True
CSRF_COOKIE_SECURE = True
CSRF_FAILURE_VIEW = "portal.errors.csrf_failure"
SECURE_HSTS_SECONDS = 31_536_000
# Not "no-referrer": browsers then send "Origin: null" with a form, and the CSRF check refuses every login.
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

SERVER_CERTIFICATE = certificate("portal")
# With this one it asks the registry for revocation lists and renewals, and nothing else.
CLIENT_CERTIFICATE = certificate("portal-client")
REST_FRAMEWORK = rest_framework(
    DEFAULT_AUTHENTICATION_CLASSES=["rest_framework_simplejwt.authentication.JWTAuthentication"],
    DEFAULT_PERMISSION_CLASSES=["rest_framework.permissions.IsAuthenticated"],
    UNAUTHENTICATED_USER="django.contrib.auth.models.AnonymousUser",
    DEFAULT_THROTTLE_RATES={"login": "10/min"},
)
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=10),
    "REFRESH_TOKEN_LIFETIME": timedelta(hours=8),
    "ALGORITHM": "HS256",
    "SIGNING_KEY": env.secret("JWT_SECRET", SECRETS_DIR / "jwt_secret", "Signs the portal's API tokens."),
    "ISSUER": "msgsys",
    "AUDIENCE": "msgsys-portal",
}
