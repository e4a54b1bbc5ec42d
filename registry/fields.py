"""Model fields: text that is sealed in the database, and binary columns of a fixed width."""

import base64
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.core.exceptions import FieldError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.query_utils import DeferredAttribute

from registry import sealing
from registry.keyring import ring

if TYPE_CHECKING:
    _Field = models.Field[Any, Any]
else:
    _Field = models.Field

_FIXTURE_PREFIX = "sealed:"


class UnboundValue(Exception):
    """Plain text was about to reach SQL, or to be kept for no known row: only an instance with its uid seals it."""


class Sealed:
    """A sealed value as it lies in the database; reading the attribute opens it."""

    __slots__ = ("blob",)

    def __init__(self, blob: bytes) -> None:
        self.blob = bytes(blob)

    def __repr__(self) -> str:
        return f"<Sealed {len(self.blob)} bytes>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sealed) and other.blob == self.blob

    def __hash__(self) -> int:
        return hash(self.blob)


class FromFixture(Sealed):
    """A sealed value on its way from a fixture into the table: loaddata writes what reading the attribute gives."""

    __slots__ = ()


class SealedAttribute(DeferredAttribute):
    """Seals text as it is written and opens it on first read, so an instance's own state is never plain text."""

    field: "EncryptedTextField"

    def __get__(self, instance: models.Model | None, cls: Any = None) -> Any:
        if instance is None:
            return self
        name, value = self.field.attname, self.stored(instance)
        if value is None or isinstance(value, FromFixture):
            return value
        opened = instance.__dict__.setdefault("_opened", Opened())
        kept = opened.get(name)
        if kept is None or kept[0] is not value:
            kept = opened[name] = (value, self.field.open(value, instance))
        return kept[1]

    def __set__(self, instance: models.Model, value: Any) -> None:
        name = self.field.attname
        if isinstance(value, str):
            sealed = self.field.seal(value, instance)
            instance.__dict__.setdefault("_opened", Opened())[name] = (sealed, value)
            value = sealed
        if value is not None and not isinstance(value, Sealed):
            raise UnboundValue(f"{self.field.name} takes text, not {type(value).__name__}")
        instance.__dict__[name] = value

    def stored(self, instance: models.Model) -> Sealed | None:
        """Return the sealed value itself, fetched first where it was deferred."""
        name = self.field.attname
        if name not in instance.__dict__:
            # Not refresh_from_db: it reads the attribute, so it would open the value and seal it anew.
            rows = type(instance)._base_manager.db_manager(instance._state.db).filter(pk=instance.pk)
            instance.__dict__[name] = rows.values_list(name, flat=True).get()
        value: Sealed | None = instance.__dict__[name]
        return value


class Opened(dict[str, tuple[Sealed, str]]):
    """Opened texts of one instance. Pickles as empty, so caches and sessions never hold plain text."""

    def __reduce__(self) -> tuple[type["Opened"], tuple[()]]:
        return Opened, ()

    def __repr__(self) -> str:
        return f"<Opened {len(self)}>"


class EncryptedTextField(_Field):
    """Text sealed with AES-256-GCM for its row and column.

    `label` is the column's name in the key derivation and the additional data; it is frozen for ever, so that renaming
    a table orphans nothing. The row is known by its `uid`, which is set before any text is.
    Reading may raise registry.sealing.UNREADABLE; lookups other than isnull, update() and bulk_update() are refused.
    """

    descriptor_class = SealedAttribute
    empty_strings_allowed = False

    def __init__(self, *args: Any, label: str, max_bytes: int, **options: Any) -> None:
        self.label = label
        self.max_bytes = max_bytes
        for senseless in ("primary_key", "unique", "db_index", "db_default"):
            if options.get(senseless):
                raise FieldError(f"{senseless} makes no sense on an encrypted field")
        super().__init__(*args, **options)

    def deconstruct(self) -> Any:
        name, path, args, options = super().deconstruct()
        return name, path, args, {**options, "label": self.label, "max_bytes": self.max_bytes}

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        if connection.vendor == "mysql":
            size = self.max_bytes + sealing.OVERHEAD
            return f"varbinary({size})" if size <= 4096 else "mediumblob"
        return "blob"

    def get_internal_type(self) -> str:
        return "BinaryField"

    # -- sealing

    def seal(self, text: str, instance: object) -> Sealed:
        """Seal a text for the row that has this instance's `uid`."""
        raw = text.encode()
        if len(raw) > self.max_bytes:
            raise ValueError(f"{self.name} has {len(raw)} bytes, more than the {self.max_bytes} the column holds")
        return Sealed(sealing.seal(text, label=self.label, uid=_row(instance), ring=ring()))

    def open(self, value: Sealed, instance: models.Model) -> str:
        return sealing.open_sealed(value.blob, label=self.label, uid=_row(instance), ring=ring())

    # -- between Python and SQL

    def from_db_value(self, value: bytes | None, expression: Any, connection: Any) -> Sealed | None:
        return None if value is None else Sealed(value)

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and value.startswith(_FIXTURE_PREFIX):
            return FromFixture(base64.b64decode(value.removeprefix(_FIXTURE_PREFIX)))
        return value

    def pre_save(self, model_instance: models.Model, add: bool) -> Sealed | None:
        return self.value_from_object(model_instance)

    def value_from_object(self, obj: models.Model) -> Sealed | None:
        # The sealed value, not the text: dumpdata and model_to_dict ask here, and must not stop at a damaged row.
        attribute: SealedAttribute = getattr(type(obj), self.attname)
        return attribute.stored(obj)

    def get_prep_value(self, value: Any) -> bytes | None:
        if value is None or isinstance(value, Sealed):
            return None if value is None else value.blob
        raise UnboundValue(f"{self.name}: plain text never reaches SQL; use save(), create() or bulk_create()")

    def get_placeholder(self, value: Any, compiler: Any, connection: Any) -> str:
        if hasattr(value, "as_sql"):
            raise UnboundValue(f"{self.name}: an expression cannot be sealed; use save(), create() or bulk_create()")
        return "%s"

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        prepared_value = value if prepared else self.get_prep_value(value)
        return None if prepared_value is None else connection.Database.Binary(prepared_value)

    def get_lookup(self, lookup_name: str) -> Any:
        return super().get_lookup(lookup_name) if lookup_name == "isnull" else None

    def get_transform(self, lookup_name: str) -> None:
        return None

    def value_to_string(self, obj: models.Model) -> str:
        sealed = self.value_from_object(obj)
        return "" if sealed is None else _FIXTURE_PREFIX + base64.b64encode(sealed.blob).decode()


