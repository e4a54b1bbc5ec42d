"""A person signs in over real TLS with a real browser, searches a number and reads the message."""

import os
import shutil

import pytest

from tests.running import eventually

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.system, pytest.mark.browser]

NUMBER = "+4915200000000"
# Chromium asks several services of its maker at its start: none of them belongs into a test.
QUIET = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture
def page(installation):
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is missing")
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=[*QUIET, "--no-sandbox", "--disable-sync"])
        context = browser.new_context(ignore_https_errors=True, color_scheme="dark")
        yield context.new_page()
        browser.close()


def test_sign_in_search_and_read(page, installation):
    problems = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    visited = []
    page.on("request", lambda request: visited.append(request.url))
    with installation.session() as alice:
        uid = installation.submit(alice, "<b>look</b> at me").json()["id"]
    staff = installation.staff()
    eventually(lambda: any(found["id"] == uid for found in installation.messages(staff)), within=10)

    page.goto(installation.ready["portal"] + "/")
    page.get_by_label("Username").fill(installation.ready["admin_user"])
    page.get_by_label("Password").fill(installation.ready["admin_password"])
    page.keyboard.press("Enter")
    page.get_by_text("<b>look</b> at me").first.wait_for()
    page.locator("input[name=sender]").fill("+49 152 0000-0000")
    page.keyboard.press("Enter")
    page.get_by_text("<b>look</b> at me").first.wait_for()
    page.locator("table a").first.click()
    page.get_by_text(uid).first.wait_for()
    assert problems == []
    assert not any("15200000000" in url or "152%20" in url for url in visited), "the number stays out of URLs"
