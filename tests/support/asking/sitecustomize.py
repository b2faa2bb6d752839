"""Let the program ask the ``btrfs`` in its PATH before an ioctl of its own.

Python loads this at its start from PYTHONPATH. So a ``btrfs`` that a test puts in front
of the real one decides about an ioctl as about the command that does the same.
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess

from btrfs_backup_ng.btrfs import ioctl

#: The ``btrfs`` has nothing against it: the ioctl is made.
GO_ON = 99
_ASK = 'exec 5<"$1" 9<"$2" && shift 2 && exec btrfs "$@"'

#: Of a search: the tree (0 for its own) and the first inode; the transaction.
_SEARCH = struct.Struct("=2Q24xQ")

_request = ioctl.request


def _asking(descriptor: int, number: int, words: bytearray) -> None:
    """Make an ioctl, unless it is one that ``btrfs`` prevents, or does itself."""
    if number == ioctl.SNAP_CREATE:
        source, flags = struct.unpack_from("=q8xQ", words)
        path = os.readlink(f"/proc/self/fd/{source}")
        # As the scripts name what is staged, and any other subvolume.
        staged = f"/proc/self/fd/9/{os.path.basename(path)}"
        argv = ["snapshot", *(["-r"] if flags else []), "--"]
        argv += [staged if "/incoming/" in path else "/proc/self/fd/5"]
        start = 56
    elif number == ioctl.SNAP_DESTROY:
        source, argv, start = descriptor, ["delete", "-c", "--"], 8
    elif number == ioctl.TREE_SEARCH and _SEARCH.unpack_from(words)[:2] == (0, 0):
        source, start = descriptor, 0
        argv = ["find-new", "--", ".", str(_SEARCH.unpack_from(words)[2])]
    else:
        return _request(descriptor, number, words)
    if start:
        name = os.fsdecode(bytes(words[start:]).partition(b"\0")[0])
        argv.append(f"./{name}")
    opened = f"/proc/{os.getpid()}/fd/{source}"
    done = subprocess.run(
        ["sh", "-c", _ASK, "sh", opened, f"{opened}/.."] + ["subvolume", *argv],
        cwd=f"/proc/self/fd/{descriptor}",
        env={**os.environ, "ASKED": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode == GO_ON:
        _request(descriptor, number, words)
    elif done.returncode:
        raise OSError(errno.EIO, done.stderr.strip().removeprefix("ERROR: "))


ioctl.request = _asking
