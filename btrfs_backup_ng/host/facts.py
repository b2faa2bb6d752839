"""The first look at a directory and its surroundings: nothing is changed.

On this machine no process is started for it; from another one ``hello`` answers.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Mapping, Sequence

from btrfs_backup_ng.btrfs import ioctl
from btrfs_backup_ng.btrfs.listing import parse_nested
from btrfs_backup_ng.btrfs.parse import parse_show, parse_version
from btrfs_backup_ng.core.codecs import PROGRAMS
from btrfs_backup_ng.core.model import Facts, Privilege
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.host.entry import (
    INCOMING,
    SOURCES,
    STATE,
    NotOurs,
    below,
    entered,
    trouble_with,
)
from btrfs_backup_ng.host.mounts import MOUNTS, Mount, parse_mounts
from btrfs_backup_ng.process.command import find_program

_PROTOCOL_FILE = "/sys/fs/btrfs/features/send_stream_version"
#: Filesystems of a program or a medium that never changes.
_IMAGES = ("squashfs", "erofs", "iso9660")
#: A directory for each mounted filesystem, of the name of its UUID.
FILESYSTEMS = "/sys/fs/btrfs"
#: Since 1970, up to the year 9999.
_SECONDS = "[0-9]{1,12}"
#: Keys of the answer to ``hello`` with nested subvolumes, in two orders.
_NESTED = ("nested", "nestedback")


def read_facts(
    directory: str, folder: str, *, version: tuple[int, int] | None
) -> Facts:
    """Return the facts about a directory of this machine.

    :param folder: for its snapshots, or "".
    :param version: of btrfs-progs here.
    :raises OSError: if it cannot be looked at.
    """
    root = os.geteuid() == 0
    facts = Facts(
        privilege=Privilege.ROOT if root else Privilege.NONE,
        btrfs_version=version,
        send_protocol=_protocol(read_text(_PROTOCOL_FILE)),
        is_directory=os.path.isdir(directory),
        exists=os.path.lexists(directory),
        codecs=frozenset(name for name in PROGRAMS if find_program(name)),
        has_python=bool(folder),
    )
    if not facts.is_directory:
        return facts
    directory = os.path.realpath(directory)
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
        facts = _with_mount(facts, directory, file.read())
    if facts.mount_root != "/":
        facts = replace(facts, can_mount=bool(find_program("unshare")))
    has_entry = os.path.lexists(f"{directory}/{STATE}")
    has_stub = _is_stub(f"{directory}/{STATE}")
    filesystem = _filesystem_id(directory)
    on_system_disk = is_same_filesystem(filesystem, _filesystem_id("/"))
    with ioctl.opened_directory(directory) as descriptor:
        if facts.is_btrfs and folder:
            ioctl.sync(descriptor)  # data that is not on the disk yet is not counted
        is_empty = on_system_disk and _is_empty(descriptor)
    space = os.statvfs(directory)
    facts = replace(
        facts,
        filesystem=filesystem,
        on_system_disk=on_system_disk,
        is_empty=is_empty,
        is_writable=os.access(directory, os.W_OK) and not facts.is_mounted_read_only,
        size_used=(space.f_blocks - space.f_bfree) * space.f_frsize,
        size_free=space.f_bavail * space.f_frsize,
        has_state=has_entry and not has_stub,
        has_stub=has_stub,
        folder_filesystem=_filesystem_id(_existing(folder)) if folder else "",
        folder_trouble=_folder_trouble(folder) if root else "",
        has_folder=os.path.isdir(folder) and not _is_stub(folder),
        trouble=trouble_with(directory) if has_entry and root else "",
    )
    if facts.is_btrfs:
        is_cloned = has_twin(facts.filesystem, _mounted_filesystems())
        facts = replace(facts, has_twin=is_cloned)
    facts = replace(facts, containing=_containing(directory))
    facts = _with_destination_above(facts, _destination_above(directory))
    if facts.has_state and root and not facts.trouble:
        facts = replace(facts, leftovers=_leftovers(directory))
    if facts.is_btrfs and facts.containing == directory:
        facts = _with_subvolume(facts, directory, with_nested=bool(folder) and root)
    return facts


def _with_subvolume(facts: Facts, directory: str, *, with_nested: bool) -> Facts:
    with ioctl.opened_directory(directory) as descriptor:
        info = ioctl.subvolume_info(descriptor)
        nested = ioctl.nested_subvolumes(descriptor) if with_nested else []
    return replace(
        facts,
        is_subvolume=True,
        is_sealed=info.read_only,
        uuid=info.uuid,
        parent_uuid=info.parent_uuid,
        received_uuid=info.received_uuid,
        tree_id=info.tree_id,
        nested=tuple(sorted(os.fsdecode(path) for path in nested)),
    )


def _filesystem_id(path: str) -> str:
    """Return ``f_fsid`` as ``stat -f -c %i`` does: its first word first."""
    fsid = os.statvfs(path).f_fsid
    return f"{fsid & 0xFFFFFFFF:08x}{fsid >> 32:08x}"


def is_same_filesystem(one: str, other: str) -> bool:
    """Return whether two ``f_fsid`` are of one filesystem.

    btrfs derives the first word from the filesystem and the second one from the
    subvolume, too (``btrfs_statfs`` in the kernel). Some filesystems have none.
    """
    return one[:8] == other[:8] and one.strip("0") != ""


def has_twin(filesystem: str, mounted: str) -> bool:
    """Return whether a filesystem is mounted beside a clone of itself.

    The kernel, from 6.7 on, then gives the one that was mounted later a temporary UUID;
    its metadata has the one on its disk (``temp_fsid`` in the kernel).

    :param mounted: ``PATH:VALUE`` of both files in the directory of each filesystem.
    """
    files: dict[str, dict[str, str]] = {}
    for line in mounted.splitlines():
        path, _, value = line.partition(":")
        _, uuid, name = path.rsplit("/", 2)
        files.setdefault(uuid, {})[name] = value
    own = [
        found.get("metadata_uuid")
        for uuid, found in files.items()
        if first_word(uuid) == filesystem[:8]
    ]
    same = [found for found in files.values() if found.get("metadata_uuid") in own]
    return len(same) > 1 and any(found.get("temp_fsid") == "1" for found in same)


def first_word(uuid: str) -> str:
    """Return the first word of the ``f_fsid`` of a filesystem with a UUID."""
    digits = uuid.replace("-", "")
    return f"{int(digits[:8], 16) ^ int(digits[16:24], 16):08x}"


def _mounted_filesystems() -> str:
    """Return the lines that :func:`has_twin` reads, as ``hello`` does."""
    paths = [
        f"{FILESYSTEMS}/{uuid}/{name}"
        for name in ("metadata_uuid", "temp_fsid")
        for uuid in names_in(FILESYSTEMS)
        if "-" in uuid
    ]
    texts = ((path, read_text(path)) for path in paths)
    return "".join(f"{path}:{text}" for path, text in texts if text)


def _is_empty(descriptor: int) -> bool:
    """Return whether a directory has no entries.

    Its time of access stays: a new one would be a change of a source, each day.
    """
    with contextlib.suppress(PermissionError):  # only its owner and root may
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NOATIME)
    with os.scandir(descriptor) as entries:
        return next(entries, None) is None


def names_in(path: str) -> list[str]:
    """Return the names in a directory; none if it cannot be read."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def _containing(path: str) -> str:
    while path != "/" and not ioctl.is_subvolume(os.stat(path)):
        path = os.path.dirname(path)
    return path


