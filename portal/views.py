"""The portal's pages: look, don't touch."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_safe
from django.views.generic import View

from portal import balance, cursors, dead_letters, errors
from portal.cursors import CursorError
from portal.forms import SearchForm
from portal.opening import open_message
from portal.queries import MessageQuery
from registry.models import Message
from registry.steps import REGISTERED
from wire.problems import Problem

LIST = "portal/message_list.html"


class MessageList(View):
    """GET: all messages, newest first. POST: one sender's."""

    def get(self, request: HttpRequest) -> HttpResponse:
        cursor = request.GET.get("cursor")
        try:
            query = MessageQuery(cursor=cursors.read(cursor) if cursor else None)
        except CursorError:
            detail = "This link to older messages is not valid. Start again from the newest ones."
            return errors.answer(request, Problem("malformed_request", detail))
        shown = {"form": SearchForm(), "query": query, "page": query.page(), "balance": balance.line(timezone.now())}
        return render(request, LIST, shown)

    def post(self, request: HttpRequest) -> HttpResponse:
        form = SearchForm(request.POST)
        if not form.is_valid():
            return render(request, LIST, {"form": form}, status=422)
        query = form.query()
        return render(request, LIST, {"form": form, "query": query, "page": query.page()})


@dataclass(frozen=True)
class Step:
    """One step of a message's way, as the timeline shows it."""

    status: str
    at: datetime
    reporter: str = ""
    detail: str = ""


@require_safe
def message_detail(request: HttpRequest, uid: UUID) -> HttpResponse:
    message = get_object_or_404(Message, uid=uid)
    return render(request, "portal/message_detail.html", {"message": open_message(message), "steps": _steps(message)})


def _steps(message: Message) -> list[Step]:
    later = [Step(event.status, event.at, event.reporter, event.detail) for event in message.events.all()]
    return [Step(REGISTERED, message.stored_at), *later]


@require_safe
def dead_letter_list(request: HttpRequest) -> HttpResponse:
    if not dead_letters.may_look(request.user):
        raise PermissionDenied
    overview = dead_letters.overview(request.GET.get("page", "1"), timezone.now())
    return render(request, "portal/dead_letters.html", {"overview": overview})
