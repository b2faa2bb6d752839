"""The verifying of what a place keeps: look, choose, judge, compare, restore.

``verify`` looks, chooses, judges, and reads only if it was asked to. Each check is
good, bad or could not be made, and the worst of them counts.

- **Identity** (``identity``) comes from one listing a place: read-only, a received
  UUID, the seal (above; ``place`` looks closely where a listing leaves it open, at all
  at once, and halves only what is broken), who else carries the received UUID. With the
  source: copies of what is there, whether the next backup is incremental
  (``forecast``), records that can be read.
- **Contents** (``tree``, ``manifest``): both trees are read where they lie, each file
  once, by its first name. Here that is done in process (``local_tree``), elsewhere by
  the verb ``hash`` (``remote_tree``, ``tree``): three sessions, for the names with
  their facts, the digests and the xattrs. All come in the order of the bytes of the
  paths, so that one merge compares them, with a few entries in memory. ``sort`` brings
  them into that order there; here a directory is sorted with its subdirectories a
  second time as ``name/``, which is the same order. A test reads the same tree both
  ways.
- What stands for a nested subvolume in a snapshot (an empty directory, inode 2) is left
  out on both sides: no stream has it. Sizes of directories and access times are of a
  filesystem and not of what it holds, so they are not compared.
- A **test of restoring** (``restore_test``) is a transfer in full into the staging of a
  scratch place, where it is compared and deleted. Its id marks it as what it is, so
  nobody goes on with it; the next test deletes what a killed one left.
- The record (``verified.json``) is by UUID of the snapshot at its place. Bad stays bad
  until a check that is as thorough finds it good.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.actions.verify.identity import (
    Check,
    Finding,
    Reference,
    judge_against,
    judge_alone,
    judge_bases,
    judge_common,
    judge_next,
    judge_reference,
    judge_writable,
    of_ours,
    original_of,
    suspects,
    worst,
)
from btrfs_backup_ng.actions.verify.manifest import Difference
from btrfs_backup_ng.actions.verify.place import (
    CloseLooks,
    Item,
    Shelf,
    check_records,
    look_closely,
    parents_for,
    read_shelves,
)
from btrfs_backup_ng.actions.verify.restore_test import open_scratch, restored
from btrfs_backup_ng.actions.verify.tree import (
    KEPT,
    Compared,
    TreeLocation,
    compare_trees,
)
from btrfs_backup_ng.core.choose import is_in_part, pick
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Integrity, Listing, Result, Snapshot
from btrfs_backup_ng.core.record import Content
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint
from btrfs_backup_ng.place.contents import Access, Role, open_place
from btrfs_backup_ng.place.forecast import Forecast, foresee
from btrfs_backup_ng.place.verified import Depth, Memory
from btrfs_backup_ng.process.pipeline import Meter
from btrfs_backup_ng.session.progress import Progress

#: Differences that are kept until the end, of all snapshots together.
_KEPT_IN_ALL = 10 * KEPT


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What is to be verified, and how.

    :ivar source: what the snapshots are copies of, if that is to be looked at.
    :ivar words: which snapshots; nothing for all.
    :ivar part: K and N: only the K-th of N parts, from 1.
    :ivar scratch: where restores are tested.
    :ivar prefix: of the name of the next backup, ``None`` if that is not known.
    """

    location: Location
    source: Location | None = None
    words: tuple[str, ...] = ()
    level: Depth = Depth.IDENTITY
    part: tuple[int, int] | None = None
    scratch: Location | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """What is known of one snapshot now.

    :ivar snapshot: ``None`` for what should be one and can be written to.
    :ivar differences: the first of them, ``contents.KEPT`` at most.
    :ivar count: of all differences.
    :ivar compared: how many entries of a tree were.
    """

    name: str
    kind: Role
    snapshot: Snapshot | None
    findings: tuple[Finding, ...]
    differences: tuple[Difference, ...] = ()
    count: int = 0
    compared: int = 0

    @property
    def result(self) -> Result:
        """Return what all of that comes to."""
        return worst(finding.result for finding in self.findings)


@dataclass(frozen=True, slots=True)
class PlaceResult:
    """What is known of a place now.

    :ivar findings: about the place as a whole.
    :ivar foreign: how many snapshots are there that are neither received nor named
        by us.
    :ivar notes: what a person should know that makes nothing better or worse.
    :ivar next_backup: what is foretold of it, if the source was looked at.
    """

    findings: tuple[Finding, ...]
    verdicts: tuple[SnapshotResult, ...]
    foreign: int = 0
    notes: tuple[str, ...] = ()
    next_backup: Forecast | None = None

    @property
    def result(self) -> Result:
        """Return what all of that comes to."""
        results = [finding.result for finding in self.findings]
        return worst([*results, *(verdict.result for verdict in self.verdicts)])