def _destination_above(path: str) -> str:
    """Return the nearest directory, from a path upwards, with a record of sources."""
    while not os.path.lexists(f"{path}/{STATE}/{SOURCES}"):
        if path == "/":
            return ""
        path = os.path.dirname(path)
    return path


def _with_destination_above(facts: Facts, directory: str) -> Facts:
    """Return the facts with the destination around it, if it is in the same mount."""
    is_near = f"{directory}/".startswith(f"{facts.mount_point.rstrip('/')}/")
    return replace(facts, destination_above=directory if directory and is_near else "")


def _leftovers(directory: str) -> tuple[str, ...]:
    try:
        with entered(below(directory, f"{STATE}/{INCOMING}")) as descriptor:
            return tuple(sorted(os.listdir(descriptor)))
    except FileNotFoundError:
        return ()


def _existing(path: str) -> str:
    """Return the nearest ancestor that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return os.path.realpath(path)


def _is_stub(path: str) -> bool:
    """Return whether a path on btrfs is the stub of a subvolume.

    A snapshot has a stub in place of each subvolume that is nested in its source: an
    empty directory in which nothing can be made.
    """
    try:
        if os.lstat(path).st_ino != ioctl.STUB_INODE:
            return False
    except OSError:
        return False
    # The mounted top of a filesystem of another kind has the same inode.
    above = os.path.dirname(path.rstrip("/"))
    return is_same_filesystem(_filesystem_id(path), _filesystem_id(above or "/"))


def _folder_trouble(folder: str) -> str:
    """Return why a folder can have no snapshots, or "", also if it is missing."""
    if "//" in folder:
        try:
            with entered(folder, to_look=True):
                return ""
        except FileNotFoundError:
            return ""
        except NotOurs as error:
            return error.message
    while folder and not os.path.isdir(folder):
        if os.path.lexists(folder):
            return f"{os.path.basename(folder)} is not a directory"
        folder = folder.rpartition("/")[0]
    return ""


def read_text(path: str) -> str:
    """Return the text of a file; "" if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _ahead(clock: str, asked_at: float | None) -> float | None:
    """Return how far a clock is ahead of this one, within the time of a question."""
    if asked_at is None or not re.fullmatch(_SECONDS, clock):
        return None
    return int(clock) - asked_at


def _protocol(text: str) -> int:
    return int(text) if text.strip().isdigit() else 1