def _row(instance: object) -> bytes:
    uid = getattr(instance, "uid", None)
    if not isinstance(uid, UUID):
        raise UnboundValue("the row's uid must be set before its text can be sealed or opened")
    return uid.bytes


class BoundedBinaryField(_Field):
    """Up to `max_bytes` bytes, as VARBINARY(n)."""

    def __init__(self, *args: Any, max_bytes: int, **options: Any) -> None:
        self.max_bytes = max_bytes
        super().__init__(*args, **options)

    def deconstruct(self) -> Any:
        name, path, args, options = super().deconstruct()
        return name, path, args, {**options, "max_bytes": self.max_bytes}

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return f"varbinary({self.max_bytes})" if connection.vendor == "mysql" else "blob"

    def get_internal_type(self) -> str:
        return "BinaryField"

    def from_db_value(self, value: bytes | None, expression: Any, connection: Any) -> Any:
        return None if value is None else bytes(value)

    def get_prep_value(self, value: Any) -> bytes | None:
        if value is None:
            return None
        raw = bytes(value)
        if len(raw) > self.max_bytes:
            raise ValueError(f"{self.name} takes {self.max_bytes} bytes at most, not {len(raw)}")
        return raw

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        raw = value if prepared else self.get_prep_value(value)
        return None if raw is None else connection.Database.Binary(raw)

    def value_to_string(self, obj: models.Model) -> str:
        value = self.value_from_object(obj)
        return "" if value is None else bytes(value).hex()

    def to_python(self, value: Any) -> Any:
        return bytes.fromhex(value) if isinstance(value, str) else value


class FixedBinaryField(BoundedBinaryField):
    """Exactly `length` bytes, as BINARY(n): indexable and unique on MySQL, where BinaryField is a longblob."""

    def __init__(self, *args: Any, length: int, **options: Any) -> None:
        self.length = length
        super().__init__(*args, max_bytes=length, **options)

    def deconstruct(self) -> Any:
        name, path, args, options = super().deconstruct()
        del options["max_bytes"]
        return name, path, args, {**options, "length": self.length}

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return f"binary({self.length})" if connection.vendor == "mysql" else "blob"

    def get_prep_value(self, value: Any) -> bytes | None:
        raw = super().get_prep_value(value)
        if raw is not None and len(raw) != self.length:
            raise ValueError(f"{self.name} takes {self.length} bytes, not {len(raw)}")
        return raw


class BinaryUUIDField(FixedBinaryField):
    """A UUID in 16 bytes on every engine; Django's own takes 32 characters on MySQL and SQLite."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options["length"] = 16
        super().__init__(*args, **options)

    def deconstruct(self) -> Any:
        name, path, args, options = super().deconstruct()
        del options["length"]
        return name, path, args, options

    def from_db_value(self, value: bytes | None, expression: Any, connection: Any) -> UUID | None:
        return None if value is None else UUID(bytes=bytes(value))

    def to_python(self, value: Any) -> Any:
        return UUID(value) if isinstance(value, str) else value

    def get_prep_value(self, value: Any) -> bytes | None:
        if isinstance(value, str):
            value = UUID(value)
        return super().get_prep_value(value.bytes if isinstance(value, UUID) else value)

    def value_to_string(self, obj: models.Model) -> str:
        return str(self.value_from_object(obj) or "")
