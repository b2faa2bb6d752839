"""Facts about a place -> findings, with the command that fixes each.

This module looks at nothing. A check that could not be made is ``UNKNOWN``, never good.
"""

import enum
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

from btrfs_backup_ng.__util__ import MIB, format_size, format_span, visible
from btrfs_backup_ng.core.document import Lines, Named
from btrfs_backup_ng.core.model import Facts
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.host.entry import STATE, refusal
from btrfs_backup_ng.place.preflight import whole_path_hint


class Grade(enum.Enum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    """The check could not be made."""


class Diagnosis(Value):
    """The finding of one check.

    :ivar fix: lines about it; commands are in them as the user has to type them.
    """

    check: str
    grade: Annotated[Grade, Named("status")]
    found: str
    fix: Annotated[Lines, Named("mend")] = ""


class Subject(Value):
    """A directory that is examined, and the user that works in it.

    :ivar machine: for people; "" is this one.
    :ivar is_subvolume: its top is a subvolume, even if btrfs may not show more of it.
    :ivar is_root: everything there is done as root, and not just btrfs.
    """

    path: str
    machine: str
    user: str
    facts: Facts
    is_subvolume: bool
    is_root: bool


#: The oldest btrfs-progs that backups are tested with (Debian 11 has them), and
#: the first that leave compressed data as it is on its way.
_OLD, _COMPRESSED_SINCE = (5, 10), (6, 0)
#: Below the first one every transfer is refused (``preflight``); below the second one,
#: or below that part of the filesystem, there is a warning.
_NO_SPACE, _LITTLE_SPACE, _LITTLE_PART = 100 * MIB, 256 * MIB, 0.05
#: Names carry the time by which they are sorted.
_SKEW_S, _SKEW_TOO_FAR_S = 5.0, 86400.0
#: Sessions at once: of tasks side by side, and of a single one (measured: 2 to push,
#: 3 to pull, 4 from and to the same machine).
SESSIONS, _SESSIONS_OF_ONE = 8, 4


def exit_status(findings: Sequence[Diagnosis], here: Sequence[Diagnosis] = ()) -> int:
    """Return 0 if all is good, 2 if something fails, 1 for anything in between.

    If nothing fails but that places of this machine need root, it is 4.

    :param here: those of them that are about such places.
    """
    grades = {finding.grade for finding in findings}
    failed = [finding for finding in findings if finding.grade is Grade.FAIL]
    if failed and all(one.check == "privilege" and one in here for one in failed):
        return NeedsRoot.exit_status
    if failed:
        return 2
    return 0 if grades <= {Grade.OK} else 1


def unknown(check: str, because: str) -> Diagnosis:
    """Return the finding of a check that could not be made."""
    return Diagnosis(check, Grade.UNKNOWN, f"not checked: {because}")


def completed(
    checks: Sequence[str], findings: Iterable[Diagnosis], because: str
) -> tuple[Diagnosis, ...]:
    """Return a finding for each check in order.

    :param because: why the missing ones could not be made.
    """
    found = {finding.check: finding for finding in findings}
    assert found.keys() <= set(checks)
    return tuple(found.get(check) or unknown(check, because) for check in checks)


def judge_btrfs(program: str, version: str, *, is_here: bool) -> Diagnosis:
    """Judge whether there is a btrfs command.

    :param version: the output of ``btrfs --version``.
    """
    if program:
        return Diagnosis("btrfs", Grade.OK, visible(program))
    if version:
        return Diagnosis("btrfs", Grade.OK, "found by sudo, not in PATH")
    return Diagnosis(
        "btrfs",
        Grade.FAIL,
        "no btrfs command (looked in PATH, /usr/local/sbin, /usr/sbin, /sbin)",
        f"Install the package btrfs-progs {'here' if is_here else 'there'}.",
    )


def judge_version(version: tuple[int, int] | None, *, has_btrfs: bool) -> Diagnosis:
    """Judge the version of btrfs-progs."""
    if not has_btrfs:
        return unknown("version", "there is no btrfs command")
    if version is None:
        return unknown("version", "the output of btrfs --version is not understood")
    name = f"btrfs-progs {version[0]}.{version[1]}"
    if version < _OLD:
        oldest = f"{_OLD[0]}.{_OLD[1]}"
        text = f"{name} is older than {oldest}, the oldest that backups are tried with"
        return Diagnosis("version", Grade.WARN, text, "Update the package btrfs-progs.")
    return Diagnosis("version", Grade.OK, name)


def judge_stream(protocol: int, version: tuple[int, int] | None) -> Diagnosis:
    """Report which send stream this end can make and take; any will do."""
    if version is None:
        return unknown("stream", "the version of btrfs-progs is not known")
    if protocol >= 2 and version >= _COMPRESSED_SINCE:
        text = "protocol 2: compressed data travels as it lies on the disk"
    else:
        text = "protocol 1: compressed data travels uncompressed"
    return Diagnosis("stream", Grade.OK, text)


def judge_flock(path: str) -> Diagnosis:
    """Judge whether there can be a lock there."""
    if path:
        return Diagnosis("flock", Grade.OK, visible(path))
    text = "no flock command, so two runs could not be kept apart"
    return Diagnosis("flock", Grade.FAIL, text, "Install util-linux or busybox there.")


def _command_for_root(subject: Subject, command: str) -> str:
    """Return a command with the user and the machine it is for."""
    who = "As root there" if subject.machine else "Run"
    return f"{who}:  {visible(command)}"


def _judge_directory(subject: Subject) -> Diagnosis:
    path = visible(subject.path)
    if subject.facts.is_directory:
        return Diagnosis("directory", Grade.OK, path)
    if subject.facts.exists:
        text = f"{path} is not a directory that {_user(subject)} can enter"
        return Diagnosis("directory", Grade.FAIL, text, "Name a directory.")
    note = "" if subject.is_root else f", or {_user(subject)} may not look there"
    make = _command_for_root(subject, f"mkdir -p {shlex.quote(subject.path)}")
    return Diagnosis(
        "directory",
        Grade.FAIL,
        f"{path} does not exist{note}",
        f"Once its disk is mounted. {make}",
    )


def _user(subject: Subject) -> str:
    return visible(subject.user or "the user")


def _judge_mounted(subject: Subject) -> Diagnosis:
    if not subject.facts.is_bare_mount_point:
        where = "on the system disk, and not empty"
        found = where if subject.facts.on_system_disk else "not on the system disk"
        return Diagnosis("mounted", Grade.OK, found)
    return Diagnosis(
        "mounted",
        Grade.WARN if subject.is_subvolume else Grade.FAIL,  # it may be a source
        f"{visible(subject.path)} is an empty directory on the system disk; is the"
        " backup disk mounted?",
        _command_for_root(subject, f"mount {shlex.quote(subject.path)}")
        + "\nIf it is meant to be there, for backups:  --fs-checks skip",
    )


def _judge_filesystem(subject: Subject) -> Diagnosis:
    if subject.facts.is_btrfs:
        return Diagnosis("filesystem", Grade.OK, "btrfs")
    fix = "Use a directory on btrfs."
    if not subject.machine:
        sink = f'shell://cat > {shlex.quote(subject.path + "/")}"$1"'
        command = f"btrfs-backup-ng SOURCE {shlex.quote(sink)}"
        fix = f"Use a directory on btrfs, or keep streams:  {visible(command)}"
    return Diagnosis(
        "filesystem",
        Grade.FAIL,
        f"{visible(subject.facts.filesystem_type)}, so snapshots cannot live there as"
        " subvolumes",
        fix,
    )


def _judge_writable(subject: Subject) -> Diagnosis:
    path = shlex.quote(subject.path)
    if subject.facts.is_mounted_read_only:
        point = shlex.quote(subject.facts.mount_point)
        fix = _command_for_root(subject, f"mount -o remount,rw {point}")
        return Diagnosis("writable", Grade.FAIL, "it is mounted read-only", fix)
    if subject.facts.is_writable:
        return Diagnosis("writable", Grade.OK, f"{_user(subject)} may write")
    if not subject.machine and not subject.is_root:
        return unknown("writable", "that needs root")
    if subject.is_root:
        fix = _command_for_root(subject, f"btrfs property get {path} ro")
        text = "even root may not write; is it a read-only snapshot?"
        return Diagnosis("writable", Grade.FAIL, text, fix)
    fix = _command_for_root(subject, f"chown {shlex.quote(subject.user)} {path}")
    text = f"{_user(subject)} may not write, and has to own it"
    return Diagnosis("writable", Grade.FAIL, text, fix)


def _judge_state(subject: Subject) -> Diagnosis:
    facts, path = subject.facts, f"{subject.path.rstrip('/')}/{STATE}"
    if facts.trouble:
        error = refusal(path, facts.trouble)
        return Diagnosis("state", Grade.FAIL, error.message, error.hint)
    if facts.has_stub:
        text = f"{visible(path)} is an empty stub, as after a rollback or in a clone;"
        text += " the next backup replaces it"
        return Diagnosis("state", Grade.OK, text)
    if not subject.machine and not subject.is_root:
        return unknown("state", "that needs root")
    found = visible(path) if facts.has_state else "none yet; the first backup makes it"
    return Diagnosis("state", Grade.OK, found)


def _judge_use(subject: Subject) -> Diagnosis:
    if not subject.facts.is_btrfs:
        return unknown("use", "it is not btrfs")
    if subject.facts.is_folder_mount:
        folder = visible(subject.facts.mount_root)
        text = f"in a bind mount of the folder {folder}: destination"
        if subject.facts.can_mount:
            how = "all of it is mounted for each transfer"
            return Diagnosis("use", Grade.OK, f"{text}; {how}")
        text = f"{text}, but btrfs receive finds no parents through it"
        return Diagnosis("use", Grade.FAIL, text, whole_path_hint(subject.facts))
    if subject.is_subvolume:
        return Diagnosis("use", Grade.OK, "a subvolume: source or destination")
    top = visible(subject.facts.containing)
    text = f"a directory: destination; only all of {top} could be a source"
    return Diagnosis("use", Grade.OK, text)


def _judge_space(subject: Subject) -> Diagnosis:
    free = subject.facts.size_free
    size = free + subject.facts.size_used
    text = f"{format_size(free)} free of {format_size(size)}"
    path = visible(shlex.quote(subject.path))
    fix = f"Keep fewer backups (-n), and see:  btrfs filesystem usage {path}"
    if free < _NO_SPACE:
        return Diagnosis("space", Grade.FAIL, f"{text}: too little to send any", fix)
    if free < max(_LITTLE_SPACE, size * _LITTLE_PART):
        return Diagnosis("space", Grade.WARN, text, fix)
    return Diagnosis("space", Grade.OK, text)


#: The checks of a place, in the order in which one rests on the other. A new one is a
#: function of :class:`Subject`, and a line here.
OF_A_PLACE: dict[str, Callable[[Subject], Diagnosis]] = {
    "directory": _judge_directory,
    "mounted": _judge_mounted,
    "filesystem": _judge_filesystem,
    "writable": _judge_writable,
    "state": _judge_state,
    "use": _judge_use,
    "space": _judge_space,
}
HERE = ("btrfs", "version", "stream", "privilege", *OF_A_PLACE, "programs")
THERE = (
    *("connect", "login", "shell", "btrfs", "version", "stream", "flock"),
    *("privilege", *OF_A_PLACE, "clock", "sessions", "programs"),
)


def judge_place(subject: Subject) -> list[Diagnosis]:
    """Make all checks of a place."""
    if subject.facts.is_directory:
        return [judge(subject) for judge in OF_A_PLACE.values()]
    first, *others = OF_A_PLACE
    because = "the directory is not there"
    return [OF_A_PLACE[first](subject), *(unknown(check, because) for check in others)]


def judge_clock(there: str, began: float, ended: float) -> Diagnosis:
    """Compare another machine's clock with that of this one.

    :param there: the time it showed, in whole seconds, at some moment in between.
    :param began: the clock here at the question; ``ended``: at the answer.
    """
    if not there.isdigit():
        return unknown("clock", "the output of date +%s is not understood")
    ahead, behind = int(there) - ended, began - (int(there) + 1)
    skew = max(ahead, behind, 0.0)
    if skew <= _SKEW_S:
        return Diagnosis("clock", Grade.OK, "the same as here")
    way = "ahead of" if ahead > 0 else "behind"
    text = f"{format_span(skew)} {way} this machine"
    fix = "On the machine whose clock is wrong:  timedatectl set-ntp true"
    if skew <= _SKEW_TOO_FAR_S:
        return Diagnosis("clock", Grade.WARN, text, fix)
    text = f"{text}, and names sort by time"
    return Diagnosis("clock", Grade.FAIL, text, fix)


def judge_sessions(opened: int, words: str) -> Diagnosis:
    """Judge how many of :data:`SESSIONS` sessions side by side there were.

    :param words: the error message when there was one too many.
    """
    if opened >= SESSIONS:
        return Diagnosis("sessions", Grade.OK, f"{opened} side by side")
    text = f"{opened} of {SESSIONS} side by side" + (f": {words}" if words else "")
    fix = "In sshd_config there, and then reload sshd:\n  MaxSessions 10"
    if opened >= _SESSIONS_OF_ONE:
        text = f"{text}; enough for one task at a time"
        return Diagnosis("sessions", Grade.WARN, text, fix)
    return Diagnosis("sessions", Grade.FAIL, text, fix)


def judge_programs(here: frozenset[str], there: frozenset[str] | None) -> Diagnosis:
    """Judge the optional programs.

    :param there: of another machine; ``None`` if the place is on this one.
    """
    lacks, fix = [], []
    if not here & {"pv", "mbuffer"}:
        lacks.append("--rate, without pv and mbuffer here")
        fix.append("Install here:  pv")
    if there is not None and not here & there & {"zstd", "lz4"}:
        lacks.append("--compress, without zstd or lz4 on both sides")
        where = [
            w for w, has in (("here", here), ("there", there)) if "zstd" not in has
        ]
        fix.append(f"Install {' and '.join(where)}:  zstd")
    text = f"{_listed(here)} here"
    if there is not None:
        text = f"{text}; {_listed(there)} there"
    if not lacks:
        return Diagnosis("programs", Grade.OK, text)
    text = f"{text}; not possible: {', '.join(lacks)}"
    return Diagnosis("programs", Grade.WARN, text, "\n".join(fix))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
