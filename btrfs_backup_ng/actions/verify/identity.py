"""The judgement of a snapshot's identity, from listings alone."""

import enum
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from uuid import UUID

from btrfs_backup_ng.core.document import Lines
from btrfs_backup_ng.core.model import Integrity, Listing, Result, Snapshot
from btrfs_backup_ng.core.naming import stem_of, time_in
from btrfs_backup_ng.core.retention import in_order
from btrfs_backup_ng.core.value import Value


class Check(enum.Enum):
    """The property that was checked."""

    READ_ONLY = "read-only"
    RECEIVED_UUID = "received-uuid"
    SEAL = "seal"
    DUPLICATE = "duplicate"
    SOURCE = "source"
    PARENT = "parent"
    RECORDS = "records"
    CONTENTS = "contents"
    RESTORE = "restore"
    TOP_TIME = "top-time"


class Finding(Value):
    """The result of a check; a good one may have a remark for the user."""

    result: Result
    check: Check
    text: str
    hint: Lines = ""


def worst(results: Iterable[Result]) -> Result:
    """Return the worst of several results; good for an empty list."""
    rank = (Result.GOOD, Result.UNCHECKED, Result.BAD)
    return max(results, key=rank.index, default=Result.GOOD)


class Reference(Value):
    """The snapshots of one place, by origin and by name, as originals of copies.

    :ivar name: of the place, for people.
    :ivar groups: the snapshots by origin, each group oldest first.
    :ivar named: the snapshots by name.
    """

    name: str
    groups: Mapping[UUID, Sequence[Snapshot]]
    named: Mapping[str, Snapshot]

    @classmethod
    def of(cls, name: str, snapshots: Collection[Snapshot]) -> "Reference":
        """Return the reference with all snapshots of a place."""
        named = {snapshot.name: snapshot for snapshot in snapshots}
        return cls(name, _by_origin(snapshots), named)


def _by_origin(snapshots: Collection[Snapshot]) -> dict[UUID, list[Snapshot]]:
    groups: dict[UUID, list[Snapshot]] = defaultdict(list)
    for snapshot in in_order(snapshots):
        groups[snapshot.origin].append(snapshot)
    return dict(groups)


def judgeable(listing: Listing) -> list[Snapshot]:
    """Return the snapshots that can be judged, oldest first: received, or dated."""
    return in_order(
        [s for s in listing.snapshots if s.received_uuid or time_in(s.name)]
    )


def suspects(listing: Listing) -> list[str]:
    """Return the names with a date that are not a read-only snapshot."""
    seen = {snapshot.name for snapshot in listing.snapshots}
    return sorted(n for n in listing.names if n not in seen and time_in(n))


def judge_writable(received_uuid: UUID | None) -> Finding:
    """Judge a writable subvolume with the name of a snapshot."""
    if received_uuid:
        text = "it can be written to, though it carries a received UUID"
        return Finding(Result.BAD, Check.READ_ONLY, text)
    text = "it can be written to: a receive was interrupted, or it was made writable"
    return Finding(Result.BAD, Check.READ_ONLY, text)


def find_duplicates(listing: Listing) -> dict[UUID, list[str]]:
    """Return the names of snapshots that share a received UUID, by that UUID."""
    received = [snapshot for snapshot in listing.snapshots if snapshot.received_uuid]
    groups = _by_origin(received)
    return {uuid: [s.name for s in same] for uuid, same in groups.items() if same[1:]}


def judge_alone(
    snapshot: Snapshot,
    integrity: Integrity,
    duplicates: Mapping[UUID, Sequence[str]],
    others: Mapping[UUID, Integrity],
    *,
    is_backup: bool,
) -> Iterator[Finding]:
    """Judge a snapshot by the facts of its own place.

    :param integrity: from the closest look at it.
    :param duplicates: of its place, from :func:`find_duplicates`.
    :param others: received UUID -> the worst integrity of the subvolumes in other
        directories of the filesystem that carry it, too.
    """
    received = snapshot.received_uuid
    if is_backup and received is None:
        yield Finding(
            Result.BAD,
            Check.RECEIVED_UUID,
            "it has no received UUID: it was writable for a time, or never received",
        )
    if integrity is Integrity.CHANGED:
        text = "it was written to after it was made"
        yield Finding(Result.BAD, Check.SEAL, text)
    elif integrity is Integrity.UNKNOWN:
        text = "it is not known whether it was written to after it was made"
        yield Finding(Result.UNCHECKED, Check.SEAL, text)
    if received is None:
        return
    same = [name for name in duplicates.get(received, ()) if name != snapshot.name]
    if same:
        text = f"it has the same received UUID as {_listed(same)}"
        yield Finding(Result.BAD, Check.DUPLICATE, text)
    if received in others:
        yield _judge_others(others[received])


