"""The restore of single files and folders of a snapshot, under their own paths.

First both sides are checked. Then the files go into a private directory in the target:
by one ``cp`` on this machine, or by GNU tar in the pax format from or to another one
(tar leaves out sockets). They are compared with the request, and only then moved to
their final names, with ``mv -n``. A file that cannot be read is left out and named, and
the others are restored (``complaints``).
"""

import logging
import os
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt, visible
from btrfs_backup_ng.actions.restore.complaints import (
    SOCKET,
    left_by_copy,
    left_by_tar,
)
from btrfs_backup_ng.actions.restore.find import Chosen
from btrfs_backup_ng.actions.restore.snapshot import look_at_target
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import TransferOptions
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.endpoint.common import new_transfer_id
from btrfs_backup_ng.host.common import Host
from btrfs_backup_ng.host.entry import below, entered, plain
from btrfs_backup_ng.place import preflight
from btrfs_backup_ng.place.preflight import ALL_BY_HAND
from btrfs_backup_ng.process.command import Command, CommandFailed, last_words
from btrfs_backup_ng.process.interruption import last_steps
from btrfs_backup_ng.process.pipeline import Meter, run_pipeline
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.transfer.route import stages_between
from btrfs_backup_ng.wire import verbs
from btrfs_backup_ng.wire.grammar import Verb

log = logging.getLogger(__name__)

#: Longest arguments of one local command, in bytes. Linux allows 2 MiB for all of them
#: and the environment, and 128 KiB for each.
_ARGUMENTS_BYTES = 1_000_000
#: Number of names that an error shows.
_SHOWN = 5


class _Seen(Value):
    """The facts of a path: its type and mode, and its device."""

    mode: int
    device: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


