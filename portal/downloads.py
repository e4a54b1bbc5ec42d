"""Rows of the admin as files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import content_disposition_header
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe

from portal.look_only import LookOnly


@dataclass(frozen=True)
class File:
    """What a download is called for people, its media type, and how it is made from the row's DER."""

    title: str
    media_type: str
    make: Callable[[bytes], bytes]


class Downloads(LookOnly):
    """A table whose rows can be fetched as files, by whoever may look at them. `files` are by their extension."""

    files: ClassVar[Mapping[str, File]] = {}

    def stem(self, row: Any) -> str:
        """Return the name of a row's file, without its extension."""
        raise NotImplementedError

    def get_urls(self) -> list[URLPattern]:
        # Before Django's own: its last route takes every path.
        own = [
            path(f"<path:object_id>/download.{kind}", self._view(kind), name=self._route(kind)) for kind in self.files
        ]
        return [*own, *super().get_urls()]

    def _view(self, kind: str) -> Callable[..., HttpResponse]:
        view: Callable[..., HttpResponse] = self.admin_site.admin_view(require_safe(partial(self.download, kind)))
        return view

    def _route(self, kind: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{kind}"

    def download(self, kind: str, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        file = self.files[kind]
        named = content_disposition_header(as_attachment=True, filename=f"{self.stem(row)}.{kind}")
        return HttpResponse(
            file.make(bytes(row.der)), content_type=file.media_type, headers={"Content-Disposition": named or ""}
        )

    @admin.display(description="Download")
    def downloads(self, row: Any) -> SafeString:
        links = [
            (reverse(f"admin:{self._route(kind)}", args=[row.pk]), f"{self.stem(row)}.{kind}", file.title)
            for kind, file in self.files.items()
        ]
        listed = format_html_join("", '<li><a href="{}">{}</a> <span>{}</span></li>', links)
        return format_html('<ul class="files">{}</ul>', listed)
