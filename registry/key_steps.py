"""Take a key through its states, in the key file: under a lock, audited, and never past what the data still needs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import transaction

from certs_app import audit
from certs_app.audit import Actor
from certs_app.files import lock_beside, write_secret
from registry import canaries, key_document, keyring, reindexing, resealing
from registry.key_document import ENCRYPTION, KINDS, KeyDocument, StepRefused
from registry.keyring import KeyRing
from registry.models import Message
from registry.search.models import Run


class StillNeeded(StepRefused):
    """Stored data can be read or found by this key only. The message says what, and what to do."""


@dataclass(frozen=True)
class Keys:
    """What somebody at the terminal does with the key file. `looked` is told how far a look through the data is, by
    the last row's id.
    """

    by: Actor
    now: datetime
    looked: Callable[[int], None] = lambda last_id: None

    def init(self) -> None:
        """Make a key file with fresh keys. Raises StepRefused, FileExistsError."""
        _check_is_file()
        if Message.objects.exists() or canaries.Canary.objects.exists():
            raise StepRefused("the database holds data of other keys: restore the key file that belongs to it")
        keyring.create(settings.KEY_FILE)
        canaries.make_missing(self.now, keyring.load(settings.KEY_FILE))
        for kind in KINDS:
            audit.record(audit.KEY_ADDED, self.by, f"{kind} key 1", self.now)

    def add(self, kind: str) -> int:
        """Add a staged key; return its id. Raises StepRefused when another machine has added it."""
        with _changing() as held:
            held.document, key_id = held.document.add(kind, self.now)
            canaries.make_missing(self.now, KeyRing.of(held.document))
            # After that, not before: of two machines that add at once, one finds the other's canary.
            if (kind, key_id) in canaries.misfits(held.document):
                raise StepRefused(f"{kind} key {key_id} was added on another machine: copy the key file from there")
            self._record(audit.KEY_ADDED, kind, key_id)
        return key_id

    def promote(self, kind: str, key_id: int) -> None:
        with _changing() as held:
            held.document = held.document.promote(kind, key_id, self.now)
            self._record(audit.KEY_PROMOTED, kind, key_id)

    def retire(self, kind: str, key_id: int) -> None:
        """Raises StillNeeded while any row needs the key."""
        self.check_can_retire(kind, key_id)
        with _changing() as held:
            held.document = held.document.retire(kind, key_id, self.now)
            self._record(audit.KEY_RETIRED, kind, key_id)

    def reactivate(self, kind: str, key_id: int) -> None:
        with _changing() as held:
            held.document = held.document.reactivate(kind, key_id, self.now)
            self._record(audit.KEY_REACTIVATED, kind, key_id)

    def destroy(self, kind: str, key_id: int) -> None:
        """Raises StillNeeded: a process that had not noticed may have written since the key was retired."""
        self.check_can_destroy(kind, key_id)
        with _changing() as held:
            held.document = held.document.destroy(kind, key_id, self.now)
            self._record(audit.KEY_DESTROYED, kind, key_id)

    def check_can_retire(self, kind: str, key_id: int) -> None:
        document = keyring.document()
        document.retire(kind, key_id, self.now)
        self._check_not_needed(kind, key_id, KeyRing.of(document))

    def check_can_destroy(self, kind: str, key_id: int) -> None:
        document = keyring.document()
        document.destroy(kind, key_id, self.now)
        # A ring that has it once more: retired keys open nothing, and what they would open is the question.
        self._check_not_needed(kind, key_id, KeyRing.of(document.reactivate(kind, key_id, self.now)))

    def _check_not_needed(self, kind: str, key_id: int, keys: KeyRing) -> None:
        if kind == ENCRYPTION:
            _check_seals_nothing(key_id, keys)
            return
        runs = Run.objects.filter(key_id=key_id).count()
        hint = "Run `manage.py reindex`."
        if runs:
            raise StillNeeded(f"{runs:,} runs of the search index are under index key {key_id}. {hint}")
        for last_id, found in reindexing.some_sender_under(key_id, keys):
            self.looked(last_id)
            if found:
                raise StillNeeded(f"messages are found by their sender under index key {key_id}. {hint}")

    def _record(self, action: str, kind: str, key_id: int) -> None:
        audit.record(action, self.by, f"{kind} key {key_id}", self.now)


def _check_seals_nothing(key_id: int, keys: KeyRing) -> None:
    number = resealing.count_by_key()[key_id]
    # What cannot be opened by its own key needs no key.
    if number and any(table.some_value_opens(key_id, keys) for table in resealing.tables()):
        raise StillNeeded(f"{number:,} stored values are sealed by encryption key {key_id}. Run `manage.py reseal`.")


@dataclass
class _Held:
    """The document while it is changed."""

    document: KeyDocument


@contextmanager
def _changing() -> Iterator[_Held]:
    """Read the key file, and write what is made of it: with its audit record, or neither.

    Raises KeyRingError when the file is not that of the data: another's keys are not to be worked on.
    """
    _check_is_file()
    # What a link leads to is replaced, not the link.
    file = settings.KEY_FILE.resolve()
    with lock_beside(file), transaction.atomic():
        held = _Held(keyring.document())
        canaries.check(held.document)
        yield held
        write_secret(file, key_document.encode(held.document), replace=True)


def _check_is_file() -> None:
    if settings.KEY_COMMAND:
        raise StepRefused("the keys come from MSGSYS_KEY_COMMAND: their states are changed where that has them")
