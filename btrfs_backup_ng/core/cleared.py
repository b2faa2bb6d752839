"""Snapshots that were written to, with unchanged contents.

Deduplication (bees, duperemove) lets files share their data, also in read-only
snapshots. The contents stay, but the filesystem counts that as a change. If ``verify``
finds all contents to be those of an unchanged snapshot on the other side, the record of
the place gets the transaction of the last change. Up to this one, the snapshot counts
as unchanged; a later change shows as any other.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from btrfs_backup_ng.core.record import Content, Unreadable, as_int, parse_document

#: Name of the record at a place, and its version; the rest of it is in
#: ``place.verified``.
VERIFIED = "verified.json"
VERSION = 1

#: UUID of a snapshot at its place -> transaction of its last change that is cleared.
Cleared = Mapping[UUID, int]

#: The default: no cleared snapshots.
NOTHING_CLEARED: Mapping[int, int] = {}


def build_cleared(document: Any) -> Cleared:
    """Return the cleared snapshots in the document of a record."""
    found = document.get("cleared", {})
    return {UUID(uuid): as_int(number) for uuid, number in found.items()}


def parse_cleared(content: Content) -> Cleared:
    """Read the cleared snapshots from a record; none if it cannot be read."""
    if content is None:
        return {}
    try:
        return parse_document(content, VERSION, build_cleared)
    except Unreadable:
        return {}


def format_cleared(cleared: Cleared) -> Mapping[str, int]:
    """Return the part of a document from which :func:`build_cleared` reads the same."""
    return {str(uuid): number for uuid, number in sorted(cleared.items())}