@dataclass(slots=True)
class _Originals:
    """What the snapshots are copies of.

    :ivar homes: UUID of a snapshot -> where it is.
    """

    place: BtrfsEndpoint
    reference: Reference
    homes: Mapping[UUID, Shelf]
    shelves: Sequence[Shelf]


class Verification:
    """One place, from the look to the last word about it.

    :param now: aware.
    :param tell: takes each verdict as it comes.
    """

    def __init__(
        self,
        request: VerifyRequest,
        access: Access,
        progress: Progress,
        now: datetime,
        tell: Callable[[SnapshotResult], None],
    ) -> None:
        self._request = request
        self._access = access
        self._progress = progress
        self._now = now
        self._tell = tell
        self._verdicts: list[SnapshotResult] = []
        self._room = _KEPT_IN_ALL
        self._known = CloseLooks()
        self._source: _Originals | None = None
        self._scratch: BtrfsEndpoint | None = None
        self._there: frozenset[UUID] = frozenset()
        self._next: Forecast | None = None

    def run(self) -> PlaceResult:
        """Verify; nothing but our own record of it is changed at the place.

        :raises UsageError: if a word means no snapshot there.
        :raises BackupError: if the place cannot be looked at.
        """
        request, access = self._request, self._access
        place = open_place(request.location, access)
        shelves = read_shelves(place, access)
        homes = _homes(shelves)
        findings = [*check_records(shelves), *self._open_source()]
        backups = [s for u, (shelf, s) in homes.items() if shelf.kind is Role.BACKUP]
        self._there = frozenset(snapshot.origin for snapshot in backups)
        if self._source:
            parents = parents_for(place, self._source.shelves)
            findings += judge_bases(backups, parents)
            findings += self._judge_next(self._source, shelves, backups)
        chosen = self._choose(shelves, homes)
        if request.scratch:
            self._scratch = open_scratch(request.scratch, access)
        memory = Memory(place, self._now)
        record = shelves[-1].verified if shelves else None  # all have the same
        memory.read(record, homes.keys())
        self._known = self._look_closely(chosen)
        for shelf, snapshot in chosen:
            verdict = self._judge(shelf, snapshot)
            for level, result in _reached(verdict, request.level):
                memory.note(snapshot.uuid, level, result)
            if request.level is not Depth.IDENTITY:
                memory.write()  # it took long, and the next one may be interrupted
            self._conclude(verdict)
        memory.write()
        total = sum(len(shelf.listing.snapshots) for shelf in shelves)
        notes = (*memory.notes, *_cut(place))
        return PlaceResult(
            tuple(findings),
            tuple(self._verdicts),
            total - len(homes),
            notes,
            self._next,
        )

    def _choose(
        self, shelves: Sequence[Shelf], homes: Mapping[UUID, Item]
    ) -> list[Item]:
        """Choose what to verify, and tell of what should be a snapshot and is none."""
        words = list(self._request.words)
        wants_all = not words or "all" in words
        for shelf in shelves:
            for name in suspects(shelf.listing):
                if wants_all or name in words:
                    self._suspect(shelf, name)
        told = {verdict.name for verdict in self._verdicts}
        left = [word for word in words if word not in told]
        if words and not left:
            return []
        everything = [snapshot for _, snapshot in homes.values()]
        picked = pick(left, everything, str(self._request.location), self._now)
        if self._request.part:
            picked = [s for s in picked if is_in_part(s, *self._request.part)]
        return [homes[snapshot.uuid] for snapshot in picked]

    def _conclude(self, verdict: SnapshotResult) -> None:
        """Tell a verdict, and keep it with as many differences as there is room for."""
        self._tell(verdict)
        kept = verdict.differences[: self._room]
        self._room -= len(kept)
        self._verdicts.append(replace(verdict, differences=kept))

    def _open_source(self) -> Iterator[Finding]:
        """Look at what the snapshots are copies of."""
        location = self._request.source
        if location is None:
            return
        seen = attempt(partial(self._read_source, location))
        if isinstance(seen, BackupError):
            text = f"the source cannot be looked at: {seen.message}"
            yield Finding(Result.UNCHECKED, Check.SOURCE, text, seen.hint)
            return
        place, shelves = seen
        # All of them: other tools make snapshots, too, with other names.
        every = [(shelf, s) for shelf in shelves for s in shelf.listing.snapshots]
        reference = Reference.of(str(location), [snapshot for _, snapshot in every])
        shelf_of = {snapshot.uuid: shelf for shelf, snapshot in every}
        self._source = _Originals(place, reference, shelf_of, shelves)
        yield from check_records(shelves)
        yield from judge_reference(reference)

    def _read_source(
        self, location: Location
    ) -> tuple[BtrfsEndpoint, tuple[Shelf, ...]]:
        place = open_place(location, self._access)
        return place, read_shelves(place, self._access)

    def _judge_next(
        self, source: _Originals, shelves: Sequence[Shelf], backups: Sequence[Snapshot]
    ) -> Iterator[Finding]:
        """Foretell the next backup, and judge that."""
        keepers = [shelf for shelf in shelves if shelf.kind is Role.BACKUP]
        here = _as_source(source)
        if here is None or not keepers:
            yield from judge_common(backups, source.reference)
            return
        (keeper,) = keepers
        listing, holds = here
        foretold = attempt(
            lambda: foresee(
                source.place,
                listing,
                keeper.endpoint,
                keeper.listing,
                name=str(keeper.endpoint.location),
                now=self._now,
                holds=holds,
                origins=keeper.record,
                prefix=self._request.prefix,
            )
        )
        name = source.reference.name
        if isinstance(foretold, BackupError):
            text = f"the parent of the next backup from {name} is not known:"
            text += f" {foretold.message}"
            yield Finding(Result.UNCHECKED, Check.PARENT, text, foretold.hint)
            return
        self._next = foretold
        yield from judge_next(
            foretold.is_incremental,
            name,
            foretold.describe(),
            has_copies=bool(backups),
        )

    def _look_closely(self, chosen: Sequence[Item]) -> CloseLooks:
        """Find out what listings leave open: seals, and who has the same UUID."""
        originals = []
        if self._source and self._request.level is not Depth.IDENTITY:
            originals = [
                (self._source.homes[original.uuid], original)
                for _, copy in chosen
                for original in original_of(copy, self._source.reference)
            ]
        return look_closely(chosen, originals)

    def _suspect(self, shelf: Shelf, name: str) -> None:
        """Judge what is named like a snapshot and is no read-only one."""
        endpoint = shelf.endpoint
        seen = attempt(lambda: endpoint.host.look(endpoint.path(name)))
        if isinstance(seen, BackupError):
            text = f"it cannot be looked at: {seen.message}"
            finding = Finding(Result.UNCHECKED, Check.READ_ONLY, text, seen.hint)
        elif seen.is_subvolume:
            finding = judge_writable(seen.received_uuid)
        else:
            return  # somebody's file or directory, or gone by now
        self._conclude(SnapshotResult(name, shelf.kind, None, (finding,)))

    def _judge(self, shelf: Shelf, snapshot: Snapshot) -> SnapshotResult:
        is_backup = shelf.kind is Role.BACKUP
        seal, others = self._known.seal(snapshot), self._known.others
        findings = list(
            judge_alone(snapshot, seal, shelf.twins, others, is_backup=is_backup)
        )
        if self._source and is_backup:
            findings += judge_against(snapshot, self._source.reference, self._there)
        compared = Compared([])
        if self._request.level is not Depth.IDENTITY:
            findings += self._read_all(shelf, snapshot, compared)
        return SnapshotResult(
            snapshot.name,
            shelf.kind,
            snapshot,
            tuple(findings),
            tuple(compared.differences),
            compared.count,
            compared.entries,
        )

    def _read_all(
        self, shelf: Shelf, snapshot: Snapshot, compared: Compared
    ) -> Iterator[Finding]:
        """Compare a snapshot, file by file, or one that is restored from it."""
        check = Check.RESTORE if self._scratch else Check.CONTENTS
        original = self._original(snapshot)
        if isinstance(original, str) and not self._scratch:
            yield Finding(Result.UNCHECKED, check, original)
            return
        home, first = (shelf, snapshot) if isinstance(original, str) else original
        what = TreeLocation(home.endpoint.host, home.endpoint.path(first.name))
        failed = attempt(
            lambda: self._compare(shelf.endpoint, snapshot, what, compared)
        )
        doubt = home is not shelf and self._known.seal(first) is not Integrity.INTACT
        if doubt:
            text = f"{first.name} at {home.endpoint.location} was changed after it was"
            text += " made, or nobody can tell, so it proves nothing"
            yield Finding(Result.UNCHECKED, check, text)
        if compared.count:
            clear = compared.count > compared.unclear and not doubt
            text = f"{compared.count} difference{'s' if compared.count > 1 else ''}"
            text += f" from {first.name} at {home.endpoint.location}"
            yield Finding(Result.BAD if clear else Result.UNCHECKED, check, text)
        if compared.no_xattrs:
            text = f"xattrs and ACLs could not be checked: {compared.no_xattrs}"
            hint = "Install getfattr there; the package is most often called attr."
            yield Finding(Result.UNCHECKED, check, text, hint)
        if isinstance(failed, BackupError):
            did = "restored and compared" if self._scratch else "compared"
            text = f"it could not be {did}: {failed.message}"
            yield Finding(Result.UNCHECKED, check, text, failed.hint)
        elif isinstance(original, str):
            text = f"it was restored and compared with itself, as {original}"
            yield Finding(Result.GOOD, check, text)

    def _original(self, copy: Snapshot) -> Item | str:
        """Return what a snapshot is a copy of, or say why there is nothing."""
        if self._source is None:
            asked = self._request.source
            return "the source cannot be looked at" if asked else "no source was named"
        found = original_of(copy, self._source.reference)
        if len(found) != 1:
            count = "several snapshots" if found else "no snapshot"
            return f"{self._source.reference.name} has {count} that it is a copy of"
        return self._source.homes[found[0].uuid], found[0]

    def _compare(
        self,
        endpoint: BtrfsEndpoint,
        snapshot: Snapshot,
        original: TreeLocation,
        compared: Compared,
    ) -> None:
        """Compare; all that is found before a failure stays in ``compared``.

        :raises BackupError: if something cannot be read, or not be restored.
        """
        if self._scratch is None:
            copy = TreeLocation(endpoint.host, endpoint.path(snapshot.name))
            self._compare_trees(original, copy, snapshot.name, compared)
            return
        moving, scratch = Meter(), self._scratch
        with (
            self._progress.add(moving, f"{snapshot.name} -> {scratch.location}"),
            restored(endpoint, snapshot, scratch, moving, self._now) as path,
        ):
            copy = TreeLocation(scratch.host, path)
            self._compare_trees(original, copy, snapshot.name, compared)

    def _compare_trees(
        self, original: TreeLocation, copy: TreeLocation, name: str, compared: Compared
    ) -> None:
        meter = Meter()
        with self._progress.add(meter, f"comparing {name}"):
            compare_trees(original, copy, meter, compared)


