"""The trees that tests back up: everything a filesystem can hold, by seed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import struct
import subprocess

from . import trees

SIZES = (0, 1, 100, 2047, 2048, 4095, 4096, 4097, 65537, (1 << 20) + 7, 3 << 20)

HOSTILE_NAMES = (
    b" leading and trailing ",
    b"single ' and double \"",
    b"new\nline",
    b"tab\tand\rreturn",
    b"\x1b[31mred\x1b[0m",
    b"$(touch pwned) `touch pwned` $HOME",
    b";rm -rf .;&|<>*?[a]{b,c}!#~",
    b"-rf",
    b"--",
    b"back\\slash\\",
    b"not utf-8 \xff\xfe\x80",
    "übergroß \u202e 日本 \U0001f4be".encode(),
    b"...",
    b"%s%n %00",
    b"l" * 255,
)

_OWNERS = ((0, 0), (1000, 1000), (65534, 65534), (123456, 7), (0, 4))
_FILE_MODES = (0o644, 0o600, 0o400, 0o000, 0o755, 0o4755, 0o2755, 0o666, 0o7777)
_DIRECTORY_MODES = (0o755, 0o700, 0o1777, 0o2775, 0o555)
# linux/capability.h: revision 2 with the effective bit; 1 << 13 is CAP_NET_RAW
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def fill(path: str | os.PathLike[str], seed: int) -> None:
    """Fill a directory (of root's) with one of everything.

    The same seed gives the same tree, times and all, on any btrfs.
    """
    top, dice = os.fsencode(path), random.Random(f"fill {seed}")
    for name in (b"sizes", b"names", b"special", b"links", b"empty", b"deep"):
        os.mkdir(os.path.join(top, name))
    for size in SIZES:
        _write(top, b"sizes/%d" % size, dice.randbytes(size))
    _write(top, b"sizes/compressible", b"all work and no play " * 20000)
    for number, name in enumerate(HOSTILE_NAMES):
        if number % 4 == 3:
            os.mkdir(os.path.join(top, b"names", name))
            _write(top, os.path.join(b"names", name, name), dice.randbytes(30))
        else:
            _write(top, b"names/" + name, dice.randbytes(100 * number))
    deep = b"deep"
    for level in range(12):
        deep = os.path.join(deep, b"level %d" % level)
        os.mkdir(os.path.join(top, deep))
        _write(top, deep + b"/file", dice.randbytes(level * 1000))
    _fill_links(os.path.join(top, b"links"), dice)
    _fill_special(os.path.join(top, b"special"), dice)
    for relative in list(trees.walk(top)):
        _vary(os.path.join(top, relative), dice)
    _fill_attributes(top, dice)
    _set_times(top, dice)


def change(path: str | os.PathLike[str], seed: int) -> None:
    """Change a filled tree, so that an incremental backup has data to send.

    Files are edited, extended, truncated, punched, renamed, swapped, replaced by
    directories, removed and added; one change of each kind at least, on files that the
    seed picks. To change a tree again, use another seed.
    """
    top, dice = os.fsencode(path), random.Random(f"change {seed}")
    files = [
        os.path.join(top, relative)
        for relative in trees.walk(top)
        if stat.S_ISREG(os.lstat(os.path.join(top, relative)).st_mode)
    ]
    files = dice.sample(files, len(files))
    large = next(file for file in files if os.path.getsize(file) > 1 << 20)
    files.remove(large)
    _overwrite(large, dice.randrange(1 << 19), dice.randbytes(10_000))
    trees.punch_hole(large, 4096 * dice.randrange(128, 160), 3 * 4096)
    trees.reflink(large, os.path.join(top, b"cloned later %d" % seed))
    grown = files.pop()
    _overwrite(grown, os.path.getsize(grown), dice.randbytes(5000))
    os.truncate(files.pop(), dice.randrange(3000))
    _write(top, files.pop(), dice.randbytes(50_000))
    one, other, spare = files.pop(), files.pop(), os.path.join(top, b"spare")
    for old, new in ((one, spare), (other, one), (spare, other)):
        os.rename(old, new)
    os.rename(files.pop(), os.path.join(top, b"moved to the top %d" % seed))
    replaced = files.pop()
    os.unlink(replaced)
    os.mkdir(replaced)
    _write(replaced, b"where a file was", dice.randbytes(300))
    os.unlink(files.pop())
    os.link(files.pop(), os.path.join(top, b"linked later %d" % seed))
    os.setxattr(files.pop(), "user.changed", b"%d" % seed)
    _vary(files.pop(), dice)
    added = os.path.join(top, b"added %d" % seed)
    os.mkdir(added)
    for size in SIZES:
        _write(added, b"new %d" % size, dice.randbytes(size))
    _change_directories(top, dice)
    _set_times(top, dice)


def _fill_links(top: bytes, dice: random.Random) -> None:
    _write(top, b"original", dice.randbytes(200_000))
    os.link(os.path.join(top, b"original"), os.path.join(top, b"hard link"))
    os.link(os.path.join(top, b"original"), os.path.join(top, b"../deep/hard link"))
    os.symlink(b"original", os.path.join(top, b"good"))
    os.symlink(b"nowhere/at all", os.path.join(top, b"dangling"))
    os.symlink(b"/etc/passwd", os.path.join(top, b"absolute"))
    os.symlink(b"../../../../..", os.path.join(top, b"out of here"))
    os.symlink(b"not utf-8 \xff\n", os.path.join(top, b"\xfe link"))
    os.symlink(b"t" * 4000, os.path.join(top, b"long"))
    trees.reflink(os.path.join(top, b"original"), os.path.join(top, b"clone"))
    trees.reflink(os.path.join(top, b"original"), os.path.join(top, b"changed clone"))
    _overwrite(os.path.join(top, b"changed clone"), 100_000, b"changed")


def _fill_special(top: bytes, dice: random.Random) -> None:
    os.mkfifo(os.path.join(top, b"fifo"))
    os.mknod(os.path.join(top, b"socket"), stat.S_IFSOCK | 0o600)
    os.mknod(os.path.join(top, b"null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(os.path.join(top, b"disk"), stat.S_IFBLK | 0o660, os.makedev(7, 200))
    with open(os.path.join(top, b"holes"), "wb") as file:
        for start in (1 << 20, 5 << 20, (9 << 20) + 4096 * dice.randrange(9)):
            file.seek(start)
            file.write(dice.randbytes(8192))
        file.truncate(12 << 20)
    with open(os.path.join(top, b"nothing but hole"), "wb") as file:
        file.truncate(64 << 20)
    with open(os.path.join(top, b"preallocated"), "wb") as file:
        file.write(dice.randbytes(4096))
        os.posix_fallocate(file.fileno(), 0, 1 << 20)


def _fill_attributes(top: bytes, dice: random.Random) -> None:
    # After the owners: chown(2) takes capabilities away.
    sizes = os.path.join(top, b"sizes")
    os.setxattr(os.path.join(sizes, b"4096"), "security.capability", _CAPABILITY)
    for size in (0, 1, 4097):
        file = os.path.join(sizes, b"%d" % size)
        os.setxattr(file, "user.small", b"value\0\xff")
        os.setxattr(file, "user.large", dice.randbytes(3000))
        os.setxattr(file, "user.empty", b"")
        os.setxattr(file, "trusted.hidden", b"of root")
    os.setxattr(os.path.join(top, b"empty"), "user.of a directory", b"too")
    os.setxattr(
        os.path.join(top, b"links/dangling"),
        "trusted.of a symlink",
        b"too",
        follow_symlinks=False,
    )
    acl = "user:1000:r-x,user:2000:---,group:3000:rw-,mask::rwx"
    _setfacl("-m", acl, os.path.join(sizes, b"100"))
    _setfacl("-m", acl, os.path.join(top, b"deep"))
    _setfacl("-d", "-m", acl, os.path.join(top, b"deep"))


def _change_directories(top: bytes, dice: random.Random) -> None:
    deep = os.path.join(top, b"deep")
    if os.path.isdir(deep) and not os.path.islink(deep):
        os.chmod(deep, dice.choice(_DIRECTORY_MODES))
        os.rename(deep, os.path.join(top, b"no more deep"))
        _setfacl("-b", os.path.join(top, b"no more deep"))
        os.symlink(b"no more deep", deep)  # a symlink where a directory was
    for directory in (b"empty", b"special"):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(os.path.join(top, directory))
            break


def _write(top: bytes, name: bytes, content: bytes) -> None:
    with open(os.path.join(top, name), "wb") as file:
        file.write(content)


def _overwrite(path: bytes, start: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(content)


def _vary(path: bytes, dice: random.Random) -> None:
    """Change owner and mode of a file, mostly."""
    owner, file_mode = dice.choice(_OWNERS), dice.choice(_FILE_MODES)
    directory_mode = dice.choice(_DIRECTORY_MODES)
    os.lchown(path, *owner)
    kind = os.lstat(path).st_mode
    if stat.S_ISDIR(kind):
        os.chmod(path, directory_mode)
    elif not stat.S_ISLNK(kind):
        os.chmod(path, file_mode)


def _set_times(top: bytes, dice: random.Random) -> None:
    """Set all times to old ones with nanoseconds, directories after their content."""
    for relative in [*reversed(list(trees.walk(top))), b"."]:
        moment = dice.randrange(10**9 * 10**6, 10**9 * 1_700_000_000)
        os.utime(
            os.path.join(top, relative), ns=(moment, moment), follow_symlinks=False
        )


def _setfacl(*argv: str | bytes) -> None:
    subprocess.run(["setfacl", *argv[:-1], "--", argv[-1]], check=True)