def _judge_others(integrity: Integrity) -> Finding:
    text = "a subvolume elsewhere on that filesystem has the same received UUID"
    if integrity is Integrity.CHANGED:
        text += ", and can be written to or was changed"
        return Finding(Result.BAD, Check.DUPLICATE, text)
    if integrity is Integrity.UNKNOWN:
        text += ", and it is not known whether that was changed"
        return Finding(Result.UNCHECKED, Check.DUPLICATE, text)
    return Finding(Result.GOOD, Check.DUPLICATE, f"{text}, unchanged")


def carried_elsewhere(listing: Listing) -> dict[UUID, tuple[int, ...]]:
    """Return the ids of subvolumes in other directories, by their received UUID."""
    known = {snapshot.tree_id for snapshot in listing.snapshots}
    wanted = {s.received_uuid for s in listing.snapshots if s.received_uuid}
    others = {
        uuid: tuple(tree_id for tree_id in ids if tree_id not in known)
        for uuid, ids in listing.carriers.items()
        if uuid in wanted
    }
    return {uuid: ids for uuid, ids in others.items() if ids}


def original_of(copy: Snapshot, reference: Reference) -> Sequence[Snapshot]:
    """Return the original of a copy; several if origin and name do not decide.

    A copy that lost its received UUID is found by its name.
    """
    if copy.received_uuid is None:
        namesake = reference.named.get(copy.name)
        return [namesake] if namesake else []
    same = reference.groups.get(copy.origin, [])
    if len(same) < 2:
        return same
    exact = [s for s in same if s.name == copy.name]
    return exact or [s for s in same if stem_of(s.name) == stem_of(copy.name)] or same


def judge_against(
    copy: Snapshot, reference: Reference, there: Collection[UUID]
) -> Iterator[Finding]:
    """Judge a copy by its original.

    :param there: origins of all copies at the place.
    """
    originals = original_of(copy, reference)
    if copy.received_uuid is None or len(originals) == 1:
        return
    if originals:
        names = _listed([s.name for s in originals])
        text = f"its received UUID is that of {names} at {reference.name}"
        yield Finding(Result.UNCHECKED, Check.SOURCE, text)
    else:
        yield _judge_orphan(copy, reference, there)


def _judge_orphan(
    copy: Snapshot, reference: Reference, there: Collection[UUID]
) -> Finding:
    named = reference.named.get(copy.name)
    if named is None:
        text = f"no longer at {reference.name}"
        return Finding(Result.GOOD, Check.SOURCE, text)
    text = f"{copy.name} at {reference.name} is a different snapshot"
    if named.origin in there:
        return Finding(Result.GOOD, Check.SOURCE, f"{text}, with a copy of its own")
    text += f": UUID {named.origin} there, {copy.origin} here"
    return Finding(Result.BAD, Check.SOURCE, text)


def judge_bases(
    copies: Sequence[Snapshot], bases: Mapping[UUID, str]
) -> Iterator[Finding]:
    """Judge whether the recorded parents of the next backup are there.

    :param bases: origin -> name of a parent, from the holds of the source.
    """
    there = {copy.origin for copy in copies}
    for origin, name in bases.items():
        if origin not in there:
            text = f"{name} is missing, which is recorded as parent of the next backup"
            yield Finding(Result.BAD, Check.PARENT, text)


def judge_common(copies: Sequence[Snapshot], reference: Reference) -> Iterator[Finding]:
    """Judge whether any copy is of a place, from which no backup is made."""
    there = {copy.origin for copy in copies}
    if copies and not there & reference.groups.keys():
        text = f"no snapshot is common with {reference.name}"
        yield Finding(Result.BAD, Check.PARENT, text)


def judge_next(
    is_incremental: bool | None, source: str, forecast: str, *, has_copies: bool
) -> Iterator[Finding]:
    """Judge the forecast of the next backup; without copies, it must be full.

    :param is_incremental: ``None``: that depends on the prefix.
    :param forecast: in words.
    """
    if is_incremental or not has_copies:
        return
    text = f"the next backup from {source} is {forecast}"
    if is_incremental is None:
        hint = "Give the prefix of its name:  -p PREFIX"
        yield Finding(Result.UNCHECKED, Check.PARENT, text, hint)
    else:
        yield Finding(Result.BAD, Check.PARENT, text)


def judge_reference(reference: Reference) -> Iterator[Finding]:
    """Judge whether each original has an origin of its own."""
    for origin, same in reference.groups.items():
        if len(same) > 1:
            names = _listed([snapshot.name for snapshot in same])
            text = f"{names} at {reference.name} share the UUID {origin}, so their"
            text += " copies cannot be told apart, and are not used as parents"
            yield Finding(Result.BAD, Check.DUPLICATE, text)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
