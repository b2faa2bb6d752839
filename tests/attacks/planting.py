"""The table of what an attacker plants: which component, as what, against whom."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.attacks.scene import (
    BODY,
    NAMES,
    NEW,
    REFUSED,
    SEAL,
    Attack,
    Done,
)
from tests.attacks.victims import OLD_ID, RECORDS
from tests.support import places
from tests.support.places import STATE

INCOMING = f"{STATE}/incoming"
#: Stands in a path for the id of a transfer that a run would go on with.
RESUMED = "RESUMED"
#: A snapshot that is at the source and among the backups.
OLD = NAMES[0]

LINK = "link"
TO_FILE = "link to a file"
DANGLING = "dangling link"
DIRECTORY = "directory"
SUBVOLUME = "subvolume"
FIFO = "fifo"
HARD_LINK = "hard link"
FOR_ALL = "ours for all"
FOR_GROUP = "ours for its group"
PLANTED = (LINK, TO_FILE, DANGLING, DIRECTORY, SUBVOLUME, FIFO, HARD_LINK)
#: A directory that is root's may still be one to which others can write.
OPENED = (FOR_ALL, FOR_GROUP)


class Role(NamedTuple):
    """What the program does with a place that is the attacker's.

    :ivar words: of the command line.
    :ivar place: the attacker's directory.
    :ivar has_worked: after exit status 0.
    :ivar only_looks: it never writes there.
    :ivar may_end: with these statuses, too, as it tells of what it found.
    :ivar refuses: with this status.
    """

    name: str
    words: Callable[[Attack], Sequence[str | Path]]
    place: Callable[[Attack], Path]
    components: tuple[str, ...]
    has_worked: Callable[[Attack, Done], bool] = lambda scene, done: True
    only_looks: bool = False
    may_end: tuple[int, ...] = ()
    refuses: int = REFUSED


class Row(NamedTuple):
    """One attack of the table."""

    role: Role
    way: str
    component: str
    kind: str

    def __str__(self) -> str:
        short = self.component.replace(STATE, "STATE").replace("/", ":")
        return f"{self.role.name}-{self.way}-{short}-{self.kind}".replace(" ", "_")

    @property
    def is_record(self) -> bool:
        """Tell whether it stands for a record, which a backup can make anew."""
        return self.component.endswith(".json") and self.role is PRUNE

    @property
    def must_be_refused(self) -> bool:
        """Tell whether nothing at all can be done safely."""
        if self.role.only_looks or self.role is REHEARSAL:
            return self.component == STATE and not self.role.only_looks
        return self.component in (STATE, INCOMING, f"{STATE}/snapshots")


def _records(*names: str) -> tuple[str, ...]:
    return tuple(f"{STATE}/{name}" for name in names)


def _at_source(scene: Attack) -> Path:
    return scene.source


def _at_backups(scene: Attack) -> Path:
    return scene.destination


def _at_target(scene: Attack) -> Path:
    return scene.to


def _all_arrived(scene: Attack, done: Done) -> bool:
    return not scene.missing()


def _restored(scene: Attack, done: Done) -> bool:
    (path,) = (word for word in done.args if "/new-" in word)
    at = Path(path[path.index("/", len("ssh://")) :] if "://" in path else path)
    return places.is_subvolume(at)


def _restore(*options: str) -> Callable[[Attack], Sequence[str | Path]]:
    def words(scene: Attack) -> Sequence[str | Path]:
        to = scene.at(scene.new_path())
        return ["restore", *scene.login, *options, scene.destination, OLD, "--to", to]

    return words


BACKUP = Role(
    "backup",
    lambda s: ["-p", "x-", "-S", *s.login, s.source, s.at(s.destination)],
    _at_backups,
    (
        STATE,
        INCOMING,
        f"{INCOMING}/{OLD_ID}",
        f"{INCOMING}/{RESUMED}",
        f"{INCOMING}/{RESUMED}/{SEAL}",
        f"{INCOMING}/{RESUMED}/{BODY}",
        f"{INCOMING}/{RESUMED}/{NEW}",
        f"{INCOMING}/{OLD_ID}/{NEW}",
        *_records("holder", "beat", "sources.json", "sources.json.new"),
        NEW,
    ),
    _all_arrived,
)
SOURCE = Role(
    "source",
    lambda s: ["-p", "x-", *s.login, s.at(s.source), s.destination],
    _at_source,
    (
        STATE,
        f"{STATE}/snapshots",
        INCOMING,
        f"{INCOMING}/{OLD_ID}",
        *_records("holder", "beat", "holds.json", "holds.json.new"),
    ),
    _all_arrived,
)
FOLDER = Role(
    "folder",
    lambda s: ["-p", "x-", "-f", "kept", *s.login, s.at(s.source), s.destination],
    _at_source,
    ("kept",),
)
REHEARSAL = Role(
    "dry run",
    lambda s: ["-p", "x-", "--dry-run", *s.login, s.at(s.source), s.destination],
    _at_source,
    (STATE, f"{STATE}/snapshots", INCOMING, f"{INCOMING}/{OLD_ID}"),
)
RESTORE = Role(
    "restore",
    _restore(),
    _at_target,
    (STATE, INCOMING, f"{INCOMING}/{OLD_ID}", *_records("holder", "beat")),
    _restored,
)
WRITABLE = Role("writable", _restore("--writable"), _at_target, (STATE, INCOMING))
SCRATCH = Role(
    "scratch",
    lambda s: [
        *("verify", "--restore-test", *s.login, "--scratch", s.at(s.to)),
        *(s.destination, OLD),
    ],
    _at_target,
    (STATE, INCOMING, f"{INCOMING}/{OLD_ID}", *_records("holder")),
    refuses=10,  # it could not be checked
)
VERIFY = Role(
    "verify",
    lambda s: ["verify", *s.login, s.at(s.destination)],
    _at_backups,
    _records("verified.json", "verified.json.new", "sources.json"),
    may_end=(1, 10),
)
PRUNE = Role(
    "prune",
    lambda s: ["prune", "--keep-at", "latest=1", "--yes", "--force", "-p", "x-"]
    + [*s.login, s.at(s.destination)],
    _at_backups,
    (STATE, *_records("holder", "sources.json"), NEW),
    lambda scene, done: len(places.subvolumes(scene.destination)) <= 2,
)
STAGING = Role(
    "staging",
    lambda s: ["prune", "--staging", "--yes", *s.login, s.at(s.destination)],
    _at_backups,
    (
        STATE,
        INCOMING,
        f"{INCOMING}/{OLD_ID}",
        f"{INCOMING}/{OLD_ID}/{NEW}",
        f"{INCOMING}/{OLD_ID}/{SEAL}",
        *_records("holder"),
    ),
)
LOOKED_AT = (
    STATE,
    INCOMING,
    f"{INCOMING}/{OLD_ID}",
    *_records("sources.json", "verified.json", "holds.json", "holder"),
    NEW,
)


def _look(verb: str, what: str, at: Callable[[Attack], Path]) -> Role:
    return Role(
        f"{verb}-{what}",
        lambda s: [verb, *s.login, s.at(at(s))],
        at,
        LOOKED_AT,
        only_looks=True,
    )


LOOKS = tuple(
    _look(verb, what, at)
    for verb in ("list", "status", "doctor")
    for what, at in (("source", _at_source), ("backups", _at_backups))
)
ROLES = (
    *(BACKUP, SOURCE, FOLDER, REHEARSAL, RESTORE, WRITABLE, SCRATCH, VERIFY, PRUNE),
    *(STAGING, *LOOKS),
)
LOCAL, AS_ROOT, BY_SUDO = "local", "ssh", "sudo"
#: In ways of this machine, a record is a file of a closed set; these are directories.
_DIRECTORIES = (STATE, INCOMING, f"{STATE}/snapshots", f"{INCOMING}/{OLD_ID}")


def every_row() -> Iterator[Row]:
    """Return the whole table."""
    for role in ROLES:
        for way in (LOCAL, AS_ROOT, BY_SUDO):
            for component in role.components:
                opened = OPENED if component in _DIRECTORIES else ()
                for kind in (*PLANTED, *opened):
                    if _is_possible(role, component, kind):
                        yield Row(role, way, component, kind)


def _is_possible(role: Role, component: str, kind: str) -> bool:
    """Tell whether such a thing can lie there: no hard link leads into a subvolume."""
    return kind != HARD_LINK or role.place is not _at_source


def usual_rows() -> Iterator[Row]:
    """Return the part of the table for which there is time in each test run.

    Every component of every role is in it, most with one kind of thing, in turn. Of the
    ways over ssh each component is in one row.
    """
    turn = 0
    for role in ROLES:
        for component in role.components:
            kinds = [*PLANTED, *(OPENED if component in _DIRECTORIES else ())]
            possible = [kind for kind in kinds if _is_possible(role, component, kind)]
            turn += 1
            chosen = {possible[turn % len(possible)]}
            if role in (BACKUP, SOURCE):
                chosen |= set(possible if component == STATE else [LINK])
            elif component == STATE and not role.only_looks:
                chosen.add(LINK)
            for kind in kinds:
                if kind in chosen:
                    yield Row(role, LOCAL, component, kind)
    for role, way, component, kind in _OVER_SSH:
        yield Row(role, way, component, kind)


_OVER_SSH = (
    (BACKUP, AS_ROOT, STATE, DIRECTORY),
    (BACKUP, AS_ROOT, f"{INCOMING}/{OLD_ID}", LINK),
    (BACKUP, AS_ROOT, f"{INCOMING}/{RESUMED}/{SEAL}", LINK),
    (BACKUP, AS_ROOT, f"{STATE}/holder", TO_FILE),
    (BACKUP, AS_ROOT, f"{STATE}/sources.json.new", HARD_LINK),
    (BACKUP, BY_SUDO, STATE, LINK),
    (BACKUP, BY_SUDO, INCOMING, LINK),
    (BACKUP, BY_SUDO, f"{STATE}/sources.json", FIFO),
    (SOURCE, AS_ROOT, f"{STATE}/snapshots", DANGLING),
    (REHEARSAL, AS_ROOT, INCOMING, LINK),
    (RESTORE, AS_ROOT, f"{INCOMING}/{OLD_ID}", LINK),
    (SCRATCH, AS_ROOT, STATE, SUBVOLUME),
    (VERIFY, AS_ROOT, f"{STATE}/verified.json.new", TO_FILE),
    (PRUNE, BY_SUDO, STATE, FOR_ALL),
    (STAGING, AS_ROOT, f"{INCOMING}/{OLD_ID}", LINK),
    (LOOKS[3], AS_ROOT, f"{STATE}/sources.json", FIFO),
)


def plant(scene: Attack, place: Path, component: str, kind: str, *, row: int) -> Path:
    """Put something where the program will find it, and give its path.

    What we have there already is moved out of the way, as the owner of the place can.
    """
    if RESUMED in component:
        component = component.replace(RESUMED, scene.transfer_id())
    path = place / component
    missing = [above for above in path.parents if not above.exists()]
    for directory in reversed(missing):
        directory.mkdir(mode=0o700)
    if kind in OPENED:
        path.mkdir(exist_ok=True)
        path.chmod(0o777 if kind == FOR_ALL else 0o770)
        return path
    if os.path.lexists(path):
        path.rename(place.parent / "stash" if path.name == STATE else f"{path}.stash")
    victim = scene.arena.victim_at(path, is_private=row % 2 == 1).path
    same = victim / "incoming" if path.name == "incoming" else victim / path.name
    goal = same if os.path.lexists(same) else victim
    match kind:
        case "link":
            path.symlink_to(victim if path.name == OLD_ID else goal)
        case "link to a file":
            path.symlink_to(goal if goal.is_file() else victim / "precious")
        case "dangling link":
            path.symlink_to(victim / "new")
        case "directory":
            path.mkdir(mode=0o755)
        case "subvolume":
            places.command("btrfs", "-q", "subvolume", "create", path)
        case "fifo":
            os.mkfifo(path, 0o666)
        case "hard link":
            os.link(victim / "precious", path)
            return path
    if kind in (DIRECTORY, SUBVOLUME):
        _bait(scene, path, victim)
    scene.give_away(path)
    return path


def _bait(scene: Attack, directory: Path, victim: Path) -> None:
    """Fill a directory of the attacker with what would lead further."""
    for name in (*RECORDS, "incoming", "snapshots", OLD_ID, NEW, SEAL, BODY):
        link = directory / name
        link.symlink_to(victim / name if (victim / name).exists() else victim)
        scene.give_away(link)


def release(path: Path) -> None:
    """Let go who waits at a pipe that was planted, should the program have hung."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        assert error.errno in (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO)
        return
    os.close(descriptor)
