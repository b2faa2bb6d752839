"""The draft of a configuration: what was found on a machine -> the text of the file."""

import re
from collections.abc import Sequence

from btrfs_backup_ng.core.toml import plain_name, write_key, write_text
from btrfs_backup_ng.core.value import Value, replace

#: Where disks are mounted that are not part of the machine.
_FOR_DISKS = re.compile(r"/(mnt|media|run/media|backups?)(/|$)")
#: Below these is nothing that lasts.
_FLEETING = re.compile(r"/(dev|proc|run|snap|sys|tmp|var/(lib/docker|tmp))(/|$)")
#: Of snapper, and of this program.
_SNAPSHOTS = re.compile(r"/\.(snapshots|btrfs-backup-ng)(/|$)")

KEEP, KEEP_AT = "24h 7d 4w", "7d 4w 12m 5y"
#: The target if no disk is found.
_EXAMPLE = "/mnt/usb"
#: Who hears of troubles.
_MAIL = (
    "[notify]  # what is wrong with runs, once a day, and when it is good again",
    'mail = "root"',
)
_NO_MAIL = (
    "# [notify]  # what is wrong with runs: this machine has no sendmail",
    '# mail = "me@example.org"',
    '# mail-host = "smtp.example.org"  # or: webhook, ping, command',
)


class Mounted(Value):
    """A subvolume that is mounted, or that /etc/fstab names.

    :ivar filesystem: its UUID, or "".
    :ivar label: of the filesystem, or "".
    """

    path: str
    filesystem: str = ""
    label: str = ""


class Draft(Value):
    """What the file is to say.

    :ivar volumes: paths of sources.
    :ivar target: the directory of the backups, or a place of another machine.
    :ivar filesystem: the UUID of the target's disk, or "".
    :ivar remarks: further findings, each a line.
    :ivar can_mail: a program of this machine sends mail.
    """

    volumes: tuple[str, ...]
    target: str = ""
    filesystem: str = ""
    is_optional: bool = True
    keep: str = KEEP
    keep_at: str = KEEP_AT
    remarks: tuple[str, ...] = ()
    can_mail: bool = False


def draft_of(
    found: Sequence[Mounted], remarks: Sequence[str] = (), *, can_mail: bool = False
) -> Draft:
    """Return the draft for a machine: all volumes go to the first of its disks."""
    lasting = [
        each
        for each in sorted(found, key=lambda each: each.path)
        if _FOR_DISKS.match(each.path) or not _FLEETING.match(each.path)
        if not _SNAPSHOTS.search(each.path)
    ]
    disks = [each for each in lasting if _FOR_DISKS.match(each.path)]
    volumes = tuple(each.path for each in lasting if each not in disks)
    draft = Draft(volumes, remarks=tuple(remarks), can_mail=can_mail)
    if not disks:
        return draft
    first, *others = disks
    also = [f"Another disk: {each.path} {each.label}".rstrip() for each in others]
    return replace(
        draft,
        target=first.path,
        filesystem=first.filesystem,
        remarks=(*remarks, *also),
    )


def names_of(paths: Sequence[str]) -> dict[str, str]:
    """Return the name of the volume of each path: ``root`` for ``/``."""
    names: dict[str, str] = {}
    for path in paths:
        names[path] = plain_name(path, names.values())
    return names


def write_draft(draft: Draft) -> str:
    """Return the text of the file."""
    names = names_of(draft.volumes)
    target = draft.target or _EXAMPLE
    lines = [
        '# Made by "btrfs-backup-ng config init". Edit it, then try:',
        "#   btrfs-backup-ng config check",
        "#   btrfs-backup-ng run --dry-run",
        "# A key is a long option of a backup without its dashes, and counts for all",
        "# volumes, for a target, for a volume, or for a volume at a target.",
        *(f"# {remark}" for remark in draft.remarks),
        "",
        f"keep = {write_text(draft.keep)}  # the snapshots that stay at each source",
        f"keep-at = {write_text(draft.keep_at)}  # the backups that stay at targets",
        "",
        "[targets.disk]",
    ]
    if not draft.target:
        lines.append("# No disk was found. Edit this line:")
    lines.append(f"place = {write_text(target.rstrip('/') + '/{volume}')}")
    if draft.filesystem:
        which = "only this disk, whatever is mounted there"
        lines.append(f"filesystem = {write_text(draft.filesystem)}  # {which}")
    optional = f"optional = {str(draft.is_optional).lower()}"
    lines.append(f"{optional}  # if it is away, that is fine")
    if draft.is_optional:
        lines.append(
            'max-age = "30d"  # but if no backup came for so long, that is told'
        )
    lines += [
        "",
        "# [targets.nas]",
        '# place = "ssh://backup@nas/srv/backup/{host}/{volume}"',
        '# compress = "auto"',
        "# retries = 5",
        "",
        *(_MAIL if draft.can_mail else _NO_MAIL),
        "",
    ]
    if not names:
        lines += ["# No subvolume was found. Edit this section:"]
        names = {"/home": "home"}
    for path, name in names.items():
        lines += [f"[volumes.{write_key(name)}]", f"source = {write_text(path)}"]
        lines += ['to = ["disk"]', "# only-if-changed = true", ""]
    return "\n".join(lines)
