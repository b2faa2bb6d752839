"""The verification of a place: look, choose, judge, compare, restore.

Each check is good, bad or unchecked; the worst one decides. There are three levels:

- **Identity** (``identity``) needs one listing of the place, and reads no files. A
  snapshot must be read-only, with a received UUID that no other subvolume has, and
  unchanged. Snapshots that a listing cannot judge are inspected all at once; only a
  group with a changed one is split in half and inspected again (``place``). With the
  source: is each a copy of a snapshot there, is the next backup incremental
  (``forecast``), can the records be read?
- **Contents** (``tree``, ``manifest``). Both trees are read on their own machines, each
  file once, by its first name: on this machine by ``local_tree``, on others by the verb
  ``hash`` in three sessions (names with facts, digests, xattrs), which ``remote_tree``
  joins. All entries are in the order of the bytes of their paths, so one merge compares
  them, with a few entries in memory. Remote machines use ``sort``; ``local_tree`` sorts
  each directory with its subdirectories a second time as ``name/``, which gives the
  same order. A test reads the same tree both ways. The empty directory (inode 2) in
  place of a nested subvolume is left out on both sides, as no stream has it. Sizes of
  directories and access times depend on the filesystem, and are not compared.
- A **restore test** (``restore_test``) sends the snapshot in full to the staging of a
  scratch place, compares it there and deletes it. The id of the transfer marks it as a
  test, so no run resumes it, and the next test deletes it if this one is killed.

The results are recorded at the place (``verified.json``), by UUID of the snapshot
there. A bad one stays bad until a check of the same level is good.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from uuid import UUID

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, attempt, visible
from btrfs_backup_ng.actions.verify.identity import (
    Check,
    Finding,
    Reference,
    find_duplicates,
    judge_against,
    judge_alone,
    judge_bases,
    judge_common,
    judge_next,
    judge_reference,
    judge_writable,
    judgeable,
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
from btrfs_backup_ng.core.upkeep import choose_longest_unverified
from btrfs_backup_ng.core.value import Value, replace
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.place.contents import Seen, see
from btrfs_backup_ng.place.forecast import Forecast, foresee
from btrfs_backup_ng.place.preflight import READING, SCRATCH, look_at
from btrfs_backup_ng.place.verified import Depth, Memory
from btrfs_backup_ng.process.pipeline import Meter
from btrfs_backup_ng.session.deed import Act, deed
from btrfs_backup_ng.session.session import Session

#: Most differences that are kept until the end, of all snapshots together.
_KEPT_IN_ALL = 10 * KEPT


class VerifyRequest(Value):
    """The options of a verification.

    :ivar source: of the backups, to compare with.
    :ivar words: that choose the snapshots; empty for all.
    :ivar part: K and N: only the K-th of N parts, from 1.
    :ivar scratch: place for restore tests.
    :ivar prefix: of the name of the next backup, ``None`` if it is not known.
    :ivar one_of: only one of so many, the longest unverified ones; 0 for all.
    """

    location: Location
    source: Location | None = None
    words: tuple[str, ...] = ()
    level: Depth = Depth.IDENTITY
    part: tuple[int, int] | None = None
    scratch: Location | None = None
    prefix: str | None = None
    one_of: int = 0


class SnapshotResult(Value):
    """The result for one snapshot.

    :ivar snapshot: ``None`` for a writable subvolume with the name of a snapshot.
    :ivar differences: the first ones, at most ``tree.KEPT``.
    :ivar count: of all differences.
    :ivar compared: number of compared entries of the tree.
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
        """Return the worst result of its findings."""
        return worst(finding.result for finding in self.findings)


class PlaceResult(Value):
    """The result for a place.

    :ivar findings: about the place as a whole.
    :ivar foreign: number of snapshots there that are neither received nor have a date
        in the name.
    :ivar notes: facts for the user that do not change the result.
    :ivar next_backup: the forecast, if the source was looked at.
    """

    findings: tuple[Finding, ...]
    verdicts: tuple[SnapshotResult, ...]
    foreign: int = 0
    notes: tuple[str, ...] = ()
    next_backup: Forecast | None = None

    @property
    def result(self) -> Result:
        """Return the worst result of its findings and snapshots."""
        results = [finding.result for finding in self.findings]
        return worst([*results, *(verdict.result for verdict in self.verdicts)])


