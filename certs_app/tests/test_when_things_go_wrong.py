"""Crashes, lost keys, wrong clocks, stale backups: what the CA and its nodes do then."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from django.core.management import call_command
from django.test import override_settings
from django.utils import timezone

from certs_app import authority, checks, fetching, lint, pairs, revocation_lists, upkeep
from certs_app.authority import init_ca
from certs_app.ca_client import CaAway, RemoteCa
from certs_app.ca_keys import CaKeyError, path_of
from certs_app.issuing import IssuingRefused, Request, issue
from certs_app.local_ca import LocalCa, LocalLists
from certs_app.models import AuditEvent, Certificate, Crl, Issuer
from certs_app.own_certificates import OwnCertificate, keep, renewal_time
from certs_app.renewing import MAX_PER_HOUR, RenewalRefused, renew
from certs_app.revocation import Revocations, pem_blocks
from certs_app.revocation_lists import newest, publish, revoke, revoke_issuer
from certs_app.tests.conftest import Door, serving
from conftest import People
from wire.problems import Problem


def of(kind: str) -> Issuer:
    return Issuer.objects.get(name=kind)


def number(kind: str) -> int:
    crl = newest(of(kind))
    assert crl is not None
    return crl.number


# --- a CA's key is gone ---------------------------------------------------------------------------------------------


def test_a_lost_key_of_one_ca_does_not_stop_the_others_lists(people: People) -> None:
    people.issue("bob", "client")
    path_of("servers").unlink()
    before = number("clients"), number("servers")

    people.revoke("bob")

    assert number("clients") > before[0]
    assert number("servers") == before[1]
    assert Certificate.objects.get(name="bob").revoked_at is not None


def test_what_the_lost_key_had_to_sign_is_not_revoked_in_silence(people: People) -> None:
    people.issue("node", "registry")
    path_of("servers").unlink()

    with pytest.raises(CaKeyError):
        people.revoke("node")
    assert Certificate.objects.get(name="node").revoked_at is None


def test_a_ca_whose_key_is_gone_can_still_be_revoked_and_replaced(people: People) -> None:
    path_of("servers").unlink()

    revoke_issuer(of("servers"), "ca_compromise", timezone.now(), People.operator)
    authority.add_issuers(("servers",), timezone.now(), People.operator)

    assert people.issue("node", "registry").row.issuer.name == "servers-2"


def test_a_ca_can_be_revoked_when_every_issuing_key_is_gone(people: People) -> None:
    for name in ("clients", "servers"):
        path_of(name).unlink()

    revoke_issuer(of("clients"), "ca_compromise", timezone.now(), People.operator)

    assert of("clients").revoked_at is not None


def test_a_lost_key_costs_only_its_own_ca_when_its_list_runs_out(people: People, tmp_path_factory: Any) -> None:
    alice, node = people.peer("alice"), people.peer("node", "registry")
    path_of("servers").unlink()
    later = timezone.now() + timedelta(hours=60)
    publish(later)
    revocations = Revocations(people.folder / "crl.pem", people.folder / "ca.crt")

    revocations.check(alice, later)
    with pytest.raises(Problem, match="revocation_unknown"):
        revocations.check(node, later)
    elsewhere = tmp_path_factory.mktemp("node")
    shutil.copy(people.folder / "ca.crt", elsewhere)
    shutil.copy(people.folder / "crl.pem", elsewhere)
    publish(later + timedelta(hours=1))
    assert fetching.accept(_published(), elsewhere / "ca.crt", elsewhere / "crl.pem", later + timedelta(hours=1))


def _published() -> dict[Any, Any]:
    blocks = pem_blocks(revocation_lists.bundle(timezone.now()))
    return {crl.issuer: crl for crl in map(x509.load_pem_x509_crl, blocks)}


def test_a_revoked_ca_needs_its_key_no_more(people: People) -> None:
    people.issue("alice", "client")
    revoke_issuer(of("clients"), "ca_compromise", timezone.now(), People.operator)
    path_of("clients").unlink()
    crl = newest(of("clients"))
    assert crl is not None
    assert crl.next_update > of("clients").not_after

    publish(timezone.now() + timedelta(days=30))

    assert number("clients") == crl.number
    later = timezone.now() + timedelta(days=31)
    assert fetching.are_usable(people.folder / "ca.crt", people.folder / "crl.pem", later)


# --- crashes and power cuts -----------------------------------------------------------------------------------------


@pytest.fixture
def beside_the_ca(people: People, settings: Any) -> People:
    people.issue("registry", "registry", dns=["localhost"], ip=["127.0.0.1"])
    pair = {"certificate": people.folder / "registry.crt", "key": people.folder / "registry.key"}
    settings.SERVER_CERTIFICATE, settings.CLIENT_CERTIFICATE = pair, None
    settings.CA, settings.CA_LISTS = "certs_app.local_ca.LocalCa", "certs_app.local_ca.LocalLists"
    return people


def found() -> list[str]:
    return [str(message.id) for message in [*checks.certificates(None), *checks.revocation_lists(None)]]


def test_who_was_off_for_days_beside_the_ca_makes_new_lists_before_its_checks(beside_the_ca: People) -> None:
    publish(timezone.now() - timedelta(hours=60))
    assert "msgsys.E110" in found()

    upkeep.prepare()

    assert found() == []


def test_a_ca_that_the_database_never_had_is_taken_out_of_the_files(beside_the_ca: People) -> None:
    """Killed between the file and the commit."""
    kept = (beside_the_ca.folder / "ca.crt").read_bytes()
    phantom = of("clients").certificate.public_bytes(Encoding.PEM)
    authority.add_issuers(("clients",), timezone.now(), People.operator)
    with_phantom = (beside_the_ca.folder / "ca.crt").read_bytes()
    Issuer.objects.filter(name="clients-2").get().crls.all().delete()
    Issuer.objects.filter(name="clients-2").delete()
    revocation_lists.write_file()
    assert phantom in with_phantom
    assert "msgsys.E108" in found()

    upkeep.prepare()

    assert found() == []
    assert (beside_the_ca.folder / "ca.crt").read_bytes() == kept
    assert "Published list" in _said("publish_crl")


def _said(command: str) -> str:
    from io import StringIO

    out = StringIO()
    call_command(command, stdout=out)
    return out.getvalue()


def test_a_new_root_in_the_bundle_keeps_no_node_from_starting(beside_the_ca: People) -> None:
    before = (beside_the_ca.folder / "crl.pem").read_bytes()
    authority.add_root(timezone.now(), People.operator)

    (beside_the_ca.folder / "crl.pem").write_bytes(before)

    assert found() == []


def test_a_staged_pair_never_replaces_a_newer_one(beside_the_ca: People) -> None:
    pair = beside_the_ca.folder / "registry.crt", beside_the_ca.folder / "registry.key"
    stale = issue(
        Request("registry", "registry", dns=["localhost"]), timezone.now() - timedelta(days=1), People.operator
    )
    staged = beside_the_ca.folder / ".registry.crt.renewed"
    staged.write_bytes(stale.key_pem + stale.chain_pem)
    staged.chmod(0o600)
    before = [file.read_bytes() for file in pair]

    pairs.finish_replacing(*pair)

    assert [file.read_bytes() for file in pair] == before
    assert not staged.exists()


def test_a_restart_does_not_forget_to_tell_that_the_new_certificate_is_in_use(beside_the_ca: People) -> None:
    own = OwnCertificate(beside_the_ca.folder / "registry.crt", beside_the_ca.folder / "registry.key")
    old = Certificate.objects.get(name="registry")

    class DiesHere(LocalCa):
        def in_use(self, serial_number: str) -> None:
            raise CaAway("the process is killed before it could tell")

    keep([own], DiesHere(), renewal_time(own.load()) + timedelta(seconds=1))
    old.refresh_from_db()
    assert old.superseded_at is None

    keep([OwnCertificate(own.certificate, own.key)], LocalCa(), timezone.now())

    old.refresh_from_db()
    assert old.superseded_at is not None


# --- clocks and backups ---------------------------------------------------------------------------------------------


def test_a_restored_database_does_not_fall_behind_its_nodes(people: People, tmp_path_factory: Any) -> None:
    node = tmp_path_factory.mktemp("node")
    backup = number("clients")
    for name in ("ca.crt", "crl.pem"):
        shutil.copy(people.folder / name, node / name)
    for days in range(3):
        publish(timezone.now() + timedelta(hours=days))
    of("clients").crls.filter(number__gt=backup).delete()

    publish(timezone.now() + timedelta(hours=4))

    assert number("clients") > backup + 3


def test_after_a_restore_the_nodes_learn_again_that_a_ca_is_revoked(people: People, tmp_path_factory: Any) -> None:
    node = tmp_path_factory.mktemp("node")
    backup = {row.pk for row in Crl.objects.all()}
    revoke_issuer(of("clients"), "ca_compromise", timezone.now(), People.operator)
    for name in ("ca.crt", "crl.pem"):
        shutil.copy(people.folder / name, node / name)
    # The backup comes back; the key was destroyed, as the runbook says.
    path_of("clients").unlink()
    Crl.objects.exclude(pk__in=backup).delete()
    Issuer.objects.filter(name="clients").update(revoked_at=None, reason="")

    later = timezone.now() + timedelta(minutes=1)
    revoke_issuer(of("clients"), "ca_compromise", later, People.operator)

    assert fetching.accept(_published(), node / "ca.crt", node / "crl.pem", later)


def test_an_empty_database_writes_over_nothing(people: People) -> None:
    """It may be one that is yet to be restored."""
    files = [people.folder / name for name in ("ca.crt", "crl.pem")]
    before = [file.read_bytes() for file in files]
    Crl.objects.all().delete()
    Issuer.objects.all().delete()

    LocalLists().repair(timezone.now())
    LocalLists().refresh(timezone.now())
    authority.write_bundle(timezone.now())
    revocation_lists.write_file()

    assert [file.read_bytes() for file in files] == before


def test_a_new_list_counts_at_once_even_while_the_ca_file_cannot_be_read(people: People) -> None:
    bob = people.peer("bob")
    revocations = Revocations(people.folder / "crl.pem", people.folder / "ca.crt")
    revocations.check(bob, timezone.now())
    (people.folder / "ca.crt").unlink()

    people.revoke("bob")

    with pytest.raises(Problem, match="certificate_revoked"):
        revocations.check(bob, timezone.now())


def test_a_ca_that_is_brought_later_counts_at_once(people: People) -> None:
    before = (people.folder / "ca.crt").read_bytes()
    authority.add_issuers(("clients",), timezone.now(), People.operator)
    after = (people.folder / "ca.crt").read_bytes()
    dora = people.peer("dora")
    (people.folder / "ca.crt").write_bytes(before)
    revocations = Revocations(people.folder / "crl.pem", people.folder / "ca.crt")
    with pytest.raises(Problem):
        revocations.check(dora, timezone.now())

    (people.folder / "ca.crt").write_bytes(after)

    revocations.check(dora, timezone.now())


def test_a_life_cut_short_by_its_cas_end_is_not_inherited(people: People) -> None:
    near = of("clients").not_after - timedelta(days=10)
    cut = issue(Request("alice", "client"), near, People.operator).row
    authority.add_issuers(("clients",), near, People.operator)

    again = renew(cut, b"", near + timedelta(days=1), People.operator).row

    assert again.not_after - near > timedelta(days=300)


# --- a thief --------------------------------------------------------------------------------------------------------


def test_what_was_renewed_from_a_stolen_certificate_goes_with_it(people: People) -> None:
    stolen = people.issue("bob", "client").row
    second = renew(stolen, b"", timezone.now(), People.operator).row
    third = renew(second, b"", timezone.now(), People.operator).row
    own = issue(Request("bob", "client"), timezone.now(), People.operator).row

    revoked = revoke(Certificate.objects.filter(pk=stolen.pk), "key_compromise", timezone.now(), People.operator)

    assert [one.pk for one in revoked] == [stolen.pk, second.pk, third.pk]
    assert Certificate.objects.get(pk=own.pk).revoked_at is None


def test_a_planned_revocation_leaves_the_successor_alone(people: People) -> None:
    old = people.issue("bob", "client").row
    new = renew(old, b"", timezone.now(), People.operator).row

    revoke(Certificate.objects.filter(pk=old.pk), "superseded", timezone.now(), People.operator)

    assert Certificate.objects.get(pk=new.pk).revoked_at is None


def test_renewals_are_bounded_per_owner_and_one_owner_uses_up_nobody_elses(people: People) -> None:
    alice, bob = (people.issue(name, "client").row for name in ("alice", "bob"))
    for each in range(MAX_PER_HOUR):
        chained = {"previous": f"x{each}", "digest": f"d{each}"}
        AuditEvent(at=timezone.now(), actor="x", action="renewed", subject="client/alice", **chained).save()

    with pytest.raises(RenewalRefused, match="within the hour"):
        renew(alice, b"", timezone.now(), People.operator)
    assert renew(bob, b"", timezone.now(), People.operator).row.name == "bob"


def test_nobody_else_on_the_machine_can_hold_the_lists(people: People) -> None:
    revocation_lists.write_file()

    lock = people.folder / ".crl.pem.lock"
    assert lock.stat().st_mode & 0o077 == 0


def test_an_audit_event_is_never_written_over(people: People) -> None:
    first = AuditEvent.objects.earliest("id")

    with pytest.raises(Exception, match=r"UNIQUE|Duplicate"):
        AuditEvent(id=first.pk, at=timezone.now(), actor="mallory", action="issued", previous="y").save()
    assert AuditEvent.objects.get(pk=first.pk).actor == "operator:olga"


# --- asked at all ---------------------------------------------------------------------------------------------------


def test_nothing_is_signed_that_breaks_a_rule(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    never = lint.Rule("none", "it is Tuesday", lambda draft: False)
    monkeypatch.setattr(lint, "LEAF", (never,))
    monkeypatch.setattr(lint, "CA", (never,))

    with pytest.raises(lint.LintError, match="it is Tuesday"):
        people.issue("alice", "client")
    with pytest.raises(lint.LintError, match="it is Tuesday"):
        authority.add_issuers(("clients",), timezone.now(), People.operator)
    assert not Certificate.objects.exists()
    assert Issuer.objects.count() == 3
    assert not path_of("clients-2").exists()


@pytest.fixture
def node(served: People, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another machine's folder, with alice's pair as its own."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("ca.crt", "crl.pem", "alice.crt", "alice.key"):
        shutil.copy(served.folder / name, folder / name)
    return folder


def asking(node: Path, port: int) -> Any:
    pair = {"certificate": node / "alice.crt", "key": node / "alice.key"}
    files = {"CA_FILE": node / "ca.crt", "CRL_FILE": node / "crl.pem", "CLIENT_CERTIFICATE": pair}
    return override_settings(REGISTRY_URL=f"https://localhost:{port}", **files)


@pytest.mark.parametrize("state", ["good", "missing", "empty", "junk"])
def test_a_node_fetches_whatever_the_state_of_its_lists(served: People, node: Path, state: str) -> None:
    if state == "missing":
        (node / "crl.pem").unlink()
    elif state != "good":
        (node / "crl.pem").write_bytes(b"" if state == "empty" else b"junk")

    with serving(Door(), served.folder) as live, asking(node, live.port):
        assert b'"client/alice"' in (RemoteCa().get("/crl.pem")[0] or b"")


def test_a_node_renews_at_no_registry_whose_certificate_is_revoked(served: People, node: Path) -> None:
    with serving(Door(), served.folder) as live, asking(node, live.port):
        assert RemoteCa()._post("/renew_cert", {})["peer"] == "client/alice"
        served.revoke("localhost")

        with pytest.raises(CaAway, match="certificate revoked"):
            RemoteCa()._post("/renew_cert", {})


def test_a_second_init_at_the_same_time_finds_the_first(people: People) -> None:
    with pytest.raises(authority.AlreadyInitialised):
        init_ca(timezone.now(), People.operator)


def test_a_revoked_ca_issues_nothing(people: People) -> None:
    Issuer.objects.filter(name="clients").update(revoked_at=timezone.now())

    with pytest.raises(IssuingRefused, match="no CA for client certificates stands"):
        people.issue("alice", "client")


def test_local_lists_are_repaired_even_when_nothing_seems_new(people: People) -> None:
    lists = LocalLists()
    lists.refresh(timezone.now())
    (people.folder / "crl.pem").write_bytes(b"")

    lists.repair(timezone.now())

    assert fetching.are_usable(people.folder / "ca.crt", people.folder / "crl.pem", timezone.now())
