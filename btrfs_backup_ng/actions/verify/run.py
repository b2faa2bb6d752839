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
from functools import partial
from uuid import UUID

from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.actions.verify.identity import (
    Check,
    Finding,
    Reference,
    find_twins,
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
    check_records,
    look_closely,
    parents_for,
)
from btrfs_backup_ng.actions.verify.restore_test import restored
from btrfs_backup_ng.actions.verify.tree import (
    KEPT,
    Compared,
    TreeLocation,
    compare_trees,
)
from btrfs_backup_ng.core.choose import is_in_part, pick
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Integrity, Listing, Result, Role, Snapshot
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.place.contents import Seen, see
from btrfs_backup_ng.place.forecast import Forecast, foresee
from btrfs_backup_ng.place.preflight import READING, SCRATCH, look_at
from btrfs_backup_ng.place.verified import Depth, Memory
from btrfs_backup_ng.process.pipeline import Meter
from btrfs_backup_ng.session.session import Session

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

    place: Place
    reference: Reference
    homes: Mapping[UUID, Seen]
    everything: Sequence[Seen]


class Verification:
    """One place, from the look to the last word about it.

    :param report: takes each verdict as it comes.
    """

    def __init__(
        self,
        request: VerifyRequest,
        session: Session,
        report: Callable[[SnapshotResult], None],
    ) -> None:
        self._request = request
        self._session = session
        self._now = session.now
        self._report = report
        self._verdicts: list[SnapshotResult] = []
        self._room = _KEPT_IN_ALL
        self._known = CloseLooks()
        self._twins: dict[Role, Mapping[UUID, Sequence[str]]] = {}
        self._source: _Originals | None = None
        self._scratch: Place | None = None
        self._there: frozenset[UUID] = frozenset()
        self._next: Forecast | None = None

    def run(self) -> PlaceResult:
        """Verify; nothing but our own record of it is changed at the place.

        :raises UsageError: if a word means no snapshot there.
        :raises BackupError: if the place cannot be looked at.
        """
        request, session = self._request, self._session
        place = look_at(request.location, session, READING)
        everything = see(place)
        self._twins = {seen.role: find_twins(seen.listing) for seen in everything}
        homes = _homes(everything)
        findings = [*check_records(everything), *self._open_source()]
        backups = [s for u, (seen, s) in homes.items() if seen.role is Role.BACKUP]
        self._there = frozenset(snapshot.origin for snapshot in backups)
        if self._source:
            parents = parents_for(place, self._source.everything)
            findings += judge_bases(backups, parents)
            findings += self._judge_next(self._source, everything, backups)
        chosen = self._choose(everything, homes)
        if request.scratch:
            self._scratch = look_at(
                request.scratch, session, SCRATCH, with_snapshots=False
            )
        memory = Memory(place, self._now)
        record = everything[-1].verified if everything else None  # all have the same
        memory.read(record, homes.keys())
        self._known = self._look_closely(chosen)
        for seen, snapshot in chosen:
            verdict = self._judge(seen, snapshot)
            for level, result in _reached(verdict, request.level):
                memory.note(snapshot.uuid, level, result)
            if request.level is not Depth.IDENTITY:
                memory.write()  # it took long, and the next one may be interrupted
            self._conclude(verdict)
        memory.write()
        total = sum(len(seen.listing.snapshots) for seen in everything)
        notes = (*memory.notes, *_cut(place))
        return PlaceResult(
            tuple(findings),
            tuple(self._verdicts),
            total - len(homes),
            notes,
            self._next,
        )

    def _choose(
        self, everything: Sequence[Seen], homes: Mapping[UUID, Item]
    ) -> list[Item]:
        """Choose what to verify, and tell of what should be a snapshot and is none."""
        words = list(self._request.words)
        wants_all = not words or "all" in words
        for seen in everything:
            for name in suspects(seen.listing):
                if wants_all or name in words:
                    self._suspect(seen, name)
        told = {verdict.name for verdict in self._verdicts}
        left = [word for word in words if word not in told]
        if words and not left:
            return []
        snapshots = [snapshot for _, snapshot in homes.values()]
        picked = pick(left, snapshots, str(self._request.location), self._now)
        if self._request.part:
            picked = [s for s in picked if is_in_part(s, *self._request.part)]
        return [homes[snapshot.uuid] for snapshot in picked]

    def _conclude(self, verdict: SnapshotResult) -> None:
        """Tell a verdict, and keep it with as many differences as there is room for."""
        self._report(verdict)
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
        place, everything = seen
        # All of them: other tools make snapshots, too, with other names.
        every = [(seen, s) for seen in everything for s in seen.listing.snapshots]
        reference = Reference.of(str(location), [snapshot for _, snapshot in every])
        shelf_of = {snapshot.uuid: seen for seen, snapshot in every}
        self._source = _Originals(place, reference, shelf_of, everything)
        yield from check_records(everything)
        yield from judge_reference(reference)

    def _read_source(self, location: Location) -> tuple[Place, tuple[Seen, ...]]:
        place = look_at(location, self._session, READING)
        return place, see(place)

    def _judge_next(
        self,
        source: _Originals,
        everything: Sequence[Seen],
        backups: Sequence[Snapshot],
    ) -> Iterator[Finding]:
        """Foretell the next backup, and judge that."""
        there = [seen for seen in everything if seen.role is Role.BACKUP]
        here = _as_source(source)
        if here is None or not there:
            yield from judge_common(backups, source.reference)
            return
        prefix = self._request.prefix
        foretold = attempt(lambda: foresee(here, there[0], self._now, prefix=prefix))
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

    def _suspect(self, seen: Seen, name: str) -> None:
        """Judge what is named like a snapshot and is no read-only one."""
        path = seen.endpoint.path(name)
        facts = attempt(lambda: seen.place.host.look(path))
        if isinstance(facts, BackupError):
            text = f"it cannot be looked at: {facts.message}"
            finding = Finding(Result.UNCHECKED, Check.READ_ONLY, text, facts.hint)
        elif facts.is_subvolume:
            finding = judge_writable(facts.received_uuid)
        else:
            return  # a file or directory of the user, or gone by now
        self._conclude(SnapshotResult(name, seen.role, None, (finding,)))

    def _judge(self, seen: Seen, snapshot: Snapshot) -> SnapshotResult:
        is_backup = seen.role is Role.BACKUP
        seal, others = self._known.seal(snapshot), self._known.others
        findings = list(
            judge_alone(
                snapshot, seal, self._twins[seen.role], others, is_backup=is_backup
            )
        )
        if self._source and is_backup:
            findings += judge_against(snapshot, self._source.reference, self._there)
        compared = Compared([])
        if self._request.level is not Depth.IDENTITY:
            findings += self._read_all(seen, snapshot, compared)
        return SnapshotResult(
            snapshot.name,
            seen.role,
            snapshot,
            tuple(findings),
            tuple(compared.differences),
            compared.count,
            compared.entries,
        )

    def _read_all(
        self, seen: Seen, snapshot: Snapshot, compared: Compared
    ) -> Iterator[Finding]:
        """Compare a snapshot, file by file, or one that is restored from it."""
        check = Check.RESTORE if self._scratch else Check.CONTENTS
        original = self._original(snapshot)
        if isinstance(original, str) and not self._scratch:
            yield Finding(Result.UNCHECKED, check, original)
            return
        home, first = (seen, snapshot) if isinstance(original, str) else original
        what = TreeLocation(home.place.host, home.endpoint.path(first.name))
        failed = attempt(lambda: self._compare(seen.endpoint, snapshot, what, compared))
        doubt = home is not seen and self._known.seal(first) is not Integrity.INTACT
        if doubt:
            text = f"{first.name} at {home.place.location} was changed after it was"
            text += " made, or nobody can tell, so it proves nothing"
            yield Finding(Result.UNCHECKED, check, text)
        if compared.count:
            clear = compared.count > compared.unclear and not doubt
            text = f"{compared.count} difference{'s' if compared.count > 1 else ''}"
            text += f" from {first.name} at {home.place.location}"
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
        endpoint: Endpoint,
        snapshot: Snapshot,
        original: TreeLocation,
        compared: Compared,
    ) -> None:
        """Compare; all that is found before a failure stays in ``compared``.

        :raises BackupError: if something cannot be read, or not be restored.
        """
        if self._scratch is None:
            copy = TreeLocation(endpoint.place.host, endpoint.path(snapshot.name))
            self._compare_trees(original, copy, snapshot.name, compared)
            return
        moving, scratch = Meter(), self._scratch
        with (
            self._session.progress.add(
                moving, f"{snapshot.name} -> {scratch.location}"
            ),
            restored(endpoint, snapshot, scratch, moving, self._now) as path,
        ):
            copy = TreeLocation(scratch.host, path)
            self._compare_trees(original, copy, snapshot.name, compared)

    def _compare_trees(
        self, original: TreeLocation, copy: TreeLocation, name: str, compared: Compared
    ) -> None:
        meter = Meter()
        with self._session.progress.add(meter, f"comparing {name}"):
            compare_trees(original, copy, meter, compared)


def _as_source(source: _Originals) -> Seen | None:
    """Return the look that a backup from a place would begin with.

    :returns: ``None`` for a place from which no backup is made: it has backups itself,
        or is no subvolume that can be written to.
    """
    for seen in source.everything:
        if seen.role is Role.SNAPSHOT:
            return seen
    facts = source.place.facts
    snapshots = (s for seen in source.everything for s in seen.snapshots)
    if not (facts.is_subvolume and facts.is_writable):
        return None
    if any(snapshot.received_uuid for snapshot in snapshots):
        return None
    return Seen(source.place.snapshots, Listing())


def _homes(everything: Sequence[Seen]) -> dict[UUID, Item]:
    """Return what can be judged of each seen, oldest first, with where it is."""
    return {s.uuid: (seen, s) for seen in everything for s in of_ours(seen.listing)}


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


def _cut(place: Place) -> Iterator[str]:
    """Tell of transfers that were cut; what they left is taken for no backup."""
    for waiting in place.waiting(place.facts.leftovers):
        if not waiting.running:
            name = visible(waiting.name) or "a snapshot"
            yield f"a transfer of {name} was cut, and waits to go on at {place}"
