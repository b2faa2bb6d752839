"""The conditions under which a configured volume or target takes part in a run."""

import re
from datetime import timedelta
from typing import ClassVar
from uuid import UUID

from btrfs_backup_ng.__util__ import format_size, parse_size, parse_span, visible
from btrfs_backup_ng.core.configuration import (
    LEVELS,
    ConfigKey,
    Scope,
    Settings,
    chosen,
)
from btrfs_backup_ng.core.model import Facts
from btrfs_backup_ng.core.value import Value

_VOLUME, _TARGET, _PAIR = Scope.VOLUME, Scope.TARGET, Scope.PAIR


class Conditions(Value):
    """When a source, or a target, takes part in a run.

    :ivar optional: if it is away, that is fine.
    :ivar when_reachable: if its host does not answer, that is fine.
    :ivar filesystem: UUID of the only filesystem that it may be on.
    :ivar require_mount: where something must be mounted; "" for nowhere.
    :ivar min_free: least free space, in bytes.
    :ivar only_on_ac: not while this machine runs on its battery.
    :ivar only_if_changed: no new snapshot of a source that did not change.
    """

    #: The key of each field.
    NAMES: ClassVar = (
        "optional",
        "when-reachable",
        "filesystem",
        "require-mount",
        "min-free",
        "only-on-ac",
        "only-if-changed",
    )

    optional: bool = False
    when_reachable: bool = False
    filesystem: UUID | None = None
    require_mount: str = ""
    min_free: int | None = None
    only_on_ac: bool = False
    only_if_changed: bool = False


def read_conditions(*levels: Settings) -> Conditions:
    """Return the conditions of settings, the most general ones first."""
    found = merge_conditions(*levels)
    return Conditions(
        **{name.replace("-", "_"): each.value for name, each in found.items()}
    )


def merge_conditions(*levels: Settings) -> Settings:
    """Return the settings that are conditions; of two, the more special one counts."""
    return chosen(Conditions.NAMES, levels)


def _uuid(text: str) -> UUID:
    if not re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise ValueError(
            f"'{visible(text)}' is not the UUID of a filesystem; findmnt -no UUID PATH"
            " prints it"
        )
    return UUID(text)


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"'{visible(text)}' is not an absolute path")
    return "/" + text.strip("/")


#: The keys of :class:`Conditions`.
CONDITION_KEYS = (
    ConfigKey("optional", frozenset({_VOLUME, _TARGET, _PAIR}), bool, is_flag=True),
    ConfigKey("when-reachable", frozenset({_TARGET, _PAIR}), bool, is_flag=True),
    ConfigKey("filesystem", frozenset({_TARGET, _PAIR}), _uuid),
    ConfigKey("require-mount", frozenset({_VOLUME, _TARGET, _PAIR}), _path),
    ConfigKey("min-free", frozenset({_VOLUME, _TARGET, _PAIR}), parse_size),
    ConfigKey("only-on-ac", frozenset({Scope.TOP, _VOLUME}), bool, is_flag=True),
    ConfigKey("only-if-changed", frozenset({Scope.TOP, _VOLUME}), bool, is_flag=True),
)


#: No condition of a run: the highest age of the newest backup of a volume at a target.
MAX_AGE_KEY = ConfigKey("max-age", frozenset(LEVELS), parse_span)


def read_max_age(*levels: Settings) -> timedelta | None:
    """Return the highest age that settings allow, the most general ones first."""
    setting = chosen([MAX_AGE_KEY.name], levels).get(MAX_AGE_KEY.name)
    return setting.value if setting else None


def is_away(facts: Facts) -> bool:
    """Return whether a directory is missing, or only the mount point of its disk."""
    return not facts.is_directory or facts.is_bare_mount_point


def find_obstacle(conditions: Conditions, facts: Facts) -> str:
    """Return why a place must not be used, or "": for the end of a message."""
    point, wanted = facts.mount_point.rstrip("/"), conditions.require_mount.rstrip("/")
    if wanted and not f"{point}/".startswith(f"{wanted}/"):
        return f"nothing is mounted at {visible(conditions.require_mount)}"
    if conditions.filesystem and not is_on(conditions.filesystem, facts):
        return f"it is not on the filesystem {conditions.filesystem}"
    return ""


def is_on(filesystem: UUID, facts: Facts) -> bool:
    """Return whether a directory is on a btrfs filesystem.

    btrfs makes the first word of ``f_fsid`` of two words of the filesystem's UUID
    (``btrfs_statfs`` in the kernel). That is all that is known of one on
    another machine.
    """
    if not facts.is_btrfs:
        return False
    words = [filesystem.bytes[at : at + 4] for at in (0, 8)]
    first, third = (int.from_bytes(word, "big") for word in words)
    return facts.filesystem[:8] == f"{first ^ third:08x}"


def find_lack(conditions: Conditions, facts: Facts) -> str:
    """Return that a place has too little free space, or "": the end of a message."""
    if conditions.min_free is None or facts.size_free >= conditions.min_free:
        return ""
    free, wanted = format_size(facts.size_free), format_size(conditions.min_free)
    return f"{free} are free, and min-free asks for {wanted}"