class _Originals(Value):
    """The source of the backups, with its snapshots.

    :ivar homes: UUID of a snapshot -> its look.
    """

    place: Place
    reference: Reference
    homes: Mapping[UUID, Seen]
    everything: Sequence[Seen]


class _Mark(Value):
    """A snapshot that was written to, and the transaction of its last change."""

    seen: Seen
    snapshot: Snapshot
    last_change: int


def _same_contents() -> Finding:
    text = "it was written to after it was made, and all its contents are the same, as"
    text += " after a deduplication: it counts as unchanged again"
    return Finding(Result.GOOD, Check.SEAL, text)


class Verification:
    """The verification of one place.

    :param report: called with the result of each snapshot at once.
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
        self._duplicates: dict[Role, Mapping[UUID, Sequence[str]]] = {}
        self._source: _Originals | None = None
        self._scratch: Place | None = None
        self._there: frozenset[UUID] = frozenset()
        self._next: Forecast | None = None
        self._memories: dict[int, Memory] = {}  # by id() of a place
        self._cleared: set[UUID] = set()

    def run(self) -> PlaceResult:
        """Verify the place; change nothing there but the record of the results.

        :raises UsageError: if a word means no snapshot there.
        :raises BackupError: if the place cannot be looked at.
        """
        request, session = self._request, self._session
        place = look_at(request.location, session, READING)
        everything = see(place)
        self._duplicates = {
            seen.role: find_duplicates(seen.listing) for seen in everything
        }
        homes = {
            s.uuid: (seen, s) for seen in everything for s in judgeable(seen.listing)
        }
        findings = [*check_records(everything), *self._open_source()]
        backups = [s for u, (seen, s) in homes.items() if seen.role is Role.BACKUP]
        self._there = frozenset(snapshot.origin for snapshot in backups)
        if self._source:
            parents = parents_for(place, self._source.everything)
            findings += judge_bases(backups, parents)
        memory = self._remember(place, everything)
        chosen = self._choose(everything, homes, memory)
        if request.scratch:
            self._scratch = look_at(
                request.scratch, session, SCRATCH, with_snapshots=False
            )
        self._known = self._look_closely(chosen)
        for seen, snapshot in chosen:
            verdict = self._judge(seen, snapshot)
            for level, result in _reached(verdict, request.level):
                memory.note(snapshot.uuid, level, result)
            if request.level is not Depth.IDENTITY:
                memory.write()  # it took long, and the next one may be interrupted
            self._conclude(verdict)
        memory.write()
        if self._source:
            if self._cleared:
                everything = see(place)
                again = see(self._source.place)
                self._source = replace(self._source, everything=again)
            findings += self._judge_next(self._source, everything, backups)
        total = sum(len(seen.listing.snapshots) for seen in everything)
        said = [note for memory in self._memories.values() for note in memory.notes]
        notes = (*said, *_interrupted(place))
        foreign, verdicts = total - len(homes), tuple(self._verdicts)
        self._note_in_history()
        return PlaceResult(tuple(findings), verdicts, foreign, notes, self._next)

    def _note_in_history(self) -> None:
        names = [verdict.name for verdict in self._verdicts]
        if not names:
            return
        good = sum(verdict.result is Result.GOOD for verdict in self._verdicts)
        bad = f"{len(names) - good} of {len(names)} are not good"
        one = deed(
            self._now,
            self._request.location,
            Act.VERIFIED,
            names,
            how=self._request.level.value,
            error="" if good == len(names) else bad,
        )
        self._session.remember(one)

    def _remember(self, place: Place, everything: Sequence[Seen]) -> Memory:
        """Read the record of a place, to note results in it."""
        memory = Memory(place, self._now)
        record = everything[-1].verified if everything else None  # all have the same
        snapshots = [s for seen in everything for s in seen.snapshots]
        memory.read(record, {snapshot.uuid for snapshot in snapshots})
        for seen in everything:
            self._memories[id(seen.place)] = memory
        return memory

    def _choose(
        self, everything: Sequence[Seen], homes: Mapping[UUID, Item], memory: Memory
    ) -> list[Item]:
        """Choose the snapshots; judge at once names of snapshots without one."""
        words = list(self._request.words)
        wants_all = not words or "all" in words
        for seen in everything:
            for name in suspects(seen.listing):
                if wants_all or name in words:
                    self._suspect(seen, name)
        judged = {verdict.name for verdict in self._verdicts}
        left = [word for word in words if word not in judged]
        if words and not left:
            return []
        snapshots = [snapshot for _, snapshot in homes.values()]
        picked = pick(left, snapshots, str(self._request.location), self._now)
        if self._request.part:
            picked = [s for s in picked if is_in_part(s, *self._request.part)]
        if self._request.one_of:
            picked = choose_longest_unverified(
                picked, self._request.one_of, memory.last_times()
            )
        return [homes[snapshot.uuid] for snapshot in picked]

    def _conclude(self, verdict: SnapshotResult) -> None:
        """Report a result, and keep it with as many differences as allowed."""
        self._report(verdict)
        kept = verdict.differences[: self._room]
        self._room -= len(kept)
        self._verdicts.append(replace(verdict, differences=kept))

    def _open_source(self) -> Iterator[Finding]:
        """Look at the source, and judge it."""
        location = self._request.source
        if location is None:
            return
        seen = attempt(partial(self._read_source, location))
        if isinstance(seen, BackupError):
            text = f"the source cannot be looked at: {seen.message}"
            yield Finding(Result.UNCHECKED, Check.SOURCE, text, seen.hint)
            return
        place, everything = seen
        # With any name: other tools make snapshots, too.
        every = [(seen, s) for seen in everything for s in seen.listing.snapshots]
        reference = Reference.of(str(location), [snapshot for _, snapshot in every])
        homes = {snapshot.uuid: seen for seen, snapshot in every}
        self._source = _Originals(place, reference, homes, everything)
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
        """Predict the next backup, and judge it."""
        there = [seen for seen in everything if seen.role is Role.BACKUP]
        here = _as_source(source)
        if here is None or not there:
            yield from judge_common(backups, source.reference)
            return
        prefix = self._request.prefix
        forecast = attempt(lambda: foresee(here, there[0], self._now, prefix=prefix))
        name = source.reference.name
        if isinstance(forecast, BackupError):
            text = f"the parent of the next backup from {name} is not known:"
            text += f" {forecast.message}"
            yield Finding(Result.UNCHECKED, Check.PARENT, text, forecast.hint)
            return
        self._next = forecast
        yield from judge_next(
            forecast.is_incremental,
            name,
            forecast.describe(),
            has_copies=bool(backups),
        )

    def _look_closely(self, chosen: Sequence[Item]) -> CloseLooks:
        """Inspect the snapshots that a listing cannot judge."""
        originals = []
        if self._source and self._request.level is not Depth.IDENTITY:
            originals = [
                (self._source.homes[original.uuid], original)
                for _, copy in chosen
                for original in original_of(copy, self._source.reference)
            ]
        return look_closely(chosen, originals)

    def _suspect(self, seen: Seen, name: str) -> None:
        """Judge a subvolume that has a name of a snapshot, but is writable."""
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
        findings = list(
            judge_alone(
                snapshot,
                self._known.integrity(snapshot),
                self._duplicates[seen.role],
                self._known.others,
                is_backup=is_backup,
            )
        )
        if self._source and is_backup:
            findings += judge_against(snapshot, self._source.reference, self._there)
        compared = Compared()
        if self._request.level is not Depth.IDENTITY:
            findings += self._read_all(seen, snapshot, compared)
        else:
            findings = [self._with_hint(f, snapshot) for f in findings]
        if snapshot.uuid in self._cleared:
            findings = [f for f in findings if f.check is not Check.SEAL]
            findings.append(_same_contents())
        return SnapshotResult(
            snapshot.name,
            seen.role,
            snapshot,
            tuple(findings),
            tuple(compared.differences),
            compared.count,
            compared.entries,
        )

    def _with_hint(self, finding: Finding, snapshot: Snapshot) -> Finding:
        """Add a hint how to find out whether a deduplication was the change."""
        if finding.check is not Check.SEAL or finding.result is not Result.BAD:
            return finding
        words = ["verify", str(self._request.location), snapshot.name]
        line = visible(shlex.join([PROGRAM, *words]))
        hint = "If a deduplication did that (bees, duperemove), this finds out and"
        hint += f" clears it:\n{line} --data --source SOURCE"
        return replace(finding, hint=hint)

    def _read_all(
        self, seen: Seen, snapshot: Snapshot, compared: Compared
    ) -> Iterator[Finding]:
        """Compare a snapshot, or its test restore, file by file."""
        check = Check.RESTORE if self._scratch else Check.CONTENTS
        original = self._original(snapshot)
        if isinstance(original, str) and not self._scratch:
            yield Finding(Result.UNCHECKED, check, original)
            return
        home, first = (seen, snapshot) if isinstance(original, str) else original
        tree = TreeLocation(home.place.host, home.endpoint.path(first.name))
        mark = self._find_mark((seen, snapshot), (home, first))
        failed = attempt(lambda: self._compare(seen.endpoint, snapshot, tree, compared))
        is_whole = not isinstance(failed, BackupError) and not compared.no_xattrs
        if mark and is_whole and not compared.count:
            self._clear(mark)
        is_intact = self._known.integrity(first) is Integrity.INTACT
        is_intact |= first.uuid in self._cleared
        doubt = home is not seen and not is_intact
        if doubt:
            text = f"{first.name} at {home.place.location} was changed after it was"
            text += " made, or that is not known, so it proves nothing"
            yield Finding(Result.UNCHECKED, check, text)
        elif first.uuid in self._cleared:
            text = f"{first.name} at {home.place.location} was written to after it was"
            text += " made, and all its contents are the same, as after a"
            text += " deduplication: it counts as unchanged again"
            yield Finding(Result.GOOD, check, text)
        if compared.count:
            clear = compared.count > compared.unclear and not doubt
            text = f"{compared.count} difference{'s' if compared.count > 1 else ''}"
            text += f" from {first.name} at {home.place.location}"
            yield Finding(Result.BAD if clear else Result.UNCHECKED, check, text)
        if compared.by_send:
            times = f"{compared.by_send.copy} instead of {compared.by_send.original}"
            text = f"the mtime of its top directory is {times}, as btrfs send may"
            text += " leave it"
            yield Finding(Result.GOOD, Check.TOP_TIME, text)
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

    def _find_mark(self, copy: Item, original: Item) -> "_Mark | None":
        """Find which of the two was changed, if the other was not.

        Called before they are compared, so that a change meanwhile is a later one.
        """
        integrity = [self._known.integrity(item[1]) for item in (copy, original)]
        for item, other in ((copy, integrity[1]), (original, integrity[0])):
            is_changed = self._known.integrity(item[1]) is Integrity.CHANGED
            if is_changed and other is Integrity.INTACT:
                seen, snapshot = item
                last = attempt(lambda: seen.endpoint.last_change(snapshot.tree_id))
                if last and not isinstance(last, BackupError):
                    return _Mark(seen, snapshot, last)
        return None

    def _clear(self, mark: "_Mark") -> None:
        """Record that a snapshot has its contents, though it was written to."""
        place = mark.seen.place
        memory = self._memories.get(id(place))
        if memory is None:
            assert self._source
            memory = self._remember(place, self._source.everything)
        if memory.clear(mark.snapshot.uuid, mark.last_change):
            self._cleared.add(mark.snapshot.uuid)

    def _original(self, copy: Snapshot) -> Item | str:
        """Return the original of a snapshot, or the reason why it has none."""
        if self._source is None:
            asked = self._request.source
            return "the source cannot be looked at" if asked else "no source was given"
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
        """Compare; differences found before a failure stay in ``compared``.

        :raises BackupError: if something cannot be read or restored.
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
    """Return the look with which a backup from a place would begin.

    :returns: ``None`` if no backup is made from it: it has backups itself, or is not a
        writable subvolume.
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


def _reached(verdict: SnapshotResult, level: Depth) -> Iterator[tuple[Depth, Result]]:
    """Return the result of each level that a verification has reached.

    A good restore test proves the contents, too.
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


def _interrupted(place: Place) -> Iterator[str]:
    """Return a note for each interrupted transfer; none of them counts as a backup."""
    for waiting in place.waiting(place.facts.leftovers):
        if not waiting.running:
            name = visible(waiting.name) or "a snapshot"
            yield f"a transfer of {name} was interrupted, and can be resumed at {place}"