def read_paths(words: Iterable[str]) -> tuple[str, ...]:
    """Parse paths in a snapshot; leave out those that are inside another one.

    :raises UsageError: for a path outside the snapshot, or the snapshot itself.
    """
    wanted: dict[str, None] = {}
    for word in words:
        parts = [part for part in word.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in word:
            raise UsageError(f"{visible(word)} leads out of the snapshot")
        if not parts:
            raise UsageError(
                f"'{visible(word)}' is the whole snapshot",
                hint="Without --file all of it is restored, to btrfs."
                f"\n{ALL_BY_HAND}",
            )
        wanted["/".join(parts)] = None
    return tuple(p for p in wanted if not any(above in wanted for above in _above(p)))


def _above(path: str) -> Iterator[str]:
    """Yield the directories above a path, the topmost first."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


class FileRestoration:
    """The restore of files and folders.

    :ivar paths: relative to the snapshot, and to the target; :meth:`run` takes away
        those that cannot be read.
    :ivar to: the target directory.
    :ivar left_out: paths of files that cannot come, also inside folders -> why: they
        cannot be read, or are sockets, which an archive cannot have.
    :ivar host: of the target.
    :ivar size_bytes: on the disk; ``None`` if it is not known.
    """

    def __init__(
        self,
        chosen: Chosen,
        paths: Sequence[str],
        to: Location,
        session: Session,
        options: TransferOptions,
    ) -> None:
        """Look at both ends; change nothing.

        :raises Refused: if a path is missing in the snapshot, or exists at the target.
        """
        self.paths = tuple(paths)
        self.to = to
        self.chosen = chosen
        self._session = session
        self._options = options
        self.left_out: dict[str, str] = {}
        self._directories = sorted({above for p in paths for above in _above(p)})
        self._from: Host = chosen.place.host
        target = look_at_target(to, session)
        self.host: Host = target.host
        if not target.facts.is_directory:
            raise Refused(
                f"{target} is not a directory",
                hint=f"Create it first:  mkdir -p {visible(to.path)}",
            )
        preflight.has_privilege(target, session)
        if not self._is_copy:
            self._check_tar(chosen.place.location, self._from)
            self._check_tar(to, self.host)
        self._kinds = self._look_there()
        if not self._is_copy:
            self._leave_out_sockets()
        self._present = self._look_here()
        self.size_bytes = self._measure()
        if options.check_space and self.size_bytes is not None:
            name, free = f"{len(self.paths)} files or folders", target.facts.size_free
            for note in preflight.check_space(
                str(to), name, self.size_bytes, free, options
            ):
                session.emit(note)

    @property
    def _is_copy(self) -> bool:
        """Return whether one local ``cp`` is enough, without an archive."""
        places = (self.chosen.place.location, self.to)
        size = sum(len(os.fsencode(path)) + 16 for path in self.paths)
        is_here = all(place.is_here for place in places)
        return is_here and size < _ARGUMENTS_BYTES

    def _look_there(self) -> Mapping[str, _Seen]:
        """Look at the paths in the snapshot, and check that none is missing.

        Those that cannot even be looked at are left out, if there are others.
        """
        name = visible(self.chosen.kept.snapshot.name)
        wanted = [*self._directories, *self.paths]
        unreadable: dict[str, str] = {}
        tree = self.chosen.kept.path
        seen = look_below(self._from, tree, wanted, unreadable)
        if {*self.paths} <= {*unreadable}:
            look_below(self._from, tree, self.paths)  # raises
        self._leave_out(unreadable)
        links = [d for d in self._directories if d in seen and not seen[d].is_directory]
        if links:
            raise Refused(f"not directories in {name}: {_listed(links)}")
        missing = [path for path in self.paths if path not in seen]
        if missing:
            raise Refused(
                f"{name} does not contain {_listed(missing)}",
                hint="Paths are relative to the snapshot, as in the subvolume that was"
                " backed up.",
            )
        return seen

    def _leave_out_sockets(self) -> None:
        """Leave out the sockets among the paths, so that the others can be restored.

        :raises Refused: if there are no others.
        """
        sockets = [p for p in self.paths if stat.S_ISSOCK(self._kinds[p].mode)]
        if len(sockets) == len(self.paths):
            raise Refused(
                f"sockets cannot be restored: {_listed(sorted(sockets))}",
                hint="They hold no data; a program makes its sockets when it starts.",
            )
        self._leave_out(dict.fromkeys(sockets, SOCKET))

    def _leave_out(self, reasons: Mapping[str, str]) -> None:
        """Leave out paths, or files in wanted folders, for these reasons."""
        self.left_out |= reasons
        self.paths = tuple(path for path in self.paths if path not in reasons)
        self._directories = sorted({a for p in self.paths for a in _above(p)})

    def _look_here(self) -> Collection[str]:
        """Check that the target is free; return the paths that exist there."""
        there = [".", *self._directories, *self.paths]
        seen = look_below(self.host, self.to.path, there)
        taken = [path for path in self.paths if path in seen]
        if taken:
            raise Refused(
                f"{_listed(taken)} already exists below {visible(str(self.to))};"
                " nothing was overwritten",
                hint="Restore to an empty directory:  --to DIR",
            )
        top = seen["."].device
        for path in self._directories:
            if path in seen and not seen[path].is_directory:
                raise Refused(
                    f"{visible(path)} below {visible(str(self.to))} is not a directory"
                )
            if path in seen and seen[path].device != top:
                raise Refused(
                    f"{visible(path)} below {visible(str(self.to))} is a subvolume or"
                    " filesystem of its own",
                    hint="Restore to an empty directory:  --to DIR",
                )
        return seen

    def _check_tar(self, place: Location, host: Host) -> None:
        said = host.call(verbs.TAR).stdout
        missing = [n for n in ("tar", "coreutils") if f"GNU {n}".encode() not in said]
        if missing:
            where = visible(host.name) or "this machine"
            raise Refused(
                f"{where} has no GNU {' and '.join(missing)}, and others lose xattrs,"
                " ACLs and the exact times of files",
                hint="Install it there, or restore all of the snapshot, which needs"
                " none:  without --file",
            )

    def _measure(self) -> int | None:
        listed = _list(self.paths)
        action = verbs.SIZES, self.chosen.kept.path
        done = attempt(lambda: self._from.call(*action, stdin=listed))
        if isinstance(done, BackupError):
            log.info("the size is not known: %s", done)
            return None
        total = done.stdout.rstrip(b"\0").rpartition(b"\0")[2].partition(b"\t")[0]
        return int(total) if total.isdigit() else None

    def run(self) -> float:
        """Restore the files, completely and durably.

        They go into a private directory first. After a failure, all files that do not
        have their final names yet are removed.

        :returns: the duration in seconds.
        :raises BackupError: if it failed.
        """
        started = time.monotonic()
        name = f".restoring-{new_transfer_id(self._session.now)}"
        stage = below(self.to.path, name)
        self._call(verbs.STAGE, self.to.path, name)
        try:
            self._drop(stage, self._copy(stage))
            self._finish_directories(stage)
            self._check(stage)
            self._place(stage)
        finally:
            with last_steps():
                cleared = attempt(lambda: self._call(verbs.CLEAR, self.to.path, name))
        if isinstance(cleared, BackupError):
            raise cleared
        return time.monotonic() - started

    def _call(self, verb: Verb, *arguments: str, stdin: bytes = b"") -> None:
        self.host.call(verb, *arguments, stdin=stdin)

    def _copy(self, stage: str) -> Mapping[str, str]:
        """Copy the files into the stage.

        :returns: the paths of those that could not be read, with the reasons; parts of
            them may be in the stage.
        """
        if not self._is_copy:
            return self._pack(stage)
        paths = (f"./{path}" for path in self.paths)
        try:
            self._call(verbs.COPY, self.chosen.kept.path, stage, *paths)
        except CommandFailed as error:
            left = left_by_copy(error.completed.stderr)
            if not left:
                raise
            return left
        return {}

    def _pack(self, stage: str) -> Mapping[str, str]:
        """Send the files as an archive; see :meth:`_copy`."""
        above, wanted = _list(self._directories), _list(self.paths)
        snapshot, there = self.chosen.kept.path, str(len(above))
        pack = self._from.command(
            verbs.PACK, snapshot, there, label="reading the files"
        )
        with tempfile.NamedTemporaryFile(prefix="bbng-") as listed:
            listed.write(above + wanted)
            listed.flush()
            stages = (
                Command(("cat", "--", listed.name), label="the list of files"),
                pack,
                *stages_between(
                    self.chosen.place.location, self.to, self._options, codecs.NONE
                ),
                self.host.command(verbs.UNPACK, stage, label="writing the files"),
            )
            meter = Meter()
            meter.expected_bytes = self.size_bytes
            label = f"files of {self.chosen.kept.snapshot.name} -> {self.to}"
            with self._session.progress.add(meter, label):
                moved = run_pipeline(
                    stages,
                    meter=meter,
                    stall_timeout_s=self._options.stall_timeout_s,
                    max_size=self._options.max_size,
                )
        words = moved.words[stages.index(pack)]
        left = left_by_tar(words)
        if left is None:
            text = f"{pack.label} failed: {last_words(words)}"
            raise BackupError(f"{self.chosen.place}: {text}")
        return left

    def _drop(self, stage: str, left: Mapping[str, str]) -> None:
        """Leave out files that could not be read, also what of them is in the stage.

        Their names come from the other machine, and so does each link in the stage.

        :raises BackupError: if no file is left, or if these are not of those wanted.
        """
        if not left:
            return
        wanted = {*self.paths}
        for path in left:
            parts = {".", "..", ""}.intersection(path.split("/"))
            if parts or not wanted.intersection((path, *_above(path))):
                raise BackupError(
                    f"{self.chosen.place} did not send {visible(path)}, which was not"
                    f" requested: {visible(left[path])}"
                )
        above = {a for path in left for a in _above(path)}
        seen = look_below(self.host, stage, [*above, *left])
        there = [path for path in left if path in seen]
        for path in there:
            if not all(seen[a].is_directory for a in _above(path)):
                raise BackupError(
                    f"{self.chosen.place} sent something else as a directory of"
                    f" {visible(path)}"
                )
        files = [path for path in there if not seen[path].is_directory]
        directories = {*there, *self._directories}.difference(files)
        self._leave_out(left)
        directories -= {*self._directories}
        deepest_first = sorted(directories, reverse=True)
        for kind, found in (("files", files), ("directories", deepest_first)):
            if found:
                self._call(verbs.DROP, stage, kind, stdin=_list(found))
        if not self.paths:
            path, reason = next(iter(left.items()))
            raise BackupError(f"{self.chosen.place}: {visible(path)} {reason}")

    def _finish_directories(self, stage: str) -> None:
        """Copy the extended attributes of directories above the files, as tar does."""
        if not self._is_copy:
            return
        with entered(self.chosen.kept.path) as tree, entered(stage) as copy:
            for directory in self._directories:
                _copy_xattrs(tree, copy, directory)

    def _check(self, stage: str) -> None:
        """Check the type of each path; on this machine, also that no other arrived."""
        wanted = [*self._directories, *self.paths]
        arrived = look_below(self.host, stage, wanted)
        for path in wanted:
            seen = self._kinds[path]
            kind = arrived[path].mode if path in arrived else 0
            if stat.S_IFMT(kind) != stat.S_IFMT(seen.mode):
                raise BackupError(
                    f"{self.chosen.place} did not send {visible(path)}, or sent"
                    " something else under its name"
                )
        if self.to.is_here:
            self._check_nothing_else(stage)

    def _check_nothing_else(self, stage: str) -> None:
        wanted: dict[str, set[str]] = {}
        for path in (*self._directories, *self.paths):
            directory, name = os.path.split(path)
            wanted.setdefault(directory, set()).add(name)
        for directory, names in wanted.items():
            with entered(f"{stage}/{directory}") as descriptor:
                others = set(os.listdir(descriptor)) - names
            if others:
                raise BackupError(
                    f"{self.chosen.place} sent files that were not requested:"
                    f" {_listed(sorted(others))}"
                )

    def _place(self, stage: str) -> None:
        """Move everything to its final name; overwrite nothing.

        Of each path, the topmost part that does not exist at the target is moved.
        """
        moves: dict[str, dict[str, None]] = {}
        for path in self.paths:
            unit = next((a for a in _above(path) if a not in self._present), path)
            moves.setdefault(os.path.dirname(unit), {})[os.path.basename(unit)] = None
        for directory, names in moves.items():
            there = below(self.to.path, directory)
            self._call(verbs.PLACE, stage, directory, there, stdin=_list(names))
        moved = [
            os.path.join(directory, name)
            for directory, names in moves.items()
            for name in names
        ]
        if left := look_below(self.host, stage, moved):
            raise BackupError(
                f"{_listed(sorted(left))} appeared below {visible(str(self.to))}"
                " meanwhile, and was not overwritten"
            )


def _list(paths: Iterable[str]) -> bytes:
    return b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths)


def look_below(
    host: Host,
    directory: str,
    paths: Collection[str],
    unreadable: dict[str, str] | None = None,
) -> Mapping[str, _Seen]:
    """Look at paths below a directory; do not follow a symbolic link at the end.

    :param unreadable: takes the paths that cannot be looked at, with the reasons.
    :returns: the paths that exist.
    :raises BackupError: if not all, or none, can be looked at.
    """
    done = host.call(verbs.STAT, directory, stdin=_list(paths))
    seen = {}
    for record in done.stdout.split(b"\0")[:-1]:
        mode, device, path = record.split(b" ", 2)
        name = os.fsdecode(path.removeprefix(b"./"))
        seen[name] = _Seen(int(mode, 16), int(device))
    words = done.stderr.strip()
    left = left_by_copy(words) if unreadable is not None and seen else None
    if unreadable is not None and left is not None:
        unreadable |= left
    elif words:
        raise BackupError(
            f"cannot look at everything below {visible(plain(directory))}"
            f"{visible(f' on {host.name}' if host.name else '')}:"
            f" {visible(words.splitlines()[0])}",
            hint="Where sudo allows btrfs only, whole snapshots can be restored:"
            "  without --file",
        )
    return seen


def _listed(paths: Sequence[str]) -> str:
    more = len(paths) - _SHOWN
    text = ", ".join(map(visible, paths[:_SHOWN]))
    return f"{text} and {more} more" if more > 0 else text


def _copy_xattrs(source: int, target: int, directory: str) -> None:
    """Copy the extended attributes of a directory.

    :param source: descriptor of the tree that has it.
    :param target: descriptor of the tree with the copy. No other user can change the
        two, so the path is safe.
    """
    paths = [f"/proc/self/fd/{top}/{directory}" for top in (source, target)]
    try:
        for name in os.listxattr(paths[0], follow_symlinks=False):
            value = os.getxattr(paths[0], name, follow_symlinks=False)
            os.setxattr(paths[1], name, value, follow_symlinks=False)
    except OSError as error:
        raise BackupError(
            f"extended attributes of {visible(directory)} cannot be kept:"
            f" {error.strerror}"
        ) from error
