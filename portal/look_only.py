"""Tables of Django's admin that are there to look at: nothing is changed, and nothing is counted without an end."""

from typing import TYPE_CHECKING, Any, ClassVar, cast

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

from portal.counting import Count, capped_count

if TYPE_CHECKING:
    _Admin = admin.ModelAdmin[Any]
    _Paginator = Paginator[Any]
else:
    _Admin, _Paginator = admin.ModelAdmin, Paginator


class CappedPaginator(_Paginator):
    """Pages of the newest rows: what lies behind the cap is not counted, so no page of it can be asked for."""

    @cached_property
    def counted(self) -> Count:
        # The stubs allow lists too; the admin pages through querysets only.
        return capped_count(cast("QuerySet[Any]", self.object_list))

    @cached_property
    def count(self) -> int:
        return self.counted.number


class LookOnly(_Admin):
    """A table that any staff member may look at and nobody may change, superusers included."""

    actions = None
    ordering = ("-id",)
    # Sorting by a column without an index would sort the whole table.
    sortable_by = ()
    paginator = CappedPaginator
    list_per_page = 50
    list_max_show_all = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    shown: ClassVar[tuple[str, ...]] = ()

    class Media:
        css = {"all": ("portal/admin.css",)}

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return self.shown

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return self.shown

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return bool(request.user.is_active and request.user.is_staff)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
