"""The portal's routes. Whatever does not say otherwise asks for a login (LoginRequiredMiddleware)."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from monitoring.health import healthz, readyz
from portal import api, views

handler400 = "portal.errors.malformed"
handler403 = "portal.errors.forbidden"
handler404 = "portal.errors.not_found"
handler500 = "portal.errors.internal_error"

login = LoginView.as_view(template_name="portal/login.html", redirect_authenticated_user=True)

urlpatterns = [
    path("", views.MessageList.as_view(), name="messages"),
    path("messages/<uuid:uid>/", views.message_detail, name="message"),
    path("dead-letters/", views.dead_letter_list, name="dead_letters"),
    path("login/", login, name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("api/token/", api.Token.as_view()),
    path("api/token/refresh/", api.TokenRefresh.as_view()),
    path("api/messages/", api.Messages.as_view()),
    path("api/messages/search/", api.MessageSearch.as_view()),
    path("api/messages/<uuid:uid>/", api.MessageDetail.as_view()),
    path("healthz", healthz),
    path("readyz", readyz),
]
