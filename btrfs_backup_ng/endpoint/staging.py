"""The names in staging, which say how an interrupted transfer can be resumed.

Each transfer has a directory in staging. It receives the stream in intervals, each into
a *body*, a subvolume that is still written to. At the end of an interval, a read-only
snapshot of the body is made: a *seal* (``sendstream.checkpoint``). The seals are the
checkpoints. The names, and the properties of the subvolumes, are all that is needed to
resume, without a state file.

**Resume.** The received UUID of a seal is a digest of all commands of the stream up to
its end. Of a long command it covers only the header, whose checksum represents the
data. So the UUID proves the content of the seal; its name has the offset. The next run
(or attempt, with ``--retries``) reads the stream again. It digests and drops the part
below the newest seal. If the digest is the same, it resumes there. If not, the stream
is a different one; nothing was written yet, staging is deleted, and all of the stream
is sent. Data in a seal is never sent twice; other data is, up to one interval.

**The filter** that makes the intervals runs at the source, so data that is read again
does not cross the network. On a remote machine it is part of the verb ``send``, and
runs in its Python (3.7 or newer); without Python it makes no checkpoints. It reads only
headers, and moves the data behind them with splice(2). If it is next to the last stage,
it writes to that directly and reports the number of bytes, so no byte is copied twice
(``relay.Watch``). A stream of less than 1 MiB passes unchanged. Between two local
disks, checkpoints are made only for transfers longer than one interval; over ssh,
always. The filter changes only ``CLONE`` commands: a clone from the snapshot itself
must name the body that holds it. The checksum is linear, so that is cheap.

**The receiver** (verb ``receive``) deletes a seal when a newer one replaces it. A seal
is a snapshot, and a snapshot flushes its data, so a power failure costs no seal. Bodies
have random UUIDs and names, so a receiver of an earlier attempt that was believed dead
finds nothing to write to. The id of a transfer has digests of the snapshot, its parent
and the protocol, so the next run recognizes an attempt at the same transfer. It ends a
receiver that still runs (verb ``reap``: the process that has the directory open as
descriptor 9 holds the lock on it), and deletes the interrupted body. A seal that was
made writable and changed is not used, even if its received UUID is still the same:
nothing is ever written to a seal, so its ``ctransid`` must not exceed its ``rtransid``.

**Deletion.** If a transfer lacks space, interrupted transfers that this run does not
resume are deleted, one by one, the oldest first (``room``); all stay if even that is
not enough. The staging of a transfer that filled the disk stays only if the rest fits.
Otherwise staging is deleted when the snapshot has arrived in another way, by ``prune
--staging``, or after ``--staging-max-age`` if no transfer of the run resumes it. The
staging of another source at the same place stays until then.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from uuid import UUID

from btrfs_backup_ng.core.model import Snapshot, Waiting
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.sendstream.names import BODY, SEAL, parse_name

_STAMP = "%Y%m%dT%H%M%SZ"
#: Start, random part, digest of the snapshot, digest of the parent and the protocol.
#: Other names in staging are not ids. Versions without checkpoints omitted the digests.
_TRANSFER_ID = r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}(?:-([0-9a-f]{16})-([0-9a-f]{16}))?"


class Checkpoint(Value):
    """The point where an interrupted transfer can be resumed.

    :ivar offset: bytes of the stream that have arrived.
    :ivar digest: of the commands of the stream up to there: the seal's received UUID.
    :ivar tree_id: subvolume id of the seal.
    :ivar useless: names in the staging directory to delete before; the interrupted
        body is the first.
    """

    transfer_id: str
    offset: int
    digest: UUID
    tree_id: int
    useless: tuple[str, ...]

    @property
    def known(self) -> tuple[int, bytes]:
        """Return the offset and the digest, for ``sendstream.checkpoint``."""
        return self.offset, self.digest.bytes


def first_part(now: datetime, chance: bytes) -> str:
    """Return the first part of an id.

    :param now: aware.
    :param chance: four random bytes.
    """
    return f"{now.astimezone(timezone.utc).strftime(_STAMP)}-{chance.hex()}"


def full_id(
    first_part: str, snapshot: Snapshot, parent: Snapshot | None, protocol: str
) -> str:
    """Return the id of a transfer, which is the name of its staging directory.

    It identifies the stream, so that the next run recognizes it.
    """
    return f"{first_part}-{_snapshot_part(snapshot)}-{_form_part(parent, protocol)}"


def _snapshot_part(snapshot: Snapshot) -> str:
    return snapshot.origin.hex[:16]


def _form_part(parent: Snapshot | None, protocol: str) -> str:
    from hashlib import blake2b  # here: it loads OpenSSL, and only transfers need it

    base = parent.origin.bytes if parent else b""
    return blake2b(base + protocol.encode(), digest_size=8).hexdigest()


def ids_in(names: Iterable[str]) -> list[str]:
    """Return the ids of transfers among the names in staging."""
    return [name for name in names if re.fullmatch(_TRANSFER_ID, name)]


def is_known(transfer_id: str) -> bool:
    """Return whether an id identifies its stream."""
    match = re.fullmatch(_TRANSFER_ID, transfer_id)
    return match is not None and match[2] is not None


def chance_in(transfer_id: str) -> str:
    """Return the random part of an id."""
    return transfer_id.split("-")[1]


def started(transfer_id: str) -> datetime:
    """Return the time in an id, as aware UTC; the minimum if it is not a time."""
    match = re.fullmatch(_TRANSFER_ID, transfer_id)
    try:
        stamp = datetime.strptime(match[1] if match else "", _STAMP)
    except ValueError:
        stamp = datetime.min
    return stamp.replace(tzinfo=timezone.utc)


def expired(
    names: Iterable[str], now: datetime, age: timedelta, *, is_sure: bool
) -> list[str]:
    """Return the ids of transfers that began too long ago.

    If the time is sure, also of those that far in the future: a clock was wrong.

    :param now: the earliest time that it can be.
    """
    ages = {name: now - started(name) for name in ids_in(names)}
    return [n for n, old in ages.items() if old > age or is_sure and -old > age]


def of_snapshots(names: Iterable[str], snapshots: Iterable[Snapshot]) -> list[str]:
    """Return the ids of transfers of any of these snapshots."""
    wanted = {_snapshot_part(snapshot) for snapshot in snapshots}
    matches = (re.fullmatch(_TRANSFER_ID, name) for name in names)
    return [match[0] for match in matches if match and match[2] in wanted]


def of_protocol(names: Iterable[str], protocol: str) -> list[str]:
    """Return the ids of full transfers with this protocol."""
    end = f"-{_form_part(None, protocol)}"
    return [name for name in ids_in(names) if name.endswith(end)]


def of_transfer(
    names: Iterable[str], snapshot: Snapshot, parent: Snapshot | None, protocol: str
) -> list[str]:
    """Return the ids of earlier attempts at a transfer, the latest first."""
    end = f"-{_snapshot_part(snapshot)}-{_form_part(parent, protocol)}"
    return sorted((name for name in ids_in(names) if name.endswith(end)), reverse=True)


def waiting(transfer_id: str, names: Iterable[str], *, running: bool) -> Waiting:
    """Return the progress of a transfer.

    :param names: in its staging directory.
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
    """Find the checkpoint where a transfer can be resumed.

    :param names: in its staging directory.
    :param seals: name -> received UUID and subvolume id of each finished subvolume.
    :returns: ``None`` if it has to start over, also if a name there is not from a
        transfer of this snapshot.
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
    """Return the offset in the name of a seal, or of another of the marks; else 0."""
    parsed = parse_name(os.fsencode(name))
    return parsed[1] if parsed and parsed[0] in (marks or (SEAL,)) else 0
