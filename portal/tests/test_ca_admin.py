"""Staff look at what the CA made. alice was renewed, bob is revoked, dora ends in a few days, erin has expired."""

import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from certs_app import audit, revocation_lists
from certs_app.models import AuditEvent, Certificate, Crl, Issuer
from certs_app.renewing import renew
from conftest import People
from portal import badges, ca_contents, ca_filters, counting

BASE = "/admin/certs_app"
NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.fixture
def ca(people: People) -> People:
    """The CA that the tests look at, with one certificate of every state."""
    first = people.issue("alice", "client").row
    now = timezone.now()
    renew(first, b"", now, people.operator)
    Certificate.objects.filter(pk=first.pk).update(first_used_at=now, superseded_at=now)
    people.issue("bob", "client")
    people.issue("dora", "gateway", days=5)
    people.issue("erin", "client")
    Certificate.objects.filter(name="erin").update(not_after=now - timedelta(days=1))
    people.issue("ingest1", "ingest", dns=["ingest.example.org"], ip=["192.0.2.7"])
    people.revoke("bob", "key_compromise")
    return people


@pytest.fixture
def staff(ca: People, browser: Client) -> Client:
    return browser


def text(client: Client, path: str) -> str:
    answer = client.get(f"{BASE}/{path}")
    assert answer.status_code == 200, f"{path} answers {answer.status_code}"
    return answer.content.decode()


def listed(client: Client, query: str = "", model: str = "certificate") -> list[str]:
    """Return the first column of a list."""
    page = text(client, f"{model}/?{query}")
    return [re.sub("<[^>]+>", "", cell).strip() for cell in re.findall(r'<th class="field-.*?</th>', page, re.DOTALL)]


def row_of(client: Client, name: str) -> str:
    rows = re.findall(r"<tr>.*?</tr>", text(client, "certificate/"), re.DOTALL)
    return next(row for row in rows if f">{name}</a>" in row)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("state=valid", ["ingest1", "dora", "alice"]),
        ("state=superseded", ["alice"]),
        ("state=expired", ["erin"]),
        ("state=revoked", ["bob"]),
        ("expires_within=7", ["dora"]),
        ("expires_within=90", ["dora"]),
        ("role__exact=gateway", ["dora"]),
        ("usage=server", ["ingest1"]),
        ("state=valid&usage=client&role__exact=client", ["alice"]),
    ],
)
def test_the_list_is_narrowed_by_a_filter(staff: Client, query: str, names: list[str]) -> None:
    assert listed(staff, query) == names


def test_the_list_is_narrowed_to_one_issuer(staff: Client) -> None:
    servers = Issuer.objects.get(kind=Issuer.SERVERS)
    assert listed(staff, f"issuer={servers.pk}") == ["ingest1"]
    assert all(name.isdigit() for name in listed(staff, f"issuer={servers.pk}", "crl"))


@pytest.mark.parametrize("query", ["state=stolen", "expires_within=x", "expires_within=8", "issuer=0", "usage=ca"])
def test_a_choice_that_there_is_not_shows_no_rows_as_its_answer(staff: Client, query: str) -> None:
    answer = staff.get(f"{BASE}/certificate/?{query}")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{BASE}/certificate/?e=1")


@pytest.mark.parametrize("term", ["alice", "ALI", "client/alice", " client/al "])
def test_a_name_is_found_by_its_start_with_or_without_the_role(staff: Client, term: str) -> None:
    assert listed(staff, f"q={term}") == ["alice", "alice"]
    assert listed(staff, f"q=gateway/{term.strip().rpartition('/')[2]}") == []


@pytest.mark.parametrize(
    "copied",
    [
        lambda number: number,
        lambda number: number.upper(),
        lambda number: "00" + number,
        lambda number: "0x" + number,
        lambda number: ":".join(re.findall("..", number.zfill(40).upper())),
        lambda number: " ".join(re.findall("..", number.zfill(40))),
        lambda number: number[:10] + "…",
    ],
)
def test_a_serial_number_is_found_however_it_was_copied(staff: Client, copied: Callable[[str], str]) -> None:
    number = Certificate.objects.get(name="dora").serial_number
    assert Client.get(staff, f"{BASE}/certificate/", {"q": copied(number)}).context["cl"].result_count == 1
    assert len(listed(staff, f"q={number.upper()}", "auditevent")) == 1


