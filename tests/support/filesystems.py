"""The btrfs filesystems that tests work on: images behind loop devices."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from . import ours

PATIENCE_S = 10.0
_MEMORY = ours.memory()


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo, see proc(5)."""

    point: Path
    source: str


class StillBusy(Exception):
    """A filesystem was in use when its test was over: something was left running."""


class Filesystem:
    """A btrfs filesystem in an image file, mounted at ``path``.

    ``uuid`` is the filesystem's own; a copy from a power cut of a filesystem that is
    still mounted has the same one on disk, but the kernel gives it a temporary one.
    """

    def __init__(self, image: Path, path: Path, identity: uuid.UUID) -> None:
        self.image = image
        self.path = path
        self.uuid = identity

    @property
    def device(self) -> str:
        """Name the loop device; only a mounted filesystem has one."""
        (device,) = _loop_devices(self.image)
        return device

    def mount(self, *options: str) -> None:
        """Mount the image with the given ``-o`` options."""
        self.path.mkdir(exist_ok=True)
        _run("mount", "-t", "btrfs", "-o", ",".join(("loop", *options)),
             self.image, self.path)  # fmt: skip

    def remount(self, *options: str) -> None:
        """Change the options of the mounted filesystem, such as ``ro`` or ``rw``."""
        _run("mount", "-o", ",".join(("remount", *options)), self.path)

    def unmount(self) -> None:
        """Unmount it everywhere, with all other mounts in it.

        No mount and no loop device stays, whatever happens.

        :raises StillBusy: if that took a lazy unmount, because a process has not ended
            yet or has a directory there as its working directory.
        """
        devices = set(_loop_devices(self.image))
        mounts = [
            mount
            for mount in read_mounts()
            if mount.source in devices or mount.point.is_relative_to(self.path)
        ]
        users: list[str] = []
        for mount in reversed(mounts):
            if not _unmount(mount.point):
                users += users_of(mount.point)
                _run("umount", "--lazy", mount.point)
        deadline = time.monotonic() + PATIENCE_S / 2
        while remaining := _loop_devices(self.image):
            if time.monotonic() > deadline:
                for device in remaining:  # detaches as soon as its last user goes
                    _run("losetup", "--detach", device)
                break
            time.sleep(0.02)
        if users:
            raise StillBusy(f"{self.path} was still in use: {', '.join(users)}")

    def subvolume(self, name: str) -> Path:
        """Make a subvolume, ``name`` being relative to the top of the filesystem."""
        path = self.path / name
        _run("btrfs", "-q", "subvolume", "create", path)
        return path

    def snapshot(
        self, source: Path | str, name: str, *, writable: bool = False
    ) -> Path:
        """Make a snapshot of a subvolume; both are relative to the top."""
        path = self.path / name
        flags = () if writable else ("-r",)
        _run("btrfs", "-q", "subvolume", "snapshot", *flags, self.path / source, path)
        return path

    def sync(self) -> None:
        """Commit the filesystem's running transaction."""
        _run("btrfs", "filesystem", "sync", self.path)

    def fill_up(self, *, leave_bytes: int = 0) -> None:
        """Leave no more than about ``leave_bytes`` free, with one file at the top."""
        step, least, size = 1 << 28, 1 << 20, 0
        with open(self.path / "filler", "wb") as file:
            while step >= least:
                try:
                    while self._free() > leave_bytes + step - least:
                        os.posix_fallocate(file.fileno(), size, step)
                        size += step
                except OSError:  # less space is left
                    pass
                step //= 2

    def _free(self) -> int:
        self.sync()
        return shutil.disk_usage(self.path).free


@contextlib.contextmanager
def btrfs_filesystem(
    directory: Path,
    *,
    size: str = "1G",
    mkfs_options: Sequence[str] = (),
    mount_options: Sequence[str] = (),
    disk: Path | None = None,
) -> Iterator[Filesystem]:
    """Make a btrfs filesystem, mount it in ``directory``, and clean up afterwards.

    :param size: as truncate(1) takes it; the image is sparse.  Below some 110 MiB
        mkfs.btrfs wants ``--mixed``.
    :param disk: the directory of the image; by default it is in memory, where a flush
        is free, if there is room, else in ``directory``.
    """
    name = ours.mark()
    path = directory.resolve() / f"{name}.mnt"
    image = (disk or _MEMORY) / f"{name}.img"
    _run("truncate", f"--size={size}", image)
    if not disk and image.stat().st_size > shutil.disk_usage(_MEMORY).free / 4:
        image.unlink()
        image = path.with_suffix(".img")
        _run("truncate", f"--size={size}", image)
    filesystem = Filesystem(image, path, uuid.uuid4())
    _run("mkfs.btrfs", "-q", "-U", filesystem.uuid, *mkfs_options, filesystem.image)
    with _mounted(filesystem, mount_options):
        yield filesystem


