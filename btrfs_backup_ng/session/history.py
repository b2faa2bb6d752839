"""The history: the outcome of each run of this machine, a line for each event.

A line is a snapshot that was made, a delivery, a destination that had everything
already, or a failure: of a transfer, or of the run before or after it. All lines of a
run have its time, by which they are known to belong together. What was done beside
that, by runs and by other commands, has lines of its own (:class:`Deed`): it changes
nothing about the outcome of a run.

Nothing depends on it. If it is lost, backups continue, and commands only lack its data
(sizes, known places). A line is added by one write under ``flock``, and flushed if it
records a delivery or a failure. The older half is deleted at 4 MiB, but for the last
delivery to each place. A last line that a crash tore off is ignored, and the next write
removes it; damage that is not text of a line is moved aside; lines of newer versions
are kept.
"""

import contextlib
import fcntl
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from btrfs_backup_ng.__util__ import MIB, BackupError, attempt, base_directory, visible
from btrfs_backup_ng.core.record import (
    Unread,
    Unreadable,
    as_int,
    as_text,
    format_document,
    parse_versions,
)
from btrfs_backup_ng.core.value import Value, defaults_of
from btrfs_backup_ng.host.entry import NotOurs, read_record, replace_file
from btrfs_backup_ng.session.deed import Act, Deed, fields_of, read_fields

log = logging.getLogger(__name__)

#: The environment variable that replaces :func:`state_directory`.
VARIABLE = "BTRFS_BACKUP_NG_STATE"
#: That of root, which no other user can read.
ROOTS_DIRECTORY = "/var/lib/btrfs-backup-ng"
#: The file in it: JSON, a record a line, oldest first.
HISTORY = "history.jsonl"
_VERSION = 1
#: Of a deed: a program that knows only the outcomes of runs leaves such a line alone.
_VERSION_OF_DEEDS = 2
#: Of one that was skipped, for the same reason.
_VERSION_OF_SKIPS = 3
#: Some 10,000 records; beyond that the older half is deleted.
LIMIT_BYTES = 4 * MIB
_MESSAGE_LENGTH = 500
#: Lines as this program writes them, by their characters. To parse all of them takes
#: longer than a run with nothing to do.
_WRITTEN = rb'(?:\{"version": [ -~]*+(?<=\})\n)*+'
#: Limit on the time that another run needs to write its line.
WAIT_S = 5.0


class Record(Value):
    """One thing that happened in a run.

    The names of the fields are the keys in the file.

    :ivar time: when its run began, aware UTC.
    :ivar source: the text of its location, like the destination, without the command of
        ``shell://``.
    :ivar folder: of the source's snapshots, absolute or relative to it.
    :ivar destination: "" if it happened at the source.
    :ivar name: of the snapshot at the source that was made or sent; "" if there was
        nothing to send, or if the run failed and no single transfer.
    :ivar target: its name at the destination.
    :ivar origin: identity of the snapshot, None if it was never made.
    :ivar parent: name of the base of the difference, "" for a full transfer.
    :ivar size_bytes: of the stream, on the wire if it was compressed, with the part
        from earlier attempts; None if it is not known.
    :ivar resumed_bytes: the part from earlier attempts.
    :ivar error: why it failed; "" if it went well.
    """

    time: datetime
    source: str
    folder: str
    destination: str
    name: str = ""
    target: str = ""
    origin: UUID | None = None
    parent: str = ""
    size_bytes: int | None = None
    resumed_bytes: int = 0
    elapsed_s: float = 0.0
    error: str = ""


#: What a line of the file is about.
Entry = Record | Deed


class HistoryUnreadable(BackupError):
    """The history exists and cannot be read."""


def state_directory() -> str:
    """Return the directory of this user's history."""
    if named := os.environ.get(VARIABLE):
        return named
    if os.geteuid() == 0:
        return ROOTS_DIRECTORY
    base = base_directory("XDG_STATE_HOME", "~/.local/state")
    return os.path.join(base, "btrfs-backup-ng")


def hidden_directory() -> str:
    """Return the directory of root's history, if this user has another; else ""."""
    hides = os.geteuid() != 0 and not os.environ.get(VARIABLE)
    return ROOTS_DIRECTORY if hides and os.path.isdir(ROOTS_DIRECTORY) else ""


def format_entry(entry: Entry) -> bytes:
    """Return the line about it."""
    if isinstance(entry, Record):
        return format_record(entry)
    texts = {key: getattr(entry, key)[:_MESSAGE_LENGTH] for key in ("how", "error")}
    fields = fields_of(entry) | texts
    is_skip = entry.act is Act.SKIPPED
    version = _VERSION_OF_SKIPS if is_skip else _VERSION_OF_DEEDS
    return format_document(version, fields)


