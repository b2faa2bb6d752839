"""The values that all folders share: snapshots, listings, facts, jobs."""

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from btrfs_backup_ng.__util__ import GIB
from btrfs_backup_ng.core.document import Aged, Named
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.policy import Policy
from btrfs_backup_ng.core.value import EMPTY, Value

#: Default limit, in seconds, on the time without progress in a transfer, and on the
#: silence of a host after a question.
STALL_TIMEOUT_S = 300.0


class Integrity(enum.Enum):
    """Whether a snapshot still is unchanged since it became read-only."""

    INTACT = "intact"
    CHANGED = "changed"
    UNKNOWN = "unknown"  # until a close look at this one


class Role(enum.Enum):
    """Whether a snapshot was made at its place, or received."""

    SNAPSHOT = "snapshot"
    BACKUP = "backup"


class Snapshot(Value):
    """A read-only snapshot as seen at one endpoint.

    :ivar created: aware UTC: the time in its name, else btrfs ``otime``; None if
        neither is known (other machines).
    :ivar generation: transaction in which it was made, on its own filesystem.
    :ivar tree_id: its id on its own filesystem.
    :ivar otime: aware UTC: creation time on its filesystem; None if not known (other
        machines, before they are asked).
    :ivar changed: transaction of its last change; 0 if not known (other machines).
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
    changed: int = 0

    def __eq__(self, other: object) -> bool:
        """Return whether all fields but ``changed`` are equal."""
        if not isinstance(other, Snapshot):
            return NotImplemented
        return vars(self) | {"changed": 0} == vars(other) | {"changed": 0}

    def __hash__(self) -> int:
        return hash((self.name, self.uuid, self.generation))

    @property
    def origin(self) -> UUID:
        """Return the identity that survives hops and renames: the UUID that is sent."""
        return self.received_uuid or self.uuid


class Listing(Value):
    """The contents of a place at one moment.

    :ivar snapshots: the read-only ones, in no particular order.
    :ivar names: every name in use.
    :ivar carriers: received UUID -> ids of all subvolumes of the filesystem that
        carry it; ``btrfs receive`` takes any of them as parent.
    """

    snapshots: tuple[Snapshot, ...] = ()
    names: frozenset[str] = frozenset()
    carriers: Mapping[UUID, tuple[int, ...]] = EMPTY


class Waiting(Value):
    """An interrupted transfer that may be resumed.

    :ivar name: of the snapshot, truncated after some 200 bytes.
    :ivar started: aware UTC.
    :ivar size_bytes: of its stream, saved by checkpoints.
    :ivar running: a process is working on it.
    """

    transfer_id: Annotated[str, Named("id")]
    name: str
    started: Aged[datetime]
    size_bytes: int
    running: bool


class Privilege(enum.Enum):
    ROOT = "root"
    SUDO = "sudo"
    DOAS = "doas"
    NONE = "none"


class Facts(Value):
    """The state of a directory and its host before anything is changed.

    Sizes in bytes. Fields after ``is_directory`` mean something only if it is.

    :ivar filesystem: identifies filesystem and subvolume (``f_fsid``).
    :ivar has_twin: another filesystem with the same id on its disk is mounted there,
        too (a clone); the kernel gives one of both another ``filesystem`` then, a new
        one with each mount.
    :ivar send_protocol: highest send stream version of that kernel.
    :ivar is_empty: it has no entries; looked at on the system disk only.
    :ivar containing: path of the subvolume that contains it.
    :ivar uuid: of the subvolume at this very path, if it is one.
    :ivar parent_uuid: of the subvolume it is a snapshot of.
    :ivar folder_filesystem: ``filesystem`` of the folder for its snapshots.
    :ivar folder_trouble: why that folder cannot have snapshots, or "": a part of it
        (the first word) is a link or not a directory.
    :ivar nested: subvolumes directly below it, relative to it.
    :ivar is_sealed: it is a subvolume with the property of being read-only.
    :ivar has_state: the state directory exists, and is writable.
    :ivar has_stub: a snapshot's stub of a subvolume is in the place of the state
        directory: the subvolume came out of a rollback, or is a clone.
    :ivar has_folder: the folder for its snapshots exists.
    :ivar trouble: why the state directory must not be used, or "": a part of it (the
        first word) is a link, or belongs to another user.
    :ivar leftovers: names in its staging directory.
    :ivar destination_above: the nearest directory, from it upwards in its mount, that
        is on record as a destination; "" if none is.
    :ivar mount_point: of the filesystem that contains it.
    :ivar mounts: where other disks, or other subvolumes, are mounted below it.
    :ivar mount_options: of that mount and its filesystem, as in mountinfo.
    :ivar mount_root: the part of the filesystem that is mounted, ``/`` for all.
    :ivar inside: its own path from the top of the filesystem.
    :ivar whole_path: its path in a mount of a whole subvolume, if that path exists and
        differs from its own.
    :ivar can_mount: where a part is mounted: all of the filesystem can be mounted for
        one process.
    :ivar codecs: names of the stream compressors installed.
    :ivar has_python: at a source: Python is installed, so checkpoints are possible.
    :ivar clock_ahead_s: of the host's clock, compared with the one here; None if both
        are the same, or it is not known.
    :ivar tree_id: of the subvolume at this very path, on its filesystem; else 0.
    """

    privilege: Privilege
    btrfs_version: tuple[int, int] | None
    send_protocol: int
    is_directory: bool
    exists: bool = False
    is_btrfs: bool = False
    filesystem_type: str = ""
    filesystem: str = ""
    has_twin: bool = False
    on_system_disk: bool = False
    is_empty: bool = False
    is_writable: bool = False
    mount_point: str = ""
    mounts: tuple[str, ...] = ()
    mount_options: tuple[str, ...] = ()
    mount_root: str = "/"
    inside: str = ""
    whole_path: str = ""
    can_mount: bool = False
    size_used: int = 0
    size_free: int = 0
    containing: str = ""
    is_subvolume: bool = False
    uuid: UUID | None = None
    received_uuid: UUID | None = None
    folder_filesystem: str = ""
    folder_trouble: str = ""
    nested: tuple[str, ...] = ()
    is_sealed: bool = False
    has_state: bool = False
    has_stub: bool = False
    has_folder: bool = False
    trouble: str = ""
    leftovers: tuple[str, ...] = ()
    destination_above: str = ""
    codecs: frozenset[str] = frozenset()
    has_python: bool = False
    parent_uuid: UUID | None = None
    clock_ahead_s: float | None = None
    tree_id: int = 0

    @property
    def is_bare_mount_point(self) -> bool:
        """Whether it is an empty directory on the system disk: its disk may be away."""
        return self.on_system_disk and self.is_empty

    @property
    def is_mounted_read_only(self) -> bool:
        """Whether even root cannot write to it."""
        return "ro" in self.mount_options

    @property
    def is_folder_mount(self) -> bool:
        """Whether a folder is mounted, not a subvolume (``mount --bind``)."""
        options = [option.partition("=") for option in self.mount_options]
        roots = [root for name, _, root in options if name == "subvol"]
        return bool(roots) and self.mount_root not in roots

    @property
    def is_compressed(self) -> bool:
        """Whether new data is compressed: mount options of btrfs(5)."""
        options = [option.partition("=") for option in self.mount_options]
        return any(
            name.startswith("compress") and value not in ("no", "none")
            for name, _, value in options
        )


class Checks(enum.Enum):
    """How strictly a filesystem is checked (``--fs-checks``)."""

    AUTO = "auto"
    STRICT = "strict"
    SKIP = "skip"


class Incremental(enum.Enum):
    """Whether a transfer may be full or must be."""

    AUTO = "auto"
    REQUIRED = "required"
    NEVER = "never"


class SshOptions(Value):
    """How places are reached, most of it for ssh.

    :ivar options: ``KEY=VALUE`` as for ``ssh -o``; they override the program's.
    :ivar may_ask: ssh may ask for a password or passphrase at the terminal.
    :ivar auth_sock: socket of the agent; "" for ``SSH_AUTH_SOCK``.
    :ivar strict_host_keys: refuse hosts whose key is not known yet.
    :ivar password_file: path of the file with the password or passphrase for logins.
    :ivar sudo_password_file: path of the file with the password for sudo on the host.
    :ivar reopenings: how often a lost connection is reopened; None for no limit.
    :ivar silence_s: limit on the silence of a host, this one included, after a
        question; 0 for no limit.
    """

    options: tuple[str, ...] = ()
    sudo: bool = False
    identity_file: str = ""
    username: str = ""
    password_login: bool = True
    may_ask: bool = True
    auth_sock: str = ""
    strict_host_keys: bool = False
    password_file: str = ""
    sudo_password_file: str = ""
    reopenings: int | None = 1
    silence_s: float = STALL_TIMEOUT_S


class TransferOptions(Value):
    """How data is moved.

    :ivar rate: bytes a second, None for no limit.
    :ivar mbuffer: None: use it if it is installed and helps.
    :ivar compress: on the wire; a codec of ``codecs``.
    :ivar checkpoint_interval: bytes between two checkpoints, 0 for none.
    :ivar retries: how often an interrupted transfer is retried within the run.
    :ivar staging_max_age: how long an interrupted transfer is kept.
    :ivar backfill: also send the snapshots missing between the backups of the
        destination.
    :ivar max_size: bytes that a stream may have, None for no limit.
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
    backfill: bool = False


