"""The core values that every floor above speaks in."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from btrfs_backup_ng.__util__ import GIB
from btrfs_backup_ng.core.document import Aged, Named
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.policy import Policy

#: How long nothing may move in a transfer, and how long a place may say nothing, if
#: nothing else is wished: seconds.
STALL_TIMEOUT_S = 300.0


class Integrity(enum.Enum):
    """Whether a snapshot still is what it was when it became read-only."""

    INTACT = "intact"
    CHANGED = "changed"
    UNKNOWN = "unknown"
    """Only a close look at this one can tell."""


class Role(enum.Enum):
    """How a snapshot came to its place: made there, or received."""

    SNAPSHOT = "snapshot"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A read-only snapshot as seen at one endpoint.

    :ivar created: aware UTC: the time in its name, or for a name that is not ours
        btrfs ``otime``; ``None`` where neither is known (other machines).
    :ivar generation: transaction in which it was made, on its own filesystem.
    :ivar tree_id: its id on its own filesystem.
    :ivar otime: aware UTC: when its filesystem made it; ``None`` where that is not
        known (other machines, before they are asked).
    """

    name: str
    created: datetime | None
    uuid: UUID
    parent_uuid: UUID | None
    received_uuid: UUID | None
    generation: int
    integrity: Integrity = Integrity.INTACT
    tree_id: int = 0
    otime: datetime | None = None

    @property
    def origin(self) -> UUID:
        """Identity that survives hops and renames: what ``btrfs send`` sends."""
        return self.received_uuid or self.uuid


