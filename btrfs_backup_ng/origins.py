"""Own the record at a destination of where its backups come from.

Two sources whose backups have one prefix in one directory cannot be told apart
there, and a limit on the number of backups would delete those of the other one. So
each source signs in, and where two did, nothing is deleted.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.location import Scheme

#: File of our bookkeeping at a destination.
ORIGINS = "sources.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """A source: the same one if its UUID or its place is the same.

    A restored source has another UUID, a moved one another place.
    """

    uuid: UUID
    place: str

    def is_same(self, other: "Origin") -> bool:
        """Tell whether two descriptions mean one source."""
        return self.uuid == other.uuid or self.place == other.place


#: Prefix of the backups -> the sources they come from.
Origins = Mapping[str, tuple[Origin, ...]]


def origin_of(source: BtrfsEndpoint) -> Origin:
    """Describe a source, also for who sees the destination from another machine."""
    place = str(source.location)
    if source.location.scheme is Scheme.LOCAL:
        place = f"{os.uname().nodename}:{place}"
    assert source.facts.uuid
    return Origin(source.facts.uuid, place)


def parse_origins(content: bytes | None) -> Origins:
    """Read the record; one that is damaged says nothing, like one that is not there.

    The sources sign in again then.
    """
    try:
        document = json.loads(content or b"{}")
        if document.get("version") != _VERSION:
            return {}
        return {
            prefix: tuple(Origin(UUID(uuid), str(place)) for uuid, place in entries)
            for prefix, entries in document["prefixes"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def format_origins(origins: Origins) -> bytes:
    """Write the record so that :func:`parse_origins` reads the same."""
    prefixes = {
        prefix: [[str(origin.uuid), origin.place] for origin in entries]
        for prefix, entries in sorted(origins.items())
    }
    return json.dumps({"version": _VERSION, "prefixes": prefixes}).encode() + b"\n"


def signed_in(origins: Origins, prefix: str, own: Origin) -> Origins:
    """Add a source, or bring its entry up to date."""
    others = tuple(o for o in origins.get(prefix, ()) if not o.is_same(own))
    return {**origins, prefix: (*others, own)}


def others(origins: Origins, prefix: str, own: Origin) -> list[str]:
    """Give the places of the other sources with that prefix."""
    return [o.place for o in origins.get(prefix, ()) if not o.is_same(own)]
