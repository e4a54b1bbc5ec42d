"""What a Windows machine needs before it serves anything."""

from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.windows.wine_python import WINDOWS, pins

pytestmark = pytest.mark.windows


@pytest.mark.parametrize("role", ["ingest", "worker"])
def test_the_checks_of_a_role_find_nothing(windows, role):
    checked = windows.manage(
        "check", "--fail-level", "WARNING", DJANGO_SETTINGS_MODULE=f"msgsys_project.settings.{role}"
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "no issues" in checked.stdout


def test_all_that_the_pins_need_there_is_pinned_as_well(python):
    pinned = {canonicalize_name(one.name) for one in pins()}
    for package in distributions(path=[str(python.site_packages)]):
        for line in package.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({**WINDOWS, "extra": ""}):
                assert canonicalize_name(needed.name) in pinned, f"{package.name} needs {needed}"
