"""The commands that replace an old subvolume by a restored one."""

import enum
import re
import shlex
from collections.abc import Callable, Sequence

from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.entry import STATE
from btrfs_backup_ng.host.mounts import Mount, parse_mounts, unescaped

#: Subvolume id of the top level of every btrfs.
_TOP = 5
#: The directory under which the commands mount the top level.
_TOP_DIRECTORY = '"$top"'


class Around(Value):
    """The facts about the machine of a restored subvolume.

    :ivar new: path of the restored subvolume, without symbolic links.
    :ivar old: path that it will get, without symbolic links.
    :ivar old_exists: the old path exists.
    :ivar mounts: content of ``/proc/self/mountinfo``.
    :ivar kernel: the command line of the kernel.
    :ivar fstab: content of ``/etc/fstab``.
    :ivar old_is_subvolume: the old path is a subvolume.
    :ivar nested: the subvolumes directly in it, relative to it, without its state
        directory and the restored one.
    :ivar has_state: it has a state directory that is a subvolume.
    :ivar default: id of the default subvolume on the filesystem of ``old``; 0 if it is
        not known.
    """

    new: str
    old: str
    old_exists: bool
    mounts: str
    kernel: str = ""
    fstab: str = ""
    default: int = 0
    old_is_subvolume: bool = False
    nested: tuple[str, ...] = ()
    has_state: bool = False


class SwapMethod(enum.Enum):
    """The method that moves a restored subvolume to its final path."""

    RENAME = "rename"
    TOP_LEVEL = "rename in the top level"
    DEFAULT = "default subvolume"
    MOUNT = "mount"


class Swap(Value):
    """Commands for a root shell, one a line; after a failure, no other may run.

    :ivar notes: for the user: steps that no command does.
    :ivar removal: the commands that delete the old one, some day; empty if it stays
        where it is.
    """

    way: SwapMethod
    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()
    removal: tuple[str, ...] = ()


def parse_default(text: str) -> int:
    """Parse ``btrfs subvolume get-default``: ``ID 256 gen 9 ...``; 0 for other text."""
    match = re.match(r"ID (\d+)", text)
    return int(match[1]) if match else 0


def plan_swap(around: Around, stamp: str) -> Swap:
    """Choose the commands that replace the old subvolume by the restored one.

    The old one is renamed or unmounted, never deleted.

    :param stamp: added to the name of the old one, to make a new name.
    :raises ValueError: if a path is on none of the mounts.
    """
    mounts = parse_mounts(around.mounts)
    new_mount = _mount_of(around.new, mounts)
    old_mount = _mount_of(around.old, mounts)
    is_point = old_mount.point == around.old
    aside = f"{around.old}.before-{stamp}"
    same = old_mount.device == new_mount.device
    if not is_point and new_mount == old_mount:
        return _renamed(around, aside)
    if is_point and same and _is_default(around, old_mount):
        return _by_default(around, old_mount, new_mount)
    old_path = _in_top(around.old, old_mount)
    if same and old_path != "/":
        return _in_top_level(around, old_mount, is_point, stamp, new_mount)
    return _mounted(around, old_mount if is_point else None, new_mount, aside)


def _renamed(around: Around, aside: str) -> Swap:
    new, old = around.new, around.old
    if not around.old_exists:
        return Swap(SwapMethod.RENAME, (_line("mv", "--", new, old),))
    moved = _after_move(new, old, aside)
    lines = [_line("mv", "--", old, aside), _line("mv", "--", moved, old)]
    lines += _moves(around, aside, old, shlex.quote)
    notes = (f"The old contents are kept in {aside}.",)
    removal = _removal(around, aside, shlex.quote)
    return Swap(SwapMethod.RENAME, tuple(lines), notes, tuple(removal))


def _moves(
    around: Around, before: str, after: str, quoted: Callable[[str], str]
) -> list[str]:
    """Return the commands that move the nested subvolumes of the old one.

    One that cannot be moved is named, and the others are moved.
    """
    lines = []
    for path in around.nested:
        old, new = f"{before}/{path}", f"{after}/{path}"
        stays = shlex.quote(f"{path} is still in {before}")
        move = f"mv -T -- {quoted(old)} {quoted(new)}"
        lines.append(f"{move} || echo {stays} >&2")
    return lines