class PowerCut:
    """A filesystem, and a way to see its state after a power cut now."""

    def __init__(
        self, outer: Filesystem, inner: Filesystem, stack: contextlib.ExitStack
    ) -> None:
        self.filesystem = inner
        self._outer = outer
        self._stack = stack
        self._cuts = 0

    @property
    def path(self) -> Path:
        """Name the directory in which the filesystem under test is mounted."""
        return self.filesystem.path

    def cut(self, *mount_options: str) -> Filesystem:
        """Cut the power: mount the state of the disk at this moment.

        The filesystem under test stays mounted, unless the kernel cannot mount two
        copies of a filesystem (before Linux 6.7); then it is unmounted after the cut.
        """
        self._cuts += 1
        saved = self._outer.snapshot("disk", f"cut-{self._cuts}", writable=True)
        if not Path("/sys/fs/btrfs/features/temp_fsid").exists():
            self.filesystem.unmount()
        inner = self.filesystem
        path = inner.path.with_name(f"{inner.path.name}-cut-{self._cuts}")
        after = Filesystem(saved / inner.image.name, path, inner.uuid)
        self._stack.enter_context(_mounted(after, mount_options))
        return after


@contextlib.contextmanager
def power_cut(
    directory: Path,
    *,
    size: str = "1G",
    mkfs_options: Sequence[str] = (),
    mount_options: Sequence[str] = (),
) -> Iterator[PowerCut]:
    """Make a filesystem whose power can be cut.

    Its image lies in a subvolume of another btrfs, of which a snapshot is atomic: it
    has all that the inner filesystem has written so far, and nothing from its memory.
    """
    with contextlib.ExitStack() as stack:
        outer = stack.enter_context(btrfs_filesystem(directory, size="4G"))
        disk = outer.subvolume("disk")
        inner = stack.enter_context(
            btrfs_filesystem(
                disk,
                size=size,
                mkfs_options=mkfs_options,
                mount_options=mount_options,
                disk=disk,
            )
        )
        yield PowerCut(outer, inner, stack)


def read_mounts() -> list[Mount]:
    """List all mounts, in the order in which they were mounted."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        point = re.sub(
            rb"\\([0-7]{3})",
            lambda octal: bytes([int(octal[1], 8)]),
            before.split(b" ")[4],
        )
        mounts.append(Mount(Path(os.fsdecode(point)), os.fsdecode(after.split()[1])))
    return mounts


def sweep() -> list[str]:
    """Remove the mounts, loop devices and images that killed test runs left.

    :returns: descriptions of the removed things, for people.
    """
    leftovers = [
        (device, image)
        for device, image in loop_devices().items()
        if ours.is_leftover(image.name)
    ]
    # An image inside another filesystem of the tests has the longer path.
    leftovers.sort(key=lambda leftover: -len(leftover[1].parts))
    for device, image in leftovers:
        points = [mount.point for mount in read_mounts() if mount.source == device]
        filesystem = Filesystem(image, image.with_suffix(".mnt"), uuid.UUID(int=0))
        with contextlib.suppress(StillBusy):
            filesystem.unmount()
        for point in points:
            with contextlib.suppress(OSError):
                point.rmdir()
        image.unlink(missing_ok=True)
    for image in _MEMORY.glob("bbng-*.img"):
        if ours.is_leftover(image.name):
            image.unlink()
    return [f"{device} ({image})" for device, image in leftovers]


@contextlib.contextmanager
def _mounted(filesystem: Filesystem, options: Sequence[str]) -> Iterator[None]:
    failed = True
    try:
        filesystem.mount(*options)
        yield
        failed = False
    finally:
        try:
            filesystem.unmount()
        except StillBusy:
            if not failed:  # never hide the failure of the test
                raise
        finally:
            filesystem.image.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                filesystem.path.rmdir()


def _unmount(point: Path) -> bool:
    """Unmount, waiting a while for its users; False if they did not end."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        if point not in {mount.point for mount in read_mounts()}:
            return True
        done = subprocess.run(["umount", point], capture_output=True)
        if done.returncode == 0:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def users_of(point: Path) -> list[str]:
    """Name the processes that have something open below a mount point."""
    users = []
    for process in Path("/proc").glob("[0-9]*"):
        links = [process / "cwd", process / "root", *process.glob("fd/*")]
        for link in links:
            with contextlib.suppress(OSError):
                if link.readlink().is_relative_to(point):
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                    users.append(f"{process.name} ({os.fsdecode(command).strip()})")
                    break
    return users or ["by no process that can be seen"]


def loop_devices() -> dict[str, Path]:
    """Return the loop devices in use, and their images."""
    devices = {}
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached meanwhile
            name = os.fsdecode(file.read_bytes().removesuffix(b"\n"))
            image = Path(name.removesuffix(" (deleted)"))
            devices[f"/dev/{file.parts[3]}"] = image
    return devices


def _loop_devices(image: Path) -> list[str]:
    return [device for device, path in loop_devices().items() if path == image]


def _run(*argv: object) -> None:
    done = subprocess.run(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        command = " ".join(str(word) for word in argv)
        raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout}")
