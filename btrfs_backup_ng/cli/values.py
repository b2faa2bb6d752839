"""The values that options take: words -> values, or a usage error."""

import os
from collections.abc import Callable
from datetime import timedelta, timezone, tzinfo
from typing import TypeVar

from btrfs_backup_ng.__util__ import MIB, UsageError, parse_size, parse_span, visible
from btrfs_backup_ng.core.codecs import parse_codec
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.policy import Policy, parse_policy

T = TypeVar("T")


def location(text: str) -> Location:
    """Read a place; a relative path starts from the working directory."""
    return parse_location(text, working_directory=os.getcwd())


def count(text: str) -> int:
    """Read a number of snapshots to keep."""
    if not _is_count(text):
        raise UsageError(
            f"'{visible(text)}' is not a number of snapshots to keep",
            hint="The newest is always kept; leave the option out to keep all.",
        )
    return int(text)


def backup_count(text: str) -> int:
    """Read a number of backups to keep."""
    if not _is_count(text):
        raise UsageError(
            "-n takes a number here (backups to keep); for a dry run use --dry-run"
        )
    return int(text)


def tasks(text: str) -> int:
    """Read a number of tasks to run at once."""
    if not _is_count(text):
        raise UsageError(f"'{visible(text)}' is not a number of tasks")
    return int(text)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def number(text: str, kind: str, largest: float) -> float:
    """Read a number from 0 to the largest that makes sense."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= largest:
        raise UsageError(f"'{visible(text)}' is not {kind}")
    return value


def seconds(text: str) -> float:
    """Read a length of time, which may be a number of seconds."""
    try:
        return parse_span(text).total_seconds()
    except ValueError:
        return number(
            text, "a length of time; write it like 90 (seconds) or 1h", 10.0**8
        )


def percent(text: str) -> float:
    """Read a percentage."""
    return number(text, "a number of percent", 10000.0)


def _parsed(option: str, parse: Callable[[str], T], text: str) -> T:
    """Read a value with a function that knows no options."""
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {visible(str(error))}") from error


def rate(text: str) -> int:
    """Read a limit in bytes a second."""
    return _parsed("--rate", parse_size, text)


def max_size(text: str) -> int:
    """Read the longest size of a stream, in bytes."""
    return _parsed("--max-size", parse_size, text)


def interval(text: str) -> int:
    """Read the interval between checkpoints, in bytes."""
    size = _parsed("--checkpoint-interval", parse_size, text)
    if size < MIB:
        raise UsageError(
            f"--checkpoint-interval: '{visible(text)}' is less than 1M, which would"
            " cost more than it saves"
        )
    return size


def retries(text: str) -> int:
    """Read a number of retries."""
    return int(number(text, "a number of further attempts", 10**6))


def staging_age(text: str) -> timedelta:
    """Read the age at which an interrupted transfer expires."""
    return _parsed("--staging-max-age", parse_span, text)


def max_age(text: str) -> timedelta:
    """Read the highest age of the newest backup."""
    return _parsed("--max-age", parse_span, text)


def since(text: str) -> timedelta:
    """Read the length of the period to look back."""
    return _parsed("--since", parse_span, text)


def simulated_span(text: str) -> timedelta:
    """Read the length of a simulation, or the interval between its snapshots."""
    return _parsed("--simulate, --every", parse_span, text)


def codec(text: str) -> str:
    """Read a method of compression."""
    return _parsed("--compress", parse_codec, text)


def zone(text: str) -> tzinfo:
    """Read the name of a time zone."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # here: few name a zone

    if text.upper() == "UTC":
        return timezone.utc
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"--keep-zone: unknown time zone '{visible(text)}'",
            hint="Write it like Europe/Berlin; Debian has them in the package tzdata.",
        ) from error


def policy(text: str | None, option: str, where: tzinfo) -> Policy | None:
    """Read which snapshots to keep.

    :param where: the zone in which days begin.
    """
    if text is None:
        return None
    try:
        return parse_policy(text, where)
    except ValueError as error:
        raise UsageError(
            f"{option}: {error}",
            hint=f"For example:  {option} 'latest 24h 7d 4w 12m 5y min=2d'",
        ) from error