def _move_later(around: Around, before: str, after: str, mount: Mount) -> list[str]:
    """Return notes with the commands that move them once nothing uses them."""
    if not around.nested:
        return []
    top = _line("mount", "-o", f"subvolid={_TOP}", mount.source, "/mnt")
    notes = [f"Subvolumes that were in it are still in the old one. Later:  {top}"]
    for path in around.nested:
        old, new = f"/mnt{before}/{path}", f"/mnt{after}/{path}"
        notes.append(f"  {_line('mv', '-T', '--', old, new)}")
    return notes


def _removal(around: Around, path: str, quoted: Callable[[str], str]) -> list[str]:
    """Return the command that deletes the old one, with the snapshots in it."""
    if not around.old_is_subvolume:
        return [f"rm -r -- {quoted(path)}"]
    state = f"{quoted(f'{path}/{STATE}')}"
    inside = f"{state}/snapshots/* {state} " if around.has_state else ""
    return [f"btrfs subvolume delete -- {inside}{quoted(path)}"]


def _with_top(mount: Mount, lines: Sequence[str]) -> list[str]:
    """Return commands that see the top level of the filesystem in ``$top``.

    It is mounted until the end, also after a failure. So a device that goes with its
    last mount, like that of ``mount -o loop``, stays while a subvolume is exchanged.
    """
    return [
        "top=$(mktemp -d)",
        _line("mount", "-o", f"subvolid={_TOP}", mount.source) + f" {_TOP_DIRECTORY}",
        f"trap 'umount {_TOP_DIRECTORY}; rmdir {_TOP_DIRECTORY}' EXIT",
        *lines,
    ]


def _by_default(around: Around, mount: Mount, new_mount: Mount) -> Swap:
    lines = [_line("btrfs", "subvolume", "set-default", around.new)]
    old, new = _in_top(around.old, mount), _in_top(around.new, new_mount)
    removal = _with_top(mount, _removal(around, old, _top)) if old != "/" else []
    before = "" if old == "/" else old
    if around.old == "/":
        notes = ["The machine uses it from its next start on:  reboot"]
        notes += _move_later(around, before, new, mount)
        return Swap(SwapMethod.DEFAULT, tuple(lines), tuple(notes), tuple(removal))
    options = ",".join(_options(mount))
    lines += [_line("umount", around.old)]
    lines += _moves(around, before, new, _top)
    lines += [_line("mount", "-o", options, mount.source, around.old)]
    lines = _with_top(mount, lines)
    return Swap(SwapMethod.DEFAULT, tuple(lines), (), tuple(removal))


def _in_top_level(
    around: Around, mount: Mount, is_point: bool, stamp: str, new_mount: Mount
) -> Swap:
    """Mount the top level, rename in it, and mount the new subvolume."""
    old = _in_top(around.old, mount)
    aside = f"{old}.before-{stamp}"
    new = _in_top(around.new, new_mount)
    notes, removal = [], []
    is_running = is_point and around.old == "/"
    lines = [_line("umount", around.old)] if is_point and not is_running else []
    if around.old_exists:
        lines += [f"mv -- {_top(old)} {_top(aside)}"]
        new = _after_move(new, old, aside)
        notes += [f"The old contents are kept as subvolume {aside} of the top level."]
        removal = _with_top(mount, _removal(around, aside, _top))
    lines += [f"mv -- {_top(new)} {_top(old)}"]
    if not is_running:
        lines += _moves(around, aside, old, _top)
    if is_running:
        notes += ["The machine uses it from its next start on:  reboot"]
        notes += _move_later(around, aside, old, mount)
    elif is_point:
        options = ",".join([*_options(mount), f"subvol={old}"])
        lines += [_line("mount", "-o", options, mount.source, around.old)]
    if is_point and "subvolid=" in _fstab_options(around):
        notes += ["/etc/fstab names it by subvolid=, which is different now."]
    lines = _with_top(mount, lines)
    how = SwapMethod.TOP_LEVEL
    return Swap(how, tuple(lines), tuple(notes), tuple(removal))


