"""A person signs in over real TLS with a real browser, searches a number and reads the message."""

import json
import os
import shutil

import pytest
import redis

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


@pytest.fixture
def problems(page):
    """What the browser complains about: scripts that fail, and whatever the Content-Security-Policy stopped."""
    found = []

    def note(message):
        # Django's admin names no icon, so the browser guesses where one might be.
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            found.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def sign_in(page, installation):
    page.goto(installation.ready["portal"] + "/")
    page.get_by_label("Username").fill(installation.ready["admin_user"])
    page.get_by_label("Password").fill(installation.ready["admin_password"])
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Administration").wait_for()


def test_sign_in_search_and_read(page, problems, installation):
    visited = []
    page.on("request", lambda request: visited.append(request.url))
    with installation.session() as alice:
        uid = installation.submit(alice, "<b>look</b> at me").json()["id"]
    staff = installation.staff()
    eventually(lambda: any(found["id"] == uid for found in installation.messages(staff)), within=10)

    sign_in(page, installation)
    page.get_by_text("<b>look</b> at me").first.wait_for()
    page.locator("input[name=sender]").fill("+49 152 0000-0000")
    page.keyboard.press("Enter")
    page.get_by_text("<b>look</b> at me").first.wait_for()
    page.locator("table a").first.click()
    page.get_by_text(uid).first.wait_for()
    assert problems == []
    assert not any("15200000000" in url or "152%20" in url for url in visited), "the number stays out of URLs"


def test_look_up_a_certificate_and_fetch_the_list_that_could_revoke_it(page, problems, installation):
    sign_in(page, installation)
    page.goto(installation.ready["portal"] + "/admin/certs_app/certificate/?q=demo")
    state = page.locator("#result_list .pill")
    assert state.inner_text() == "valid"
    # The page is dark, and the policy let the styles in: white text on white would be read by nobody.
    assert state.evaluate("pill => getComputedStyle(pill).color") == "rgb(134, 224, 163)"
    page.locator("#result_list a").first.click()
    page.get_by_role("link", name="clients CA").first.click()
    page.get_by_role("link", name="number").click()
    with page.expect_download() as fetched:
        page.get_by_role("link", name=".crl").click()
    assert fetched.value.suggested_filename.startswith("clients-")
    assert problems == []


def test_a_dead_letter_is_found_by_keyboard_alone(page, problems, installation):
    letter = {"id": "0199-browser", "code": "bad_signature", "at": 1_790_000_000, "entry": "sealed"}
    with redis.Redis.from_url(installation.ready["redis_url"]) as client:
        client.hset("deliver.dead_letters", letter["id"], json.dumps(letter))
        sign_in(page, installation)
        link = page.get_by_role("link", name="Dead letters")
        for _ in range(10):
            page.keyboard.press("Tab")
            if link.evaluate("link => link === document.activeElement"):
                break
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Dead letters", exact=True).wait_for()
        eventually(lambda: page.reload() and page.get_by_text("0199-browser").count(), within=20, every=0.5)
        assert page.get_by_text("the envelope was changed after ingest signed it").is_visible()
        pill = page.get_by_text("bad_signature", exact=True)
        assert pill.evaluate("pill => getComputedStyle(pill).color") == "rgb(255, 168, 168)"
        # On a telephone nothing is wider than the screen.
        page.set_viewport_size({"width": 360, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        client.delete("deliver.dead_letters")
    assert problems == []
