"""What goes past Django's handler is a route of the registry's all the same."""

from collections.abc import Callable

from django.urls import resolve
from django.utils.module_loading import import_string

from msgsys_project.settings import registry


def test_every_direct_route_has_a_view_that_says_who_may_call(as_role: Callable[[str], None]) -> None:
    as_role("registry")
    assert registry.DIRECT_ROUTES.keys() == {"/register"}
    for address, work in registry.DIRECT_ROUTES.items():
        assert callable(import_string(work))
        assert resolve(address).func.allowed_roles == {"worker"}  # type: ignore[attr-defined]  # the mark of a view
