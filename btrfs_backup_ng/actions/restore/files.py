"""The restore of single files and folders of a snapshot, under their own paths.

First both sides are checked. Then the files go into a private directory in the target:
by one ``cp`` on this machine, or by GNU tar in the pax format from or to another one
(tar leaves out sockets). They are compared with the request, and only then moved to
their final names, with ``mv -n``.
"""

import logging
import os
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt, visible
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
from btrfs_backup_ng.process.command import Command
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

    :ivar paths: relative to the snapshot, and to the target.
    :ivar to: the target directory.
    :ivar left_out: sockets, which hold no data, and which an archive cannot have.
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
        self.left_out: tuple[str, ...] = ()
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
        self._kinds = self._look_there()
        if not self._is_copy:
            self._leave_out_sockets()
        self._moves = self._look_here()
        if not self._is_copy:
            self._check_tar(chosen.place.location, self._from)
            self._check_tar(to, self.host)
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
        """Look at the paths in the snapshot, and check that none is missing."""
        name = visible(self.chosen.kept.snapshot.name)
        seen = look_below(
            self._from, self.chosen.kept.path, [*self._directories, *self.paths]
        )
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
        sockets = {p for p in self.paths if stat.S_ISSOCK(self._kinds[p].mode)}
        paths = tuple(path for path in self.paths if path not in sockets)
        if not paths:
            raise Refused(
                f"sockets cannot be restored: {_listed(sorted(sockets))}",
                hint="They hold no data; a program makes its sockets when it starts.",
            )
        self.left_out = tuple(p for p in self.paths if p in sockets)
        self.paths = paths
        self._directories = sorted({above for p in paths for above in _above(p)})
        wanted = {*paths, *self._directories}
        self._kinds = {p: seen for p, seen in self._kinds.items() if p in wanted}

    def _look_here(self) -> Mapping[str, Sequence[str]]:
        """Check that the target is free, and plan the final moves.

        Of each path, the topmost part that does not exist is moved.

        :returns: directory -> names to move into it.
        """
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
        moves: dict[str, dict[str, None]] = {}
        for path in self.paths:
            unit = next((a for a in _above(path) if a not in seen), path)
            moves.setdefault(os.path.dirname(unit), {})[os.path.basename(unit)] = None
        return {directory: tuple(names) for directory, names in moves.items()}

    def _check_tar(self, place: Location, host: Host) -> None:
        if b"GNU tar" not in host.call(verbs.TAR).stdout:
            where = visible(host.name) or "this machine"
            raise Refused(
                f"{where} has no GNU tar, and others lose xattrs, ACLs and the exact"
                " times of files",
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
            self._copy(stage)
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

    def _copy(self, stage: str) -> None:
        snapshot = self.chosen.kept.path
        if self._is_copy:
            paths = (f"./{path}" for path in self.paths)
            self._call(verbs.COPY, snapshot, stage, *paths)
            with entered(snapshot) as tree, entered(stage) as copy:
                for directory in self._directories:  # cp does not copy their xattrs
                    _copy_xattrs(tree, copy, directory)
            return
        above, wanted = _list(self._directories), _list(self.paths)
        source, there = self._from, str(len(above))
        with tempfile.NamedTemporaryFile(prefix="bbng-") as listed:
            listed.write(above + wanted)
            listed.flush()
            stages = (
                Command(("cat", "--", listed.name), label="the list of files"),
                source.command(verbs.PACK, snapshot, there, label="reading the files"),
                *stages_between(
                    self.chosen.place.location, self.to, self._options, codecs.NONE
                ),
                self.host.command(verbs.UNPACK, stage, label="writing the files"),
            )
            meter = Meter()
            meter.expected_bytes = self.size_bytes
            label = f"files of {self.chosen.kept.snapshot.name} -> {self.to}"
            with self._session.progress.add(meter, label):
                run_pipeline(
                    stages,
                    meter=meter,
                    stall_timeout_s=self._options.stall_timeout_s,
                    max_size=self._options.max_size,
                )

    def _check(self, stage: str) -> None:
        """Check the type of each path; on this machine, also that no other arrived."""
        arrived = look_below(self.host, stage, [*self._directories, *self.paths])
        for path, seen in self._kinds.items():
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
        """Move everything to its final name; overwrite nothing."""
        for directory, names in self._moves.items():
            there = below(self.to.path, directory)
            self._call(verbs.PLACE, stage, directory, there, stdin=_list(names))
        moved = [
            os.path.join(directory, name)
            for directory, names in self._moves.items()
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
    host: Host, directory: str, paths: Collection[str]
) -> Mapping[str, _Seen]:
    """Look at paths below a directory; do not follow a symbolic link at the end.

    :returns: the paths that exist.
    :raises BackupError: if not all can be looked at.
    """
    done = host.call(verbs.STAT, directory, stdin=_list(paths))
    if words := done.stderr.strip():
        raise BackupError(
            f"cannot look at everything below {visible(plain(directory))}"
            f"{visible(f' on {host.name}' if host.name else '')}:"
            f" {visible(words.splitlines()[0])}",
            hint="Where sudo allows btrfs only, whole snapshots can be restored:"
            "  without --file",
        )
    seen = {}
    for record in done.stdout.split(b"\0")[:-1]:
        mode, device, path = record.split(b" ", 2)
        name = os.fsdecode(path.removeprefix(b"./"))
        seen[name] = _Seen(int(mode, 16), int(device))
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
