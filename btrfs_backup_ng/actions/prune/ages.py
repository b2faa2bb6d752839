"""The answer of the verb ``times``: the ages of snapshots."""

import re
from datetime import datetime, timedelta, timezone
from uuid import UUID

from btrfs_backup_ng.btrfs.listing import parse_dated
from btrfs_backup_ng.btrfs.parse import OutputNotUnderstood

_CREATED = rb"(?m)^\tCreation time: *\t+(\d[\d-]{9} [\d:]{8}) ([+-]\d{4})$"
_FORMAT = "%Y-%m-%d %H:%M:%S"


def parse_times(answer: bytes) -> dict[UUID, datetime]:
    """Parse the answer of the verb ``times``: UUID -> aware UTC, to the second.

    :raises OutputNotUnderstood: if it is not in the format of the known versions.
    """
    try:
        listed, listed_reversed, shown = answer.split(b"\0", 2)
        ((moment, offset),) = re.findall(_CREATED, shown)
        reference = datetime.strptime(f"{moment.decode()}", _FORMAT)
        zone = datetime.strptime(offset.decode(), "%z").utcoffset()
        times = {
            uuid: datetime.strptime(text, _FORMAT)
            for uuid, text in parse_dated(listed, listed_reversed)
        }
    except ValueError as error:
        raise OutputNotUnderstood(f"times of snapshots: {error}") from error
    if reference not in times.values():
        raise OutputNotUnderstood("btrfs lists and shows different times")
    shift = zone or timedelta()
    return {uuid: (m - shift).replace(tzinfo=timezone.utc) for uuid, m in times.items()}