def test_a_search_for_nothing_but_zeros_finds_nothing(staff: Client) -> None:
    assert listed(staff, "q=00:00") == []
    assert listed(staff, "q=00:00", "auditevent") == []


@pytest.mark.parametrize(
    ("left", "tone", "words"),
    [
        (timedelta(days=31), "far", "in 31 days"),
        (timedelta(days=30), "soon", "in 30 days"),
        (timedelta(days=7, seconds=1), "soon", "in 7 days"),
        (timedelta(days=7), "near", "in 7 days"),
        (timedelta(days=1), "near", "in 1 day"),
        (timedelta(hours=5), "near", "in 5 hours"),
        (timedelta(seconds=20), "near", "now"),
        (timedelta(0), "past", "now"),
        (-timedelta(days=2), "past", "2 days ago"),
        (timedelta(days=900), "far", "in 2 years"),
    ],
)
def test_an_end_is_coloured_by_how_near_it_is_and_says_it_in_words(left: timedelta, tone: str, words: str) -> None:
    shown = badges.expiry(NOON + left, NOON)
    assert f'class="until {tone}"' in shown
    assert f"<span>{words}</span>" in shown


def test_the_list_shows_each_state_as_a_word_in_a_pill(staff: Client) -> None:
    assert '<span class="pill green">valid</span>' in row_of(staff, "dora")
    assert 'class="until near"' in row_of(staff, "dora")
    assert "in 4 days" in row_of(staff, "dora")
    assert '<span class="pill grey">expired</span>' in row_of(staff, "erin")
    assert '<span class="pill red">revoked</span>' in row_of(staff, "bob")
    assert '<span class="pill blue">superseded</span>' in text(staff, "certificate/?state=superseded")


def test_a_time_is_shown_to_the_second_and_in_utc() -> None:
    assert re.sub("<[^>]+>", "", badges.moment(NOON)) == "2026-01-31 12:00:00 UTC"
    assert badges.moment(None) == "-"


def test_what_is_revoked_needs_nobodys_attention_when_it_ends(staff: Client, ca: People) -> None:
    ca.revoke("dora", "superseded")
    assert 'class="until past"' in row_of(staff, "dora")


def test_the_list_shortens_the_serial_number_and_the_page_shows_it_whole(staff: Client) -> None:
    dora = Certificate.objects.get(name="dora")
    assert f">{dora.serial_number[:10]}…<" in row_of(staff, "dora")
    page = text(staff, f"certificate/{dora.pk}/change/")
    for whole in (dora.serial_number, dora.fingerprint, dora.spki_sha256):
        assert f'<span class="code">{whole}</span>' in page


def test_a_certificate_shows_its_chain_up_to_the_root(staff: Client) -> None:
    page = text(staff, f"certificate/{Certificate.objects.get(name='ingest1').pk}/change/")
    chain = re.search(r'<ol class="chain">.*?</ol>', page, re.DOTALL)
    assert chain is not None
    steps = re.findall(r"<li>.*?</li>", chain[0], re.DOTALL)
    assert [re.sub("<[^>]+>", " ", step).split()[:2] for step in steps] == [
        ["ingest/ingest1", "CN=ingest1"],
        ["servers", "CA"],
        ["root", "CA"],
    ]
    for kind, step in zip((Issuer.SERVERS, Issuer.ROOT), steps[1:], strict=True):
        assert f'href="{BASE}/issuer/{Issuer.objects.get(kind=kind).pk}/change/"' in step
        assert "is not in this database" not in page


def test_the_root_of_a_chain_is_the_one_that_signed_it(ca: People, browser: Client) -> None:
    from certs_app.authority import add_root

    other = add_root(timezone.now(), ca.operator)
    clients = Issuer.objects.get(kind=Issuer.CLIENTS)
    assert [one.name for one in ca_contents.up_to_root(clients)] == ["clients", "root"]
    Issuer.objects.filter(name="root").update(der=bytes(other.der))
    assert [one.name for one in ca_contents.up_to_root(clients)] == ["clients"]
    assert "The root above is not in this database" in text(browser, f"issuer/{clients.pk}/change/")


