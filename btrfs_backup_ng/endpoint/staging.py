"""The names in staging: what a transfer's directory is called, and how far it got.

Everything that is needed to go on with a cut transfer is in these names and in what
btrfs says about the subvolumes that carry them.

- **The UUID of a seal is a digest** over all commands up to there, long ones by their
  headers alone, as the checksum in there stands for the data. It proves what the seal
  holds; its name tells how much that is. No state file is needed.
- The next run (or attempt, with ``--retries``) reads the stream again, drops and
  digests what lies below the newest seal, and goes on if the digest is the same. If
  not, the stream is another one: nothing was written yet, staging is dropped, and all
  of it is sent again. What is sealed is never sent twice; what is not, is at most an
  interval.
- Bodies have UUIDs and names of chance, so that a receiver that was thought dead finds
  nothing to write to. A clone from the snapshot itself is led to the body that it is in
  (``CLONE``, the only command that is changed); the checksum is linear, so that costs
  next to nothing.
- The filter looks at headers. The data behind them it moves on with splice(2). Where it
  stands in front of the last stage it writes to that directly, and says how much, so
  that no byte passes twice (``relay.Watch``).
- It runs where the stream comes from, so that what is read again crosses no wire: on
  another machine within the verb ``send``, given to the Python there as text (3.7 or
  newer); without one there are no checkpoints.
- The verb ``receive`` deletes what a newer seal replaces while it works; a seal is a
  snapshot, which flushes what it is of, so a power cut costs no sealed interval.
- The id of a transfer names the snapshot, its parent and the protocol, by digest. So
  the next run knows an attempt at the same transfer; it ends whatever still receives
  there (verb ``reap``: who has that directory open as descriptor 9 has the lock on it),
  and deletes the body that was cut.
- A seal that somebody opened and wrote to is not built upon, even if its received UUID
  is what it was: nothing is ever written to a seal, so its ``ctransid`` never passes
  its ``rtransid``.
- Where a transfer lacks room, those that this run does not go on with give way, the
  oldest first, one by one (``room``); all of them stay if they would not do. What a
  transfer left that filled the disk stays only if the rest fits.
- What was left is deleted after the snapshot has arrived in any way, by ``prune
  --staging``, or after ``--staging-max-age`` if no transfer of the run goes on with it;
  what another source left at the same place is not touched before that.

A stream of less than 1 MiB passes as it is. Here, between two disks, checkpoints are
made if more than an interval is to be sent; over ssh always.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from uuid import UUID

from btrfs_backup_ng.core.model import Snapshot, Waiting
from btrfs_backup_ng.sendstream.checkpoint import BODY, SEAL, parse_name

_STAMP = "%Y%m%dT%H%M%SZ"
#: When it began, chance, what is sent, and how. Nothing else in staging is ours. The
#: last two were not there before there were checkpoints.
_TRANSFER_ID = re.compile(
    r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}(?:-([0-9a-f]{16})-([0-9a-f]{16}))?"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a cut transfer can go on.

    :ivar offset: bytes of the stream that are there.
    :ivar digest: of the commands of the stream up to there: the seal's received UUID.
    :ivar tree_id: number of the seal, as a subvolume.
    :ivar useless: names in the staging directory that are to be deleted before; the
        body that was cut is the first.
    """

    transfer_id: str
    offset: int
    digest: UUID
    tree_id: int
    useless: tuple[str, ...]

    @property
    def known(self) -> tuple[int, bytes]:
        """Return what ``sendstream.checkpoint`` wants to know of it."""
        return self.offset, self.digest.bytes


def first_part(now: datetime, chance: bytes) -> str:
    """Make the beginning of an id.

    :param now: aware.
    :param chance: four bytes of it.
    """
    return f"{now.astimezone(timezone.utc).strftime(_STAMP)}-{chance.hex()}"


def full_id(
    first_part: str, snapshot: Snapshot, parent: Snapshot | None, protocol: str
) -> str:
    """Make the id of a transfer, which names its staging directory.

    It tells which stream that is, so that the next run knows it again.
    """
    return f"{first_part}-{_what(snapshot)}-{_how(parent, protocol)}"