def format_record(record: Record) -> bytes:
    in_order = defaults_of(Record)  # completions look for keys and their commas
    fields = (
        in_order
        | vars(record)
        | {
            "time": record.time.astimezone(timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "origin": str(record.origin) if record.origin else None,
            "elapsed_s": round(record.elapsed_s, 3),
            "error": record.error[:_MESSAGE_LENGTH],
        }
    )
    return format_document(_VERSION, fields)


def parse_entry(line: bytes) -> Entry | None:
    """Read a line.

    :returns: None if a newer version of the program wrote it.
    :raises Unreadable: if it is damaged.
    """
    try:
        return parse_versions(line, _BUILDERS)
    except Unreadable as error:
        if not error.newer:
            raise
    return None


def _built(fields: Any) -> Record:
    size, origin = fields["size_bytes"], fields["origin"]
    texts = ("source", "folder", "destination", "name", "target", "parent", "error")
    return Record(
        time=datetime.fromisoformat(fields["time"]).astimezone(timezone.utc),
        origin=None if origin is None else UUID(origin),
        size_bytes=None if size is None else as_int(size),
        resumed_bytes=as_int(fields["resumed_bytes"]),
        elapsed_s=float(fields["elapsed_s"]),
        **{key: as_text(fields[key]) for key in texts},
    )


_BUILDERS: Mapping[int, Callable[[Any], Entry]] = {
    _VERSION: _built,
    _VERSION_OF_DEEDS: read_fields,
    _VERSION_OF_SKIPS: read_fields,
}


def read_history(directory: str) -> list[Record]:
    """Return all records of runs; see :func:`read_entries`."""
    return [one for one in read_entries(directory) if isinstance(one, Record)]


def read_entries(directory: str) -> list[Entry]:
    """Return all lines, oldest first; none if the file does not exist.

    Damaged lines are left out with a warning. The next run moves them aside, if they do
    not even look like lines.

    :raises HistoryUnreadable: if the file cannot be read.
    """
    path = os.path.join(directory, HISTORY)
    try:
        lines = _whole_lines(_read(path))
    except OSError as error:
        reason = visible(error.strerror or str(error))
        raise HistoryUnreadable(f"{visible(path)} cannot be read: {reason}") from error
    entries: list[Entry] = []
    damaged = 0
    for line in lines:
        try:
            entry = parse_entry(line)
        except Unreadable:
            damaged += 1
        else:
            entries += [entry] if entry else []
    if damaged:
        log.warning("%s: %d damaged lines are left out", path, damaged)
    return entries


def remembered(*, needed: bool = False) -> list[Record]:
    """Return the records of this user on this machine, oldest first.

    :param needed: the command can do nothing without it.
    :raises HistoryUnreadable: if it is needed and cannot be read.
    """
    found = attempt(lambda: read_history(state_directory()))
    if not isinstance(found, BackupError):
        return found
    if needed:
        raise found
    log.info("%s", found.message)
    return []


class History:
    """The file to which runs append their records, from any thread of any run.

    It never fails: a record that cannot be written is lost, with one warning.
    """

    def __init__(self, directory: str) -> None:
        """Prepare; nothing is written before the first record.

        :param directory: :func:`state_directory`.
        """
        self._directory = directory
        self._path = os.path.join(directory, HISTORY)
        self._guard = threading.Lock()
        self._checked = False
        self._warned = False

    def add(self, record: Entry) -> None:
        """Append a line; a delivery or a failure is on the disk when this returns."""
        with self._guard:
            try:
                with locked_directory(self._directory) as directory:
                    self._append(record, directory)
            except (OSError, NotOurs) as error:
                if not self._warned:
                    text = "the history in %s cannot be written: %s"
                    reason = getattr(error, "strerror", "") or str(error)
                    log.warning(text, self._path, reason)
                self._warned = True

    def _append(self, record: Entry, directory: int) -> None:
        if not self._checked:
            self._move_damage_aside(record.time, directory)
            self._checked = True
        line = format_entry(record)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self._path, flags | os.O_CLOEXEC, 0o600)
        try:
            size = _regular_size(descriptor)
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # incomplete
                content = _read(self._path)
                size = content.rfind(b"\n") + 1
                os.ftruncate(descriptor, size)
            if os.write(descriptor, line) != len(line):
                os.ftruncate(descriptor, size)
                raise OSError(f"no room in {self._directory}")
            if isinstance(record, Record) and (record.target or record.error):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if size + len(line) > LIMIT_BYTES:
            replace_file(directory, HISTORY, _shortened(_read(self._path)))

    def _move_damage_aside(self, now: datetime, directory: int) -> None:
        """Move a file aside that is visibly damaged; continue with its good lines."""
        try:
            content = _read(self._path)
        except OSError:  # a link, a pipe, far too large: not written by this program
            if not os.path.lexists(self._path):
                return
            good = list[bytes]()
        else:
            if re.compile(_WRITTEN).fullmatch(content, 0, content.rfind(b"\n") + 1):
                return
            lines = _whole_lines(content)
            good = [line for line in lines if not _is_damaged(line)]
            if len(good) == len(lines):
                return
        aside = Unreadable("").name_aside(HISTORY, now)
        os.rename(HISTORY, aside, src_dir_fd=directory, dst_dir_fd=directory)
        replace_file(directory, HISTORY, b"".join(line + b"\n" for line in good))
        text = "%s was damaged; it is moved to %s, and continues with %d good lines"
        log.warning(text, self._path, aside, len(good))