def _with_mount(facts: Facts, path: str, mounts: str) -> Facts:
    """Return the facts with the mount that a path lies in.

    :param mounts: as in ``/proc/self/mountinfo``, proc_pid_mountinfo(5).
    """
    found = parse_mounts(mounts)
    its_own = Mount("", "/", "", (), "", "", ())
    for mount in found:
        # the last one counts
        if _is_below(path, mount.point) and len(mount.point) >= len(its_own.point):
            its_own = mount
    facts = replace(
        facts,
        is_btrfs=its_own.kind == "btrfs",
        filesystem_type=its_own.kind,
        mount_point=its_own.point,
        mount_options=its_own.options,
        mount_root=its_own.root,
        inside=_joined(its_own.root, os.path.relpath(path, its_own.point)),
    )
    facts = replace(facts, mounts=_mounted_below(facts, path, found, its_own))
    if not facts.is_folder_mount:
        return facts
    for mount in found:
        whole = replace(facts, mount_options=mount.options, mount_root=mount.root)
        is_same = mount.device == its_own.device and not whole.is_folder_mount
        if is_same and _is_below(facts.inside, mount.root):
            there = _joined(mount.point, os.path.relpath(facts.inside, mount.root))
            facts = replace(facts, whole_path=there)
    return facts


def _mounted_below(
    facts: Facts, path: str, found: Sequence[Mount], its_own: Mount
) -> tuple[str, ...]:
    """Return where disks are mounted below a path.

    Not images of programs, nor what is a part of the directory itself (bind mounts).
    """
    points = {
        mount.point
        for mount in found
        if _is_below(mount.point, path)
        and mount.point != path
        and mount.source.startswith("/")
        and mount.kind not in _IMAGES
        and not (mount.device == its_own.device and _is_below(mount.root, facts.inside))
    }
    return tuple(sorted(points))


def _is_below(path: str, top: str) -> bool:
    """Return whether a path lies below another one, or is the same."""
    return f"{path}/".startswith(top.rstrip("/") + "/")


def _joined(top: str, below: str) -> str:
    return os.path.normpath(os.path.join(top, below))


def parse_facts(answer: Mapping[str, str], asked_at: float | None = None) -> Facts:
    """Return the facts in the answer of ``hello``, keys and values.

    :param asked_at: the clock here when it was asked.
    :raises ValueError: if it is not understood.
    """
    facts = Facts(
        privilege=Privilege(answer.get("privilege", "none")),
        btrfs_version=parse_version(answer.get("btrfs", "")),
        send_protocol=_protocol(answer.get("protocol", "")),
        is_directory="directory" in answer,
        exists="exists" in answer,
        codecs=frozenset(name for name in PROGRAMS if answer.get(name)),
        has_python=bool(answer.get("python")),
        clock_ahead_s=_ahead(answer.get("clock", ""), asked_at),
    )
    if not facts.is_directory:
        return facts
    numbers = answer["stat"].split(" ")
    magic, filesystem, block, blocks, unused, available = numbers[:6]
    _, root, *_ = numbers[6:12]
    folder = numbers[13] if len(numbers) > 13 else ""
    facts = _with_mount(facts, answer["where"], answer["mounts"])
    on_system_disk = is_same_filesystem(filesystem.zfill(16), root.zfill(16))
    facts = replace(
        facts,
        is_btrfs=magic == ioctl.SUPER_MAGIC,
        filesystem=filesystem.zfill(16),
        has_twin=has_twin(filesystem.zfill(16), answer.get("mounted", "")),
        on_system_disk=on_system_disk,
        is_empty=on_system_disk and bool(answer["empty"]),
        is_writable="writable" in answer and not facts.is_mounted_read_only,
        size_used=(int(blocks) - int(unused)) * int(block),
        size_free=int(available) * int(block),
        has_state="state" in answer,
        can_mount="mountable" in answer,
        has_stub="stub" in answer,
        containing=answer["containing"],
        folder_filesystem=folder.zfill(16) if folder else "",
        folder_trouble=answer.get("foldertrouble", ""),
        has_folder="hasfolder" in answer,
        leftovers=tuple(answer.get("leftovers", "").split()),
        trouble=answer.get("trouble", ""),
    )
    facts = _with_destination_above(facts, answer.get("destination_above", ""))
    if not answer.get("show"):
        return facts
    shown = parse_show(answer["show"])
    path = os.fsencode(answer.get("path", ""))
    nested, back = (
        os.fsencode(answer[key] + "\n") if answer.get(key) else b"" for key in _NESTED
    )
    return replace(
        facts,
        is_subvolume=True,
        is_sealed=shown.read_only,
        is_writable=facts.is_writable and not shown.read_only,
        uuid=shown.uuid,
        parent_uuid=shown.parent_uuid,
        received_uuid=shown.received_uuid,
        tree_id=shown.tree_id,
        nested=tuple(sorted(parse_nested(nested, back, path))),
    )