def _mounted(
    around: Around, old_mount: Mount | None, new_mount: Mount, aside: str
) -> Swap:
    """Mount the new subvolume at the old path: the old one cannot be renamed.

    It is the top level, or on another filesystem.
    """
    subvolume, source = _in_top(around.new, new_mount), new_mount.source
    inside = around.nested
    notes = [f"For every start: the line of {around.old} in /etc/fstab needs"]
    notes[0] += f" the device {source} and subvol={subvolume}."
    lines, removal = [], []
    options = _options(old_mount if old_mount else new_mount)
    if old_mount and old_mount.kind != "btrfs":
        options = _options(new_mount)
    if old_mount and around.old == "/":
        notes += ["Let the machine start with it; then:  reboot"]
        notes += [f"Still in the old one, a subvolume: {path}" for path in inside]
        return Swap(SwapMethod.MOUNT, (), tuple(notes))
    if old_mount:
        lines += [_line("umount", around.old)]
    else:
        if around.old_exists:
            lines += [_line("mv", "--", around.old, aside)]
            notes += [f"The old contents are kept in {aside}."]
            removal = _removal(around, aside, shlex.quote)
        lines += [_line("mkdir", "--", around.old)]
    words = ",".join([*options, f"subvol={subvolume}"])
    lines += [_line("mount", "-o", words, source, around.old)]
    if inside:
        notes += ["Subvolumes that were in it are not in this one; to copy them:"]
    for path in inside:
        if old_mount:
            below = _in_top(f"{around.old}/{path}", old_mount)
            where = _line("mount", "-o", f"subvol={below}", old_mount.source, "/mnt")
            copy = _line("cp", "-a", "--", "/mnt", f"{around.old}/{path}")
            notes += [f"  {where} && {copy} && umount /mnt"]
        else:
            copy = _line("cp", "-a", "--", f"{aside}/{path}", f"{around.old}/{path}")
            notes += [f"  {copy}"]
    return Swap(SwapMethod.MOUNT, tuple(lines), tuple(notes), tuple(removal))


def _line(*words: str) -> str:
    return shlex.join(words)


def _top(path: str) -> str:
    return _TOP_DIRECTORY + shlex.quote(path)


def _after_move(path: str, old: str, aside: str) -> str:
    """Return a path after the old directory, which may contain it, was renamed."""
    return aside + path[len(old) :] if path.startswith(f"{old}/") else path


def _in_top(path: str, mount: Mount) -> str:
    """Return a path relative to the top level of its filesystem."""
    below = path[len(mount.point.rstrip("/")) :]
    return "/" + f"{mount.root.rstrip('/')}{below}".strip("/")


def _options(mount: Mount) -> list[str]:
    """Return the options to mount another subvolume in the same way."""
    own = mount.own_options
    options = [*own, *(o for o in mount.common_options if o not in ("rw", "ro", *own))]
    return [o for o in options if not o.startswith(("subvol=", "subvolid="))]


def _is_default(around: Around, mount: Mount) -> bool:
    """Return whether the default subvolume is mounted there, as no option names one."""
    if f"subvolid={around.default}" not in mount.options:
        return False
    asked = _fstab_options(around)
    if around.old == "/":
        asked += " ".join(
            word for word in around.kernel.split() if word.startswith("rootflags=")
        )
    return "subvol=" not in asked and "subvolid=" not in asked


def _fstab_options(around: Around) -> str:
    """Return the mount options of the old path in fstab(5)."""
    for line in around.fstab.splitlines():
        fields = line.split()
        if len(fields) >= 4 and not fields[0].startswith("#"):
            if unescaped(fields[1]) == around.old:
                return fields[3]
    return ""


def _mount_of(path: str, mounts: Sequence[Mount]) -> Mount:
    """Return the mount of a path; of several at one point, the last one."""
    found = None
    for mount in mounts:
        below = mount.point.rstrip("/") + "/"
        if f"{path}/".startswith(below):
            if found is None or len(mount.point) >= len(found.point):
                found = mount
    if found is None:
        raise ValueError(f"{path} is on no mount")
    return found