def test_a_certificate_shows_its_names(staff: Client) -> None:
    page = text(staff, f"certificate/{Certificate.objects.get(name='ingest1').pk}/change/")
    for name in ("spiffe://msgsys/ingest/ingest1", "ingest.example.org", "192.0.2.7"):
        assert f"<li>{name}</li>" in page


def test_a_renewed_certificate_and_its_successor_link_to_each_other(staff: Client) -> None:
    old, new = Certificate.objects.filter(name="alice").order_by("id")
    assert f'<a href="{BASE}/certificate/{old.pk}/change/">client/alice</a>' in text(
        staff, f"certificate/{new.pk}/change/"
    )
    page = text(staff, f"certificate/{old.pk}/change/")
    assert f'<a href="{BASE}/certificate/{new.pk}/change/">client/alice</a>' in page
    assert old.superseded_at is not None
    assert badges.moment(old.superseded_at) in page


def test_a_revoked_certificate_says_when_and_why_and_who_did_it(staff: Client) -> None:
    bob = Certificate.objects.get(name="bob")
    page = text(staff, f"certificate/{bob.pk}/change/")
    assert bob.revoked_at is not None
    assert badges.moment(bob.revoked_at) in page
    assert "key_compromise" in page
    for event in AuditEvent.objects.filter(subject_certificate=bob.serial_number):
        assert f"{BASE}/auditevent/{event.pk}/change/" in page
    assert page.count("operator:olga") == 2