def _what(snapshot: Snapshot) -> str:
    return snapshot.origin.hex[:16]


def _how(parent: Snapshot | None, protocol: str) -> str:
    base = parent.origin.bytes if parent else b""
    return blake2b(base + protocol.encode(), digest_size=8).hexdigest()


def ours(names: Iterable[str]) -> list[str]:
    """Pick the ids of transfers from the names in staging."""
    return [name for name in names if _TRANSFER_ID.fullmatch(name)]


def is_known(transfer_id: str) -> bool:
    """Tell whether an id says what is transferred."""
    match = _TRANSFER_ID.fullmatch(transfer_id)
    return match is not None and match[2] is not None


def chance_in(transfer_id: str) -> str:
    """Return the part of an id that no other attempt has."""
    return transfer_id.split("-")[1]


def started(transfer_id: str) -> datetime:
    """Return the time in an id, as aware UTC; the oldest there is for one that lies."""
    match = _TRANSFER_ID.fullmatch(transfer_id)
    try:
        stamp = datetime.strptime(match[1] if match else "", _STAMP)
    except ValueError:
        stamp = datetime.min
    return stamp.replace(tzinfo=timezone.utc)


def expired(
    names: Iterable[str], now: datetime, age: timedelta, *, is_sure: bool
) -> list[str]:
    """Pick the ids of transfers that began too long ago.

    Or that far in the future, if the time is sure: a clock was wrong then.

    :param now: the first of all times that it may be.
    """
    ages = {name: now - started(name) for name in ours(names)}
    return [n for n, old in ages.items() if old > age or is_sure and -old > age]


def of_snapshots(names: Iterable[str], snapshots: Iterable[Snapshot]) -> list[str]:
    """Pick the ids of transfers of any of these snapshots."""
    wanted = {_what(snapshot) for snapshot in snapshots}
    matches = map(_TRANSFER_ID.fullmatch, names)
    return [match[0] for match in matches if match and match[2] in wanted]


def of_protocol(names: Iterable[str], protocol: str) -> list[str]:
    """Pick the ids of transfers that were full and went by this protocol."""
    end = f"-{_how(None, protocol)}"
    return [name for name in ours(names) if name.endswith(end)]


def of_transfer(
    names: Iterable[str], snapshot: Snapshot, parent: Snapshot | None, protocol: str
) -> list[str]:
    """Pick the ids of earlier attempts at a transfer, the latest first."""
    end = f"-{_what(snapshot)}-{_how(parent, protocol)}"
    return sorted((name for name in ours(names) if name.endswith(end)), reverse=True)


def waiting(transfer_id: str, names: Iterable[str], *, running: bool) -> Waiting:
    """Tell how far a transfer got.

    :param names: what lies in its staging directory.
    """
    offset, name = 0, ""
    for found in names:
        parsed = parse_name(os.fsencode(found))
        name = os.fsdecode(parsed[2]) if parsed else found
        offset = max(offset, _offset(found))
    return Waiting(transfer_id, name, started(transfer_id), offset, running)


def newest_checkpoint(
    transfer_id: str,
    snapshot_name: str,
    names: Sequence[str],
    seals: Mapping[str, tuple[UUID, int]],
) -> Checkpoint | None:
    """Find where a transfer can go on.

    :param names: what lies in its staging directory.
    :param seals: name -> received UUID and number of what btrfs has finished there.
    :returns: ``None`` if it has to begin anew, also for something that no transfer of
        this snapshot leaves.
    """
    if any(
        name != snapshot_name and not parse_name(os.fsencode(name)) for name in names
    ):
        return None
    newest = max((name for name in seals if _offset(name)), key=_offset, default=None)
    if newest is None:
        return None
    others = [name for name in names if name != newest]
    useless = sorted(others, key=lambda name: _offset(name, BODY, SEAL), reverse=True)
    return Checkpoint(transfer_id, _offset(newest), *seals[newest], tuple(useless))


def _offset(name: str, *marks: bytes) -> int:
    """Return the offset in the name of a seal (or what has such a mark); else 0."""
    parsed = parse_name(os.fsencode(name))
    return parsed[1] if parsed and parsed[0] in (marks or (SEAL,)) else 0
