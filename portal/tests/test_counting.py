"""No page and no answer counts a table without an end, or skips rows by counting them."""

import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from portal import counting
from portal.tests.conftest import SENDER, Api, Send


def _assert_bounded(queries: list[dict[str, Any]]) -> None:
    about_messages = [query["sql"] for query in queries if "registry_" in query["sql"]]
    assert about_messages
    for sql in about_messages:
        assert "OFFSET" not in sql
        if "COUNT(" in sql:
            assert re.search(r"COUNT\(\*\) FROM \(SELECT .*LIMIT \d+\) subquery$", sql), sql


@pytest.fixture
def many(send: Send) -> None:
    for number in range(53):
        send(str(number))


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("url", ["/", "/admin/registry/message/", "/admin/registry/message/?status__exact=registered"])
def test_pages_count_to_a_limit(browser: Client, url: str) -> None:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert browser.get(url).status_code == 200
    _assert_bounded(queries.captured_queries)


@pytest.mark.usefixtures("many")
def test_searches_and_the_api_count_to_a_limit(browser: Client, api: Api) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert api.get("/api/messages/").status_code == 200
        assert api.post("/api/messages/search/", {"sender": SENDER}).status_code == 200
    _assert_bounded(queries.captured_queries)


@pytest.mark.usefixtures("many")
def test_a_count_above_the_cap_says_so(browser: Client, api: Api, sam: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "CAP", 51)
    answer = api.get("/api/messages/").json()
    assert (answer["count"], answer["count_capped"]) == (51, True)
    browser.force_login(sam)
    assert "51+ messages" in browser.get("/").content.decode()
    assert "Only the newest 51" in browser.get("/admin/registry/message/").content.decode()


@pytest.mark.usefixtures("many")
def test_a_list_takes_a_handful_of_queries_however_long(browser: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        browser.get("/")
    # Session, user, page, capped count, what the ingests said; for the navigation, the permissions of the user and of
    # the groups.
    assert len(queries) == 7