def test_an_issuer_shows_how_much_it_issued_and_its_newest_list(
    staff: Client, ca: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = Issuer.objects.get(kind=Issuer.CLIENTS)
    newest = revocation_lists.newest(clients)
    assert newest is not None
    page = text(staff, f"issuer/{clients.pk}/change/")
    assert "3 (<a" in page
    assert f'<a href="{BASE}/crl/{newest.pk}/change/">number {newest.number}</a>' in page
    monkeypatch.setattr(counting, "CAP", 2)
    assert "2+ (<a" in text(staff, f"issuer/{clients.pk}/change/")


def test_a_revoked_issuer_says_so(staff: Client, ca: People) -> None:
    clients = Issuer.objects.get(kind=Issuer.CLIENTS)
    revocation_lists.revoke_issuer(clients, "ca_compromise", timezone.now(), ca.operator)
    for page in ("issuer/", f"issuer/{clients.pk}/change/"):
        assert '<span class="pill red">revoked</span>' in text(staff, page)
        assert "ca_compromise" in text(staff, page)


def test_a_list_is_fresh_until_a_newer_one_replaces_it_or_its_time_is_over(staff: Client, ca: People) -> None:
    clients = Issuer.objects.get(kind=Issuer.CLIENTS)
    newest = revocation_lists.newest(clients)
    assert newest is not None
    older = Crl.objects.get(issuer=clients, number=newest.number - 1)
    assert '<span class="pill green">fresh</span>' in text(staff, f"crl/{newest.pk}/change/")
    assert '<span class="pill grey">replaced</span>' in text(staff, f"crl/{older.pk}/change/")
    Crl.objects.filter(pk=newest.pk).update(next_update=timezone.now())
    assert '<span class="pill red">stale</span>' in text(staff, f"crl/{newest.pk}/change/")
    assert '<span class="pill red">stale</span>' in text(staff, "crl/")
    assert '<span class="pill red">stale</span>' in text(staff, f"issuer/{clients.pk}/change/")


def test_a_list_shows_whom_it_revokes_and_why(staff: Client) -> None:
    bob = Certificate.objects.get(name="bob")
    newest = revocation_lists.newest(bob.issuer)
    assert newest is not None
    page = text(staff, f"crl/{newest.pk}/change/")
    assert bob.serial_number in page
    assert f'<a href="{BASE}/certificate/{bob.pk}/change/">client/bob</a>' in page
    assert "key_compromise" in page
    assert "1 in all." in page


def test_a_long_list_shows_its_first_entries_and_how_many_there_are(
    staff: Client, ca: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca.revoke("dora")
    newest = revocation_lists.newest(Issuer.objects.get(kind=Issuer.CLIENTS))
    assert newest is not None
    monkeypatch.setattr("portal.ca_admin.ENTRIES", 1)
    page = text(staff, f"crl/{newest.pk}/change/")
    assert "The first 1 of 2" in page
    assert page.count('<td class="code">') == 1


def test_a_list_is_downloaded_as_it_was_published_and_openssl_accepts_it(
    staff: Client, ca: People, tmp_path: Any
) -> None:
    clients = Issuer.objects.get(kind=Issuer.CLIENTS)
    crl = revocation_lists.newest(clients)
    assert crl is not None
    answer = staff.get(f"{BASE}/crl/{crl.pk}/download.crl")
    assert answer.content == bytes(crl.der)
    assert answer.headers["Content-Type"] == "application/pkix-crl"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="clients-{crl.number}.crl"'
    assert answer.headers["Cache-Control"] == "no-store"
    (tmp_path / "list.crl").write_bytes(answer.content)
    (tmp_path / "issuer.pem").write_bytes(staff.get(f"{BASE}/issuer/{clients.pk}/download.pem").content)
    command = ["openssl", "crl", "-inform", "DER", "-in", "list.crl", "-CAfile", "issuer.pem", "-noout"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr.strip()) == (0, "verify OK")


def test_every_kind_of_pem_is_what_cryptography_would_write(staff: Client) -> None:
    crl = Crl.objects.order_by("-id")[0]
    dora = Certificate.objects.get(name="dora")
    expected = {
        f"crl/{crl.pk}": x509.load_der_x509_crl(bytes(crl.der)),
        f"certificate/{dora.pk}": dora.certificate,
        f"issuer/{dora.issuer_id}": dora.issuer.certificate,
    }
    for path, content in expected.items():
        answer = staff.get(f"{BASE}/{path}/download.pem")
        assert answer.content == content.public_bytes(Encoding.PEM)
        assert answer.headers["Content-Type"] == "application/x-pem-file"
    assert (
        f'filename="dora-{dora.serial_number[:10]}.pem"'
        in (staff.get(f"{BASE}/certificate/{dora.pk}/download.pem").headers["Content-Disposition"])
    )


@pytest.mark.parametrize("path", ["crl/{}/download.crl", "crl/{}/download.pem", "certificate/{}/download.pem"])
def test_there_is_no_download_of_what_there_is_not(staff: Client, path: str) -> None:
    for pk in ("999999", "none", "1/2"):
        assert staff.get(f"{BASE}/{path.format(pk)}").status_code == 404


def test_downloads_are_only_for_staff_and_only_read(staff: Client, ada: User, ca: People) -> None:
    dora, crl = Certificate.objects.get(name="dora"), Crl.objects.order_by("-id")[0]
    paths = (
        f"certificate/{dora.pk}/download.pem",
        f"issuer/{dora.issuer_id}/download.pem",
        f"crl/{crl.pk}/download.crl",
    )
    for path in paths:
        for method in ("post", "put", "patch", "delete"):
            assert getattr(staff, method)(f"{BASE}/{path}").status_code == 405
    User.objects.filter(username="sam@example.com").update(is_staff=False)
    for path in paths:
        assert staff.get(f"{BASE}/{path}").status_code == 302
    staff.logout()
    for path in paths:
        assert "/login/?next=" in staff.get(f"{BASE}/{path}").headers["Location"]


def test_the_pages_link_to_their_downloads(staff: Client) -> None:
    dora = Certificate.objects.get(name="dora")
    assert f'href="{BASE}/certificate/{dora.pk}/download.pem"' in text(staff, f"certificate/{dora.pk}/change/")
    crl = Crl.objects.order_by("-id")[0]
    for kind in ("crl", "pem"):
        assert f'href="{BASE}/crl/{crl.pk}/download.{kind}"' in text(staff, f"crl/{crl.pk}/change/")


def test_a_spoiled_row_breaks_no_page_and_can_be_fetched_to_look_at(staff: Client) -> None:
    dora, crl = Certificate.objects.get(name="dora"), Crl.objects.order_by("-id")[0]
    Certificate.objects.filter(pk=dora.pk).update(der=b"spoiled")
    Issuer.objects.filter(pk=dora.issuer_id).update(der=b"spoiled")
    Crl.objects.filter(pk=crl.pk).update(der=b"spoiled")
    for page in (f"certificate/{dora.pk}", f"issuer/{dora.issuer_id}", f"crl/{crl.pk}"):
        assert '<span class="unreadable">unreadable</span>' in text(staff, f"{page}/change/")
        assert b"c3BvaWxlZA==" in staff.get(f"{BASE}/{page}/download.pem").content


def test_the_audit_is_read_newest_first_and_leads_to_the_certificates(staff: Client, ca: People) -> None:
    bob = Certificate.objects.get(name="bob")
    page = text(staff, "auditevent/")
    assert f'<a href="{BASE}/certificate/{bob.pk}/change/">client/bob</a>' in page
    assert page.index("revoked</td>") < page.index("ca_made</td>")
    event = AuditEvent.objects.get(action=audit.REVOKED)
    one = text(staff, f"auditevent/{event.pk}/change/")
    for shown in (event.actor, event.detail, event.digest, event.previous, bob.serial_number):
        assert shown in one
    assert f'<a href="{BASE}/certificate/{bob.pk}/change/">client/bob</a>' in one


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("action=revoked", 1),
        ("action=renewed", 1),
        ("q=olga", 10),
        ("q=operator:olga", 10),
        ("q=client/bob", 2),
        ("q=bob", 2),
        ("q=clients", 1),
        ("q=mallory", 0),
        ("at__gte=2100-01-01%2000:00:00%2B00:00", 0),
    ],
)
def test_the_audit_is_narrowed_by_filter_and_search(staff: Client, query: str, count: int) -> None:
    assert len(listed(staff, query, "auditevent")) == count