@dataclass(frozen=True, slots=True)
class Listing:
    """What one look at a place saw.

    :ivar snapshots: the read-only ones, in no particular order.
    :ivar names: every name that is taken there, by whatever.
    :ivar carriers: received UUID -> ids of all subvolumes of the whole filesystem
        that carry it; ``btrfs receive`` takes any of them as parent.
    """

    snapshots: tuple[Snapshot, ...] = ()
    names: frozenset[str] = frozenset()
    carriers: Mapping[UUID, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transfer that was cut short and may go on.

    :ivar name: of the snapshot; what is beyond some 200 bytes may be missing.
    :ivar started: aware UTC.
    :ivar size_bytes: of its stream that is safe there, 0 for nothing.
    :ivar running: somebody works on it.
    """

    transfer_id: Annotated[str, Named("id")]
    name: str
    started: Aged[datetime]
    size_bytes: int
    running: bool


class Privilege(enum.Enum):
    """How btrfs is run at a place."""

    ROOT = "root"
    SUDO = "sudo"
    DOAS = "doas"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a first look at a directory and its host found; nothing was changed.

    Sizes in bytes. Fields after ``is_directory`` mean something only if it is.

    :ivar filesystem: identifies filesystem and subvolume (``f_fsid``).
    :ivar send_protocol: highest send stream version of that kernel.
    :ivar containing: the path of the subvolume it lies in.
    :ivar uuid: of the subvolume at this very path, if it is one.
    :ivar parent_uuid: of what that subvolume was made of.
    :ivar folder_filesystem: the same of the folder for its snapshots.
    :ivar nested: subvolumes directly below it, relative to it.
    :ivar has_state: our bookkeeping is there already, and we may write there.
    :ivar has_folder: the folder for its snapshots is there already.
    :ivar trouble: why our bookkeeping there must not be used, or "": a part of it (the
        first word) is a link, or belongs to another user.
    :ivar leftovers: names in its staging directory.
    :ivar mount_point: where the filesystem is mounted that it lies in.
    :ivar mount_options: of that mount and its filesystem, as in mountinfo.
    :ivar codecs: names of the stream compressors installed there.
    :ivar has_python: at a source: there is a Python, so checkpoints can be made there.
    :ivar clock_ahead_s: of the clock there, compared with the one here; ``None`` where
        both are the same, or it is not known.
    """

    privilege: Privilege
    btrfs_version: tuple[int, int] | None
    send_protocol: int
    is_directory: bool
    exists: bool = False
    is_btrfs: bool = False
    filesystem_type: str = ""
    filesystem: str = ""
    on_system_disk: bool = False
    is_empty: bool = False
    is_writable: bool = False
    mount_point: str = ""
    mount_options: tuple[str, ...] = ()
    size_used: int = 0
    size_free: int = 0
    containing: str = ""
    is_subvolume: bool = False
    uuid: UUID | None = None
    received_uuid: UUID | None = None
    folder_filesystem: str = ""
    nested: tuple[str, ...] = ()
    has_state: bool = False
    has_folder: bool = False
    trouble: str = ""
    leftovers: tuple[str, ...] = ()
    codecs: frozenset[str] = frozenset()
    has_python: bool = False
    parent_uuid: UUID | None = None
    clock_ahead_s: float | None = None

    @property
    def is_mounted_read_only(self) -> bool:
        """Whether even root cannot write there."""
        return "ro" in self.mount_options

    @property
    def is_compressed(self) -> bool:
        """Whether new data is compressed there: mount options of btrfs(5)."""
        options = [option.partition("=") for option in self.mount_options]
        return any(
            name.startswith("compress") and value not in ("no", "none")
            for name, _, value in options
        )


class Checks(enum.Enum):
    """How doubts about a filesystem are taken (``--fs-checks``)."""

    AUTO = "auto"
    STRICT = "strict"
    SKIP = "skip"


class Incremental(enum.Enum):
    """Whether a transfer may be full or must be."""

    AUTO = "auto"
    REQUIRED = "required"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class SshOptions:
    """How places are reached, most of it for ssh.

    :ivar options: ``KEY=VALUE`` as for ``ssh -o``; they win over ours.
    :ivar auth_sock: socket of the agent; "" for ``SSH_AUTH_SOCK``.
    :ivar strict_host_keys: refuse hosts whose key is not known yet.
    :ivar password_file: path of the file with the password or passphrase for logins.
    :ivar sudo_password_file: path of the file with the password that sudo wants there.
    :ivar reopenings: how often a lost connection is opened again; ``None``: always.
    :ivar silence_s: how long a place, also one of this machine, may say nothing when it
        is asked something; 0 for no limit.
    """

    options: tuple[str, ...] = ()
    sudo: bool = False
    identity_file: str = ""
    username: str = ""
    password_login: bool = True
    auth_sock: str = ""
    strict_host_keys: bool = False
    password_file: str = ""
    sudo_password_file: str = ""
    reopenings: int | None = 1
    silence_s: float = STALL_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """How data is moved.

    :ivar rate: bytes a second, ``None`` for no limit.
    :ivar mbuffer: ``None`` decides by what is installed and where it helps.
    :ivar compress: on the wire, a word of ``codecs``.
    :ivar checkpoint_interval: bytes between two checkpoints, 0 for none.
    :ivar retries: how often a cut transfer is taken up again within the run.
    :ivar staging_max_age: how long what a cut transfer left is kept.
    :ivar max_size: bytes that a stream may have, ``None`` for no limit.
    """

    incremental: Incremental = Incremental.AUTO
    mbuffer: bool | None = None
    compress: str = "none"
    rate: int | None = None
    stall_timeout_s: float = STALL_TIMEOUT_S
    verify: bool = True
    check_space: bool = True
    safety_margin_percent: float = 10.0
    force: bool = False
    checkpoint_interval: int = GIB
    retries: int = 0
    staging_max_age: timedelta = timedelta(days=14)
    max_size: int | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where backups go, and how.

    :ivar keep: which backups stay there, ``None`` for all.
    """

    location: Location
    keep: Policy | None = None
    checks: Checks = Checks.AUTO
    ssh: SshOptions = field(default_factory=SshOptions)
    options: TransferOptions = field(default_factory=TransferOptions)


@dataclass(frozen=True, slots=True)
class Job:
    """One task, as both front doors produce it.

    :ivar recorded: how backups go to all other destinations that are on record at the
        source, if these are asked for; its location means nothing.
    :ivar snapshot_folder: absolute, or relative to the source.
    :ivar keep_source: which snapshots stay, ``None`` for all.
    :ivar ssh: how the source is reached.
    """

    source: Location
    destinations: tuple[Destination, ...]
    naming: Naming
    snapshot_folder: str
    recorded: Destination | None = None
    keep_source: Policy | None = None
    take_snapshot: bool = True
    transfer: bool = True
    sync: bool = False
    convert_rw: bool = False
    remove_locks: bool = False
    wait_s: float = 0.0
    dry_run: bool = False
    ssh: SshOptions = field(default_factory=SshOptions)

    @property
    def places(self) -> tuple[Location, ...]:
        """Return the source and the destinations that are named."""
        return (self.source, *(one.location for one in self.destinations))


class Result(enum.Enum):
    """How a check went; a check that could not be made is no good one."""

    GOOD = "good"
    BAD = "bad"
    UNCHECKED = "unchecked"