class Destination(Value):
    """Where backups go, and how.

    :ivar keep: policy for its backups, None to keep all.
    """

    location: Location
    keep: Policy | None = None
    checks: Checks = Checks.AUTO
    ssh: SshOptions = SshOptions()
    options: TransferOptions = TransferOptions()


class Job(Value):
    """One task of the command line.

    :ivar recorded: how backups go to all other destinations on record at the source,
        if these are asked for; its location means nothing.
    :ivar snapshot_folder: absolute, or relative to the source.
    :ivar keep_source: policy for its snapshots, None to keep all.
    :ivar force: the source may be a place that keeps backups.
    :ivar prune: delete what the policies do not keep.
    :ivar fan_out: one read of a snapshot serves several destinations.
    :ivar disk: with ``remove_locks``: whose, if several were at one place.
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
    prune: bool = True
    fan_out: bool = True
    sync: bool = False
    convert_rw: bool = False
    remove_locks: bool = False
    disk: str = ""
    wait_s: float = 0.0
    dry_run: bool = False
    force: bool = False
    ssh: SshOptions = SshOptions()

    @property
    def places(self) -> tuple[Location, ...]:
        """Return the source and the destinations that are named."""
        return (self.source, *(one.location for one in self.destinations))


class Result(enum.Enum):
    """How a check went. A check that could not be made is UNCHECKED, never GOOD."""

    GOOD = "good"
    BAD = "bad"
    UNCHECKED = "unchecked"