def _as_source(source: _Originals) -> tuple[Listing, Content] | None:
    """Return what a backup from a place would see, and the record of what is needed.

    :returns: ``None`` for a place from which no backup is made: it has backups itself,
        or is no subvolume that can be written to.
    """
    for shelf in source.shelves:
        if shelf.kind is Role.SNAPSHOT:
            return shelf.listing, shelf.record
    facts = source.place.facts
    snapshots = (s for shelf in source.shelves for s in shelf.listing.snapshots)
    if not (facts.is_subvolume and facts.is_writable):
        return None
    if any(snapshot.received_uuid for snapshot in snapshots):
        return None
    return Listing(), None


def _homes(shelves: Sequence[Shelf]) -> dict[UUID, Item]:
    """Return what can be judged of each shelf, oldest first, with where it is."""
    return {s.uuid: (shelf, s) for shelf in shelves for s in of_ours(shelf.listing)}


def _reached(verdict: SnapshotResult, level: Depth) -> Iterator[tuple[Depth, Result]]:
    """Return what a verdict says of each level.

    What was restored and is the same as at the source has the same contents.
    """
    deep = {Check.CONTENTS, Check.RESTORE}
    alone = [f.result for f in verdict.findings if f.check not in deep]
    yield Depth.IDENTITY, worst(alone)
    if level is Depth.IDENTITY:
        return
    results = [f.result for f in verdict.findings if f.check in deep]
    yield level, worst(results)
    if level is Depth.RESTORE and not results:
        yield Depth.DATA, Result.GOOD


def _cut(place: BtrfsEndpoint) -> Iterator[str]:
    """Tell of transfers that were cut; what they left is taken for no backup."""
    for waiting in place.waiting(place.facts.leftovers):
        if not waiting.running:
            name = visible(waiting.name) or "a snapshot"
            yield f"a transfer of {name} was cut, and waits to go on at {place}"
