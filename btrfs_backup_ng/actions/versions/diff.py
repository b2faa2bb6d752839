"""The difference between two versions of a file, in the format of ``diff -u``."""

import os
import tempfile
from datetime import timezone

from btrfs_backup_ng.__util__ import (
    MIB,
    Refused,
    UsageError,
    format_size,
    visible,
)
from btrfs_backup_ng.actions.versions.find import Found, sighting_of
from btrfs_backup_ng.actions.versions.timeline import Sighting, id_of, versions
from btrfs_backup_ng.host.common import Host
from btrfs_backup_ng.process.child import PIPE, Child, run
from btrfs_backup_ng.process.command import (
    Command,
    CommandFailed,
    ContactLost,
)
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.sshutil.refusal import explain_session
from btrfs_backup_ng.wire import verbs

#: Largest version that is compared: diff holds both in memory.
_LIMIT_BYTES = 256 * MIB
#: A file with a NUL in its beginning of this size is binary, for diff, too.
_LOOK_BYTES = 64 * 1024


def difference(found: Found, first: int, second: int) -> bytes | None:
    """Compare two versions of a file, given by their numbers.

    :returns: the output of ``diff -u``; ``None`` if one of them is binary.
    :raises UsageError: if both are the same.
    :raises Refused: if they cannot be compared.
    """
    ids = {number: id_of(known) for number, known in versions(found.runs).items()}
    if first == second:
        raise UsageError(f"--diff compares two versions, and both are {ids[first]}")
    with tempfile.TemporaryDirectory(prefix="btrfs-backup-ng-") as directory:
        argv = ["diff", "-u"]
        paths = []
        for number in (first, second):
            sighting = sighting_of(found, number)
            content, name = sighting.content, ids[number]
            assert content
            if content.kind not in ("file", "link"):
                raise Refused(f"version {name} is a {content.kind}, not a file")
            if content.size > _LIMIT_BYTES:
                size = format_size(content.size)
                raise Refused(f"version {name} is {size}, too large to be compared")
            argv += ["-L", _label(found, name, sighting)]
            path = os.path.join(directory, str(number))
            if content.kind == "link":
                with open(path, "wb") as file:
                    file.write(b"-> " + os.fsencode(content.mark) + b"\n")
            else:
                _fetch(found.hosts[sighting.place], sighting.path, path)
            paths.append(path)
        for path in paths:
            with open(path, "rb") as file:
                if b"\0" in file.read(_LOOK_BYTES):
                    return None
        command = Command((*argv, "--", *paths), label="diff")
        done = run(command, check=False)
    if done.stdout.startswith(b"Binary files "):
        return None
    if done.status not in (0, 1):
        raise CommandFailed(done)
    return done.stdout


def _label(found: Found, version: str, sighting: Sighting) -> str:
    time = f"{sighting.time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    where = sighting.snapshot or "now"
    return visible(f"{found.file.path} (version {version}, {where}, {time})")


def _fetch(host: Host, path: str, target: str) -> None:
    """Copy a file from a host to a local path.

    :raises BackupError: if it cannot be read.
    """
    command = host.command(verbs.CONTENT, path, label="cat")
    with open(target, "wb") as file:
        with Child.start(command, stdout=PIPE) as child:
            size = 0
            while block := child.read(MIB):
                size += len(block)
                if size > _LIMIT_BYTES:
                    raise child.failure(CommandFailed, "sent more than there was")
                file.write(block)
            completed = child.finish()
    if completed.status != 0:
        check_interrupted()
        kind = ContactLost if completed.status is None else CommandFailed
        error = kind(completed)
        error.hint = explain_session(completed.stderr)
        raise error
