"""The kept streams: small ones that the kernel wrote, and ones made by hand.

``python -m tests.sendstream.kept`` records those of the kernel anew, as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from btrfs_backup_ng.sendstream.format import (
    ATTRIBUTE,
    U64,
    Attribute,
    Kind,
    build_command,
    frame_command,
    preamble,
)
from tests.support import filesystems, ours, trees

DIRECTORY = Path(__file__).with_name("corpus")
_SMALL = U64.pack(4096)
_NAME = (Attribute.PATH, b"a file")
SUBVOL = build_command(
    Kind.SUBVOL,
    [
        (Attribute.PATH, b"by hand"),
        (Attribute.UUID, bytes(range(16))),
        (Attribute.CTRANSID, U64.pack(9)),
    ],
)
MKFILE = build_command(Kind.MKFILE, [_NAME, (Attribute.INO, U64.pack(257))])
END = build_command(Kind.END, [])


def load() -> dict[str, bytes]:
    """Return every kept stream by its name."""
    recorded = {path.stem: path.read_bytes() for path in DIRECTORY.glob("*.stream")}
    return dict(sorted({**recorded, **by_hand()}.items()))


def by_hand() -> dict[str, bytes]:
    """Make streams with what is rare, or not written by this kernel."""
    rare = b"".join((preamble(2), SUBVOL, MKFILE, _fallocate(), _fileattr(), END))
    short = preamble(2) + SUBVOL + MKFILE
    for data in (b"", b"1", b"12", b"123"):
        short += write_command(data, version=2)
    return {
        "rare commands": rare,
        "verity": preamble(3) + SUBVOL + MKFILE + _verity() + END,
        "short data": short + END,
        "nothing": preamble(1) + END,
        "two streams": (preamble(1) + SUBVOL + MKFILE + END) + rare,
        # As btrfs send -e makes them.
        "two subvolumes": preamble(1) + 2 * (SUBVOL + MKFILE) + END,
    }


def write_command(data: bytes, *, version: int, path: bytes = b"a file") -> bytes:
    """Write data to the start of a file."""
    body = b"".join(
        ATTRIBUTE.pack(kind, len(value)) + value
        for kind, value in (
            (Attribute.PATH, path),
            (Attribute.FILE_OFFSET, U64.pack(0)),
        )
    )
    header = ATTRIBUTE.pack(Attribute.DATA, len(data))
    return frame_command(Kind.WRITE, body + header[: 4 if version == 1 else 2] + data)


def _fallocate() -> bytes:
    mode = (Attribute.FALLOCATE_MODE, (3).to_bytes(4, "little"))
    place = [(Attribute.FILE_OFFSET, _SMALL), (Attribute.SIZE, _SMALL)]
    return build_command(Kind.FALLOCATE, [_NAME, mode, *place])


def _fileattr() -> bytes:
    return build_command(Kind.FILEATTR, [_NAME, (Attribute.FILEATTR, U64.pack(16))])


def _verity() -> bytes:
    attributes = [
        _NAME,
        (Attribute.VERITY_ALGORITHM, b"\1"),
        (Attribute.VERITY_BLOCK_SIZE, (4096).to_bytes(4, "little")),
        (Attribute.VERITY_SALT_DATA, b"salt"),
        (Attribute.VERITY_SIG_DATA, b""),
    ]
    return build_command(Kind.ENABLE_VERITY, attributes)


def send(*words: str | Path) -> bytes:
    """Return what ``btrfs send`` writes."""
    argv = ["btrfs", "-q", "send", *words]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout


def receive(stream: bytes, directory: Path) -> bool:
    """Tell whether ``btrfs receive`` takes a stream."""
    argv = ["btrfs", "-q", "receive", os.fspath(directory)]
    return not subprocess.run(argv, input=stream, stderr=subprocess.DEVNULL).returncode


def record() -> Iterator[tuple[str, bytes]]:
    """Let the kernel write small streams with all the commands it knows."""
    place = ours.public_directory()
    try:
        with filesystems.btrfs_filesystem(place, mount_options=["compress=lzo"]) as fs:
            source = fs.subvolume("source")
            fill(source)
            first = fs.snapshot("source", "first")
            change(source)
            second = fs.snapshot("source", "second")
            for number in ("1", "2"):
                words = ["--proto", number]
                yield f"full {number}", send(*words, first)
                yield f"changes {number}", send(*words, "-p", first, second)
                yield f"dry {number}", send(*words, "--no-data", first)
                words.append("--no-data")
                yield f"dry changes {number}", send(*words, "-p", first, second)
            yield "compressed", send("--proto", "2", "--compressed-data", first)
    finally:
        shutil.rmtree(place)


def fill(top: Path) -> None:
    """Make a little of everything."""
    (top / "directory").mkdir()
    (top / "empty").mkdir()
    (top / "tiny").write_text("tiny")
    (top / "zeros").write_bytes(bytes(4096))
    (top / "compressible").write_bytes(b"all work and no play " * 400)
    (top / "holes").touch()
    os.truncate(top / "holes", 1 << 20)
    (top / "original").write_bytes(bytes(range(256)) * 16)
    os.sync()
    trees.reflink(bytes(top / "original"), bytes(top / "clone"))
    (top / "original").chmod(0o4750)
    os.chown(top / "tiny", 1000, 65534)
    os.link(top / "tiny", top / "directory" / "hard link")
    os.symlink("tiny", top / "symlink")
    os.symlink(b"not utf-8 \xff \\\n", bytes(top) + b"/not utf-8 \xff\t\\ \x1b")
    os.mkfifo(top / "fifo")
    os.mknod(top / "socket", 0o140600)
    os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    os.setxattr(top / "tiny", "user.text", b"value")
    os.setxattr(top / "directory", "user.empty", b"")
    os.utime(top / "directory", ns=(-1, 1_700_000_000_123_456_789))


def change(top: Path) -> None:
    """Change it, so that the changes make a stream of all other commands."""
    os.removexattr(top / "tiny", "user.text")
    (top / "symlink").unlink()
    (top / "empty").rmdir()
    (top / "directory").rename(top / "renamed")
    (top / "fifo").unlink()
    (top / "fifo").mkdir()
    (top / "fifo" / "in it").write_text("new")
    os.truncate(top / "zeros", 100)
    trees.punch_hole(bytes(top / "compressible"), 0, 4096)
    with open(top / "holes", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 8192)
    with open(top / "original", "r+b") as file:
        file.seek(100)
        file.write(b"in the middle")
    os.sync()
    trees.reflink(bytes(top / "compressible"), bytes(top / "later clone"))


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for name, stream in record():
        (DIRECTORY / f"{name}.stream").write_bytes(stream)