def test_the_audit_can_be_narrowed_to_every_action_there_is() -> None:
    own = {name: value for name, value in vars(audit).items() if name.isupper() and isinstance(value, str)}
    own.pop("START")
    assert {value for name, value in own.items() if not name.startswith("_")} == set(ca_filters.ACTIONS)


@pytest.mark.parametrize("model", ["certificate", "issuer", "crl", "auditevent"])
def test_a_list_of_the_ca_takes_the_same_few_queries_however_long(staff: Client, ca: People, model: str) -> None:
    def queries() -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            text(staff, f"{model}/")
        return [query["sql"] for query in captured.captured_queries]

    before = queries()
    for number in range(8):
        ca.issue(f"more{number}", "client")
        ca.revoke(f"more{number}")
    after = queries()
    # Session, user, two for permissions; the issuers to filter by, the capped count, the page.
    assert len(after) == len(before) <= 7
    for sql in after:
        assert not re.search(r'(?<!LENGTH\()["`]certs_app_\w+["`].["`]der["`]', sql), sql
        if "COUNT(" in sql:
            assert re.search(r"COUNT\(\*\) FROM \(SELECT .*LIMIT \d+\) subquery$", sql), sql


def test_a_table_longer_than_the_cap_says_so(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "CAP", 3)
    assert "Only the newest 3 are listed here" in text(staff, "certificate/")
    # What lies behind the cap has no page, so no OFFSET can reach it.
    assert staff.get(f"{BASE}/certificate/?p=2").status_code in (200, 302)


def test_the_admin_styles_come_from_a_file_and_nothing_is_styled_in_place(staff: Client) -> None:
    dora, crl = Certificate.objects.get(name="dora"), Crl.objects.order_by("-id")[0]
    for page in ("certificate/", f"certificate/{dora.pk}/change/", f"crl/{crl.pk}/change/", "auditevent/"):
        content = text(staff, page)
        assert "portal/admin.css" in content
        assert "style=" not in content
        assert "<style" not in content
    assert staff.get("/static/portal/admin.css").status_code == 200
