"""Values as documents, for ``--json``: the keys are the names of the fields."""

import binascii
import enum
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from functools import cache
from typing import Annotated, Any, TypeVar
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError
from btrfs_backup_ng.core.location import Location

T = TypeVar("T")

#: Types whose values JSON holds unchanged.
_PLAIN = (str, int, float, bool)


class Named(str):
    """The key of an annotated field, if that is not the field's name."""


#: A text that becomes the list of its lines.
Lines = Annotated[str, "lines"]
#: A time that has a second key beside it, ``age_s``: the seconds since then.
Aged = Annotated[T, "aged"]
#: A value that is replaced by its own fields.
Inline = Annotated[T, "inline"]


def to_document(value: object, now: datetime | None = None) -> Any:
    """Return a value in a form that JSON can hold.

    A path, of any bytes, is a text with ``surrogateescape``; if it is not UTF-8, a
    second key, ``..._base64``, has its bytes. A time is in UTC and to the second. An
    error is its message and the lines of its hint.

    :param now: aware; ages count back from it.
    :raises TypeError: if its type has no form.
    """
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, enum.Flag):
        return [(flag.name or "").lower() for flag in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, UUID | Location):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat(timespec="seconds")
    if isinstance(value, BackupError):
        return {"message": value.message, "hint": value.hint.splitlines()}
    if getattr(type(value), "__annotations__", None):
        return dict(_items(value, now))
    if isinstance(value, Mapping):
        return {to_document(key): to_document(value[key], now) for key in value}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [to_document(item, now) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _items(value: Any, now: datetime | None) -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of each annotated field."""
    kind: type = type(value)
    for name, key, form in _forms(kind):
        item = getattr(value, name)
        if form == "inline":
            yield from to_document(item, now).items()
        elif form == "lines":
            yield key, item.splitlines()
        elif isinstance(item, bytes):
            path = item.decode("utf-8", "surrogateescape")
            yield key, path
            if not path.isascii() and any(
                "\udc80" <= sign <= "\udcff" for sign in path
            ):
                yield f"{key}_base64", binascii.b2a_base64(item, newline=False).decode()
        else:
            yield key, to_document(item, now)
            if form == "aged" and now:
                yield "age_s", item and round((now - item).total_seconds())


@cache
def _forms(kind: type) -> list[tuple[str, str, str]]:
    """Return name, key and form of each annotated field of a class."""
    forms = []
    for name, annotation in kind.__annotations__.items():
        marks = getattr(annotation, "__metadata__", ())
        names = [str(mark) for mark in marks if isinstance(mark, Named)]
        kinds = [mark for mark in marks if not isinstance(mark, Named)]
        (key,), (mark,) = names or [name], kinds or [""]
        forms.append((name, key, mark))
    return forms