def _shortened(content: bytes) -> bytes:
    """Return the newer half, and the last delivery to each place that has none there.

    The backup of a place that is away for long is as old as that delivery.
    """
    start = content.find(b"\n", len(content) - LIMIT_BYTES // 2) + 1
    older, newer = content[:start], content[start:]
    last: dict[tuple[str, str], bytes] = {}
    for line in _whole_lines(older):
        if delivered := _delivered(line):
            last.pop(delivered, None)  # for the order of time
            last[delivered] = line
    for line in _whole_lines(newer):
        if delivered := _delivered(line):
            last.pop(delivered, None)
    kept = b"".join(line + b"\n" for line in last.values())
    surplus = len(kept) - LIMIT_BYTES // 4
    return kept[kept.find(b"\n", surplus) + 1 if surplus > 0 else 0 :] + newer


def _delivered(line: bytes) -> tuple[str, str] | None:
    """Return source and destination if a line is about a snapshot that arrived."""
    with contextlib.suppress(Unreadable):
        entry = parse_entry(line)
        if isinstance(entry, Record) and entry.name and not entry.error:
            return entry.source, entry.destination
    return None


def _is_damaged(line: bytes) -> bool:
    try:
        parse_entry(line)
    except Unreadable:
        return True
    return False


def _whole_lines(content: bytes) -> list[bytes]:
    """Return the complete lines; an interrupted write leaves the rest."""
    return content.split(b"\n")[:-1]


def _read(path: str) -> bytes:
    """Read the file; b"" if it does not exist.

    :raises OSError: if it cannot be read, or is not a file of this program.
    """
    content = read_record(path)
    if isinstance(content, Unread):
        raise OSError(content.reason)
    return content or b""


def _regular_size(descriptor: int) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    return status.st_size


@contextlib.contextmanager
def locked_directory(directory: str) -> Iterator[int]:
    """Lock the directory, and make it if needed; yield its descriptor."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + WAIT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


class KnownPlace(Value):
    """A place in the history.

    :ivar folder: of its snapshots, for a source; "" for a destination.
    """

    place: str
    folder: str = ""


def known_places(records: Iterable[Record]) -> list[KnownPlace]:
    """Return all places, each source before its destinations, each one once.

    Commands (``shell://``) cannot be listed and are left out.
    """
    sources: dict[str, tuple[str, dict[str, None]]] = {}
    for record in records:
        _, destinations = sources.get(record.source, ("", dict[str, None]()))
        if _is_directory(record.destination):
            destinations[record.destination] = None
        sources[record.source] = record.folder, destinations
    found: dict[str, KnownPlace] = {}
    for source, (folder, destinations) in sources.items():
        found[source] = KnownPlace(source, folder)
        for destination in destinations:
            found.setdefault(destination, KnownPlace(destination))
    return list(found.values())


def sizes_sent(records: Iterable[Record]) -> Mapping[tuple[str, UUID], int]:
    """Return the size of each snapshot's stream: (destination, origin) -> bytes."""
    return {
        (record.destination, record.origin): record.size_bytes
        for record in records
        if record.origin and record.size_bytes is not None and not record.error
    }


def origins_of(records: Iterable[Record], source: str) -> frozenset[UUID]:
    return frozenset(r.origin for r in records if r.source == source and r.origin)


def last_arrived_from(records: Iterable[Record], source: str) -> dict[str, UUID]:
    """Return for each destination of a source the origin that arrived there last.

    :param records: oldest first.
    """
    return {
        record.destination: record.origin
        for record in records
        if record.source == source
        and record.origin
        and not record.error
        and _is_directory(record.destination)
    }


def _is_directory(destination: str) -> bool:
    """Return whether a destination keeps backups, and is not a command, or none."""
    return bool(destination) and not destination.startswith("shell://")


class Last(Value):
    """The last outcomes on record for a place.

    :ivar arrived: the last backup that arrived there, if any.
    :ivar failed: for each source whose last run failed there, the reason; for a place
        that is a source itself, also that of its own last run. Oldest first.
    """

    arrived: Record | None = None
    failed: tuple[Record, ...] = ()


def last_at(records: Iterable[Record], place: str) -> Last:
    """Return the last outcomes on record for a place.

    The run that wrote the last line about it decides, with all of its lines: a backup
    that arrived after another one had failed does not make a run good.

    :param records: oldest first.
    """
    arrived: Record | None = None
    failures: dict[tuple[str, datetime], Record] = {}
    runs: dict[str, datetime] = {}
    for record in records:
        if record.destination == place:
            happened_here = True
        elif record.source == place:
            happened_here = not record.destination
        else:
            continue
        runs[record.source] = record.time
        if happened_here and record.error:
            failures[record.source, record.time] = record
        elif happened_here and record.name and record.destination:
            arrived = record
    failed = (failures.get(run) for run in runs.items())
    return Last(arrived, tuple(sorted(filter(None, failed), key=lambda r: r.time)))


class PastRun(Value):
    """What one run did from one source to one place.

    :ivar time: when it began, aware UTC.
    :ivar destination: "" for what it did at the source.
    :ivar sent: number of snapshots that arrived.
    :ivar size_bytes: of their streams, without the parts from earlier attempts; None if
        the size of one is not known.
    :ivar elapsed_s: of the transfers.
    :ivar errors: what failed; empty if it went well.
    """

    time: datetime
    source: str
    destination: str
    sent: int = 0
    size_bytes: int | None = 0
    elapsed_s: float = 0.0
    errors: tuple[str, ...] = ()


def runs_of(records: Iterable[Record]) -> list[PastRun]:
    """Return what each run did at each place, in the order of the records."""
    found: dict[tuple[datetime, str, str], PastRun] = {}
    for record in records:
        key = record.time, record.source, record.destination
        run = found.get(key) or PastRun(*key)
        has_arrived = bool(record.destination and record.name and not record.error)
        size, known = record.size_bytes, run.size_bytes
        if has_arrived and size is not None and known is not None:
            known += max(size - record.resumed_bytes, 0)
        found[key] = PastRun(
            *key,
            sent=run.sent + has_arrived,
            size_bytes=None if has_arrived and size is None else known,
            elapsed_s=run.elapsed_s + record.elapsed_s,
            errors=run.errors + ((record.error,) if record.error else ()),
        )
    return list(found.values())


def last_run_at(
    runs: Sequence[PastRun], place: str, source: str = ""
) -> PastRun | None:
    """Return the last run to a place; of a source, the last of its own.

    :param source: only runs from this one; "" for all.
    """
    for run in reversed(runs):
        if source in ("", run.source):
            if run.destination == place or (run.source, run.destination) == (place, ""):
                return run
    return None


def forget(directory: str, place: str) -> int:
    """Delete all records of a place, be it source or destination in them.

    Lines that are damaged or of a newer version stay.

    :param directory: :func:`state_directory`.
    :returns: the number of records deleted.
    :raises HistoryUnreadable: if the file cannot be read or written; it is kept then.
    """
    path = os.path.join(directory, HISTORY)
    if not os.path.lexists(path):
        return 0
    try:
        with locked_directory(directory) as descriptor:
            lines = _whole_lines(_read(path))
            kept = [line for line in lines if not _is_about(line, place)]
            if len(kept) < len(lines):
                content = b"".join(line + b"\n" for line in kept)
                replace_file(descriptor, HISTORY, content)
    except (OSError, NotOurs) as error:
        reason = visible(getattr(error, "strerror", "") or str(error))
        raise HistoryUnreadable(
            f"{visible(path)} cannot be changed: {reason}"
        ) from error
    return len(lines) - len(kept)


def _is_about(line: bytes, place: str) -> bool:
    try:
        entry = parse_entry(line)
    except Unreadable:
        return False
    if isinstance(entry, Deed):
        return place == entry.place
    return entry is not None and place in (entry.source, entry.destination)
