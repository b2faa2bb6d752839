"""The names of snapshots, and the times in them."""

import re
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta, timezone
from functools import lru_cache

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.core.value import Value

_FORMAT = "%Y%m%d-%H%M%S"
#: A time of this program or, behind a dot, one of btrbk: ``long`` or ``long-iso`` of
#: btrbk.conf(5). It fits at one place of a name at most.
_ENDING = r"""(?ax)
    (?P<day>\d{8})
    (?: -(?P<clock>\d{6}) (?P<offset>[+-]\d{4})?
      | (?<=\.\d{8}) T(?P<minute>\d{4}) (?: (?P<second>\d\d)(?P<zone>Z|[+-]\d{4}) )? )
    (?: _(?P<number>\d{1,4}) )?
    \Z"""
#: NAME_MAX of Linux and BTRFS_NAME_LEN.
_NAME_BYTES = 255


class Naming(Value):
    """Names are a prefix and a local time: ``home-20261123-101500``.

    A second snapshot in the same second gets ``_1``, and so on. In the hour that
    occurs twice at the end of summer time, the second one has its UTC offset after
    the time, so that a name always means one time.

    With a prefix like ``home.`` the series also has the names that btrbk gave:
    ``home.20261123T1015`` and ``home.20261123T101500+0100``.
    """

    prefix: str

    def _check(self) -> None:
        """Refuse prefixes that no file name can have.

        :raises UsageError: for ``/``, NUL, or more bytes than a name may have.
        """
        longest = f"{self.prefix}20000101-000000+0000_9999"
        if "/" in self.prefix or "\0" in self.prefix:
            raise UsageError(
                f"'{visible(self.prefix)}' cannot be a snapshot prefix: it contains a"
                " slash or NUL"
            )
        if len(longest.encode(errors="surrogateescape")) > _NAME_BYTES:
            raise UsageError(
                f"the snapshot prefix is too long; a name has up to {_NAME_BYTES} bytes"
            )

    def name_at(self, now: datetime, taken: Iterable[str]) -> str:
        """Return the name for a snapshot made at ``now``.

        :param now: aware; the name shows it in its own zone.
        :param taken: names in use.
        """
        name = f"{self.prefix}{now.strftime(_FORMAT)}"
        meant = now.replace(microsecond=0).astimezone(timezone.utc)
        if self.time_of(name) != meant and now.utcoffset() is not None:
            name += now.strftime("%z")
        return free_name(name, taken)

    def time_of(self, name: str) -> datetime | None:
        """Return the time in a name as aware UTC, or None if it has another form.

        Strict: the prefix, a time that exists, nothing else. A name without offset is
        read in the local zone. The ``_N`` of names within one second counts as N
        microseconds, so that they sort in the order of creation.
        """
        split = split_name(name)
        return split[1] if split and split[0] == self.prefix else None


def time_in(name: str) -> datetime | None:
    """Return the time at the end of a name, whatever its prefix, or None; aware UTC."""
    split = split_name(name)
    return split[1] if split else None


#: A backup has the name of its snapshot, and a run asks for each several times.
_REMEMBERED = 1 << 14


@lru_cache(_REMEMBERED)
def split_name(name: str) -> tuple[str, datetime] | None:
    """Return the prefix of a name and its time (aware UTC), or None if it has none."""
    match = re.search(_ENDING, name)
    moment = _parse_time(match) if match else None
    return (name[: match.start()], moment) if match and moment else None


def are_of_btrbk(names: Collection[str]) -> bool:
    """Return whether there are names, and btrbk gave all of them."""
    return bool(names) and all(map(_is_of_btrbk, names))


def _is_of_btrbk(name: str) -> bool:
    match = re.search(_ENDING, name)
    return bool(match and match["minute"])


def prefix_in(name: str) -> str:
    """Return the part of a name before its time; the whole name if it has none."""
    split = split_name(name)
    return split[0] if split else name


def _parse_time(match: re.Match[str]) -> datetime | None:
    parts = match.group("day", "clock", "minute", "second", "offset", "zone", "number")
    day, clock, minute, second, offset, zone, number = parts
    clock = clock or minute + (second or "00")
    offset = offset or zone
    try:
        if offset:
            stamp = datetime.strptime(f"{day}-{clock}{offset}", _FORMAT + "%z")
        else:  # ten times as fast as strptime: listings are long
            date = int(day[:4]), int(day[4:6]), int(day[6:])
            time = int(clock[:2]), int(clock[2:4]), int(clock[4:])
            stamp = datetime(*date, *time)
        if number:
            stamp += timedelta(microseconds=int(number))
        return stamp.astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return ``name``, or ``name_N`` with the next N above all taken ones.

    A new snapshot never gets the name of an older one that was deleted.
    """
    stem = stem_of(name)
    numbers = [_number(other, stem) for other in taken if stem_of(other) == stem]
    if not numbers or max(numbers) < _number(name, stem):
        return name
    return f"{stem}_{max(numbers) + 1}"


def _number(name: str, stem: str) -> int:
    return int(name[len(stem) + 1 :] or 0)


def stem_of(name: str) -> str:
    """Return a name without the ``_N`` of :func:`free_name`."""
    return re.sub(r"(?s)(?<=.)_[0-9]{1,4}\Z", "", name)
