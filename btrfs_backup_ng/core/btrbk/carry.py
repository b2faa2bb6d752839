"""The sections of a btrbk.conf -> volumes and targets of this program."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.core.btrbk.policy import carry_policy
from btrfs_backup_ng.core.btrbk.reader import (
    Address,
    BtrbkFile,
    Option,
    Remark,
    Subvolume,
    TargetLine,
)
from btrfs_backup_ng.core.btrbk.reasons import (
    is_default,
    is_known,
    is_old,
    reason_against,
)
from btrfs_backup_ng.core.btrbk.settings import Setting, Settings, Volume
from btrfs_backup_ng.core.location import Location, parse_location
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.toml import plain_name
from btrfs_backup_ng.core.value import Value, replace

#: Signs of a pattern in a source, and of a name to replace in a place.
_WILD, _BRACES = re.compile(r"[*?[]"), re.compile(r"\{\w+\}")
_RATE = re.compile(r"0*([1-9][0-9]{0,14})([kmgtKMGT]?)")
_CIPHERS = re.compile(r"[A-Za-z0-9@.,-]+")


class Carried(Value):
    """The volumes and targets that are carried over.

    :ivar targets: the place of each target, by its name.
    :ivar zone: in which days begin, "" if no policy asks for one.
    :ivar remarks: on all that is not carried over exactly, in the order of the lines.
    """

    volumes: tuple[Volume, ...]
    targets: Mapping[str, str]
    zone: str
    remarks: tuple[Remark, ...]


def carry(
    file: BtrbkFile, *, zone: str, find: Callable[[str], Sequence[str]]
) -> Carried:
    """Carry over each section and option that can be, and remark the rest.

    :param zone: of this machine, "" if its name is not known.
    :param find: returns the subvolumes here that a pattern with ``*`` matches.
    """
    return _Carrier(file, zone, find).carry()


class _Carrier:
    def __init__(
        self, file: BtrbkFile, zone: str, find: Callable[[str], Sequence[str]]
    ) -> None:
        self._file = file
        self._zone = zone
        self._find = find
        self._remarks = dict.fromkeys(file.remarks)
        self._used: set[int] = set()
        self._targets: dict[str, str] = {}
        self._names: set[str] = set()
        self._series: set[tuple[str, str, str]] = set()
        self._keeps_all = any(is_old(each) for each in file.options)
        self._needs_zone = False

    def carry(self) -> Carried:
        volumes = []
        for section in self._file.subvolumes:
            for subvolume in self._expanded(section):
                try:
                    volumes.append(self._volume(subvolume))
                except UsageError as error:
                    self._leave_out(subvolume.line, subvolume.address, error.message)
        for option in self._file.options:
            if option.line in self._used or is_default(option):
                continue
            if not is_known(option) or self._counts(option):
                self._remark(option, reason_against(option))
        if self._needs_zone and not self._zone:
            reason = "the time zone of this machine has no name here; days begin in UTC"
            self._remarks[Remark(0, "keep-zone", reason)] = None
        remarks = sorted(self._remarks, key=lambda remark: remark.line)
        zone = self._zone if self._needs_zone else ""
        return Carried(tuple(volumes), self._targets, zone, tuple(remarks))

    def _expanded(self, section: Subvolume) -> Iterator[Subvolume]:
        """Yield a section, or one for each subvolume that it matches now."""
        address = section.address
        if not section.is_pattern:
            yield section
        elif address.host:
            text = "which subvolumes match on another machine is not known: name each"
            self._leave_out(section.line, address, text)
        elif not (paths := self._find(address.path)):
            self._leave_out(section.line, address, "no subvolume matches now")
        else:
            count = "one subvolume matches" if len(paths) == 1 else "several match"
            text = f"{count} now; a new one needs a section of its own"
            self._remarks[Remark(section.line, f"subvolume {address}", text)] = None
            *outer, own = section.levels
            unnamed = {key: each for key, each in own.items() if key != "snapshot_name"}
            for path in paths:
                found = replace(address, path=path)
                yield replace(section, address=found, levels=(*outer, unnamed))

    def _volume(self, subvolume: Subvolume) -> Volume:
        """Carry a subvolume over.

        :raises UsageError: if it cannot be.
        """
        source = self._location(subvolume.address, subvolume)
        if _WILD.search(source.path):
            raise UsageError("its path would be a pattern here")
        folder, prefix = self._folder(subvolume), self._prefix(subvolume)
        is_off = self._is_off(subvolume)
        if not is_off:
            self._claim(str(source), folder, prefix)
        own: dict[str, Setting] = {
            "snapshot-folder": folder,
            "snapshot-prefix": prefix,
            "keep": self._policy("snapshot", subvolume),
            **self._creation(subvolume, source),
        }
        if source.is_remote:
            own |= self._login(subvolume)
        at: dict[str, Settings] = {}
        for target in subvolume.targets:
            try:
                place = self._place(subvolume, target, source)
                if not is_off:
                    self._claim(place, "", prefix)
            except UsageError as error:
                self._leave_out(target.line, target.address, error.message, "target")
                continue
            at[self._target(place, target)] = {
                "keep-at": self._policy("target", subvolume, target),
                **self._transfer(subvolume, target, source),
                **(self._login(subvolume, target) if target.address.host else {}),
            }
            self._compare_logins(own, at[self._target(place, target)], target)
        name = plain_name(prefix.rstrip("."), self._names)
        self._names.add(name)
        return Volume(subvolume.line, name, str(source), own, at, is_off)

    def _location(
        self, address: Address, subvolume: Subvolume, target: TargetLine | None = None
    ) -> Location:
        if not address.host:
            return parse_location(address.path, working_directory="/")
        user = self._read("ssh_user", "root", subvolume, target)
        port = address.port or self._read("ssh_port", "default", subvolume, target)
        user = "" if user == "no" else f"{user}@"
        port = "" if port == "default" else f":{port}"
        text = f"ssh://{user}{address.host}{port}{address.path}"
        return parse_location(text, working_directory="/")

    def _place(self, subvolume: Subvolume, target: TargetLine, source: Location) -> str:
        """Return the place of a target.

        :raises UsageError: if this program cannot use it.
        """
        if target.kind == "raw":
            raise UsageError("files with raw streams are no backups here")
        off = target.options.get("noauto")
        if off and off.value == "yes":
            self._used.add(off.line)
            raise UsageError("btrbk runs it only if it is named (noauto)")
        place = self._location(target.address, subvolume, target)
        if place == source or _BRACES.search(place.path):
            raise UsageError("its path cannot be that of a target here")
        return str(place)

    def _target(self, place: str, target: TargetLine) -> str:
        """Return the name of the target with a place."""
        for name, known in self._targets.items():
            if known == place:
                return name
        text = target.address.host or target.address.path.rpartition("/")[2]
        name = plain_name(text, self._targets)
        self._targets[name] = place
        return name

    def _claim(self, place: str, folder: str, prefix: str) -> None:
        """Take the names with a prefix at a place.

        :raises UsageError: if another volume has them.
        """
        if (place, folder, prefix) in self._series:
            raise UsageError(f"another section has the names {prefix}* there")
        self._series.add((place, folder, prefix))

    def _folder(self, subvolume: Subvolume) -> str:
        option = subvolume.option("snapshot_dir")
        if option:
            self._used.add(option.line)
        value = option.value if option and option.value not in ("no", ".") else ""
        volume = subvolume.volume
        if value.startswith("/"):
            folder = subvolume.address.join(value).path
        elif volume and volume.host == subvolume.address.host:
            folder = volume.join(value).path
        else:
            raise UsageError("it has no snapshot_dir, and no volume around it")
        inside = folder.removeprefix(subvolume.address.path.rstrip("/") + "/")
        return inside if inside != folder and inside else folder

    def _prefix(self, subvolume: Subvolume) -> str:
        """Return the prefix of the names that btrbk gives.

        :raises UsageError: if there can be no such names.
        """
        default = subvolume.address.path.rpartition("/")[2] or "ROOT"
        name = self._read("snapshot_name", default, subvolume)
        form = subvolume.option("timestamp_format")
        if form:
            self._used.add(form.line)
            if form.value not in ("long", "long-iso"):
                text = "names without a time of day are not read here: the snapshots"
                self._remark(form, f"{text} serve as parents, and none is deleted")
        return Naming(f"{name}.").prefix

    def _is_off(self, subvolume: Subvolume) -> bool:
        option = subvolume.option("noauto")
        if not option or option.value != "yes":
            return False
        self._used.add(option.line)
        self._remark(option, "what btrbk runs only if it is named is a comment here")
        return True

    def _policy(
        self, kind: str, subvolume: Subvolume, target: TargetLine | None = None
    ) -> str:
        """Return the policy for the snapshots, or for the backups at a target."""

        def read(key: str, default: str) -> str:
            return self._read(key, default, subvolume, target)

        policy, why = carry_policy(
            read(f"{kind}_preserve_min", "all"),
            read(f"{kind}_preserve", "no"),
            read("preserve_day_of_week", "sunday"),
            read("preserve_hour_of_day", "0"),
        )
        for key in (f"{kind}_preserve_min", f"{kind}_preserve") if why else ():
            if option := subvolume.option(key, target):
                self._remark(option, f"{why}: carried over as {policy!r}")
        if self._keeps_all:
            return "all"
        self._needs_zone = self._needs_zone or policy not in ("all", "latest")
        return policy

    def _creation(self, subvolume: Subvolume, source: Location) -> Settings:
        """Return the settings about when a snapshot is made."""
        option = subvolume.option("snapshot_create")
        value = option.value if option else "always"
        if option and value == "ondemand":
            self._remark(option, "a snapshot is made, too, while all targets are away")
        elif option and value == "onchange" and source.is_remote:
            self._remark(option, "a source on another machine always gets a snapshot")
        elif option and value in ("no", "always", "onchange"):
            self._used.add(option.line)
        changed = True if value == "onchange" and source.is_here else None
        return {
            "no-snapshot": True if value == "no" else None,
            "only-if-changed": changed,
        }

    def _transfer(
        self, subvolume: Subvolume, target: TargetLine, source: Location
    ) -> Settings:
        """Return the settings about transfers to a target."""
        incremental = self._read("incremental", "yes", subvolume, target)
        settings: dict[str, Setting] = {
            "no-incremental": True if incremental == "no" else None,
            "incremental": "required" if incremental == "strict" else None,
            "rate": None,
            "use-mbuffer": None,
        }
        rate = subvolume.option("rate_limit", target)
        if rate and (found := _RATE.fullmatch(rate.value)):
            self._used.add(rate.line)
            settings["rate"] = found[1] + found[2].upper()
        buffer = subvolume.option("stream_buffer", target)
        if buffer and not is_default(buffer):
            settings["use-mbuffer"] = True
            self._remark(buffer, "use-mbuffer has no size here")
        if source.is_remote or target.address.host:
            settings["compress"] = self._compression(subvolume, target)
        return settings

    def _compression(self, subvolume: Subvolume, target: TargetLine) -> str | None:
        option = subvolume.option("stream_compress", target)
        if not option or is_default(option):
            return None
        if option.value not in ("zstd", "lz4"):
            self._remark(option, "carried over as auto: zstd or lz4, if that is faster")
            return "auto"
        self._used.add(option.line)
        if option.value == "lz4":
            return "lz4"
        level = subvolume.option("stream_compress_level", target)
        if level and re.fullmatch("[1-9]|1[0-9]", level.value):
            self._used.add(level.line)
            return f"zstd:{level.value}"
        return "zstd"

    def _login(
        self, subvolume: Subvolume, target: TargetLine | None = None
    ) -> Settings:
        """Return the settings about ssh, for a source or a target behind it."""
        key = subvolume.option("ssh_identity", target)
        if key and key.value.startswith("/"):
            self._used.add(key.line)
        options = []
        if self._read("ssh_compression", "no", subvolume, target) == "yes":
            options.append("Compression=yes")
        ciphers = subvolume.option("ssh_cipher_spec", target)
        if ciphers and not is_default(ciphers):
            words = ",".join(re.split(r"\s*[,\s]\s*", ciphers.value))
            if _CIPHERS.fullmatch(words):
                self._used.add(ciphers.line)
                options.append(f"Ciphers={words}")
        backend = subvolume.option("backend_remote", target)
        if not backend or backend.value == "no":
            backend = subvolume.option("backend", target)
        is_sudo = bool(backend and backend.value == "btrfs-progs-sudo")
        if backend and is_sudo:
            self._used.add(backend.line)
        return {
            "ssh-identity-file": key.value if key and key.value[:1] == "/" else None,
            "ssh-opt": tuple(options) or None,
            "ssh-sudo": True if is_sudo else None,
        }

    def _compare_logins(
        self, own: Settings, there: Settings, target: TargetLine
    ) -> None:
        """Remark settings of a source behind ssh that count at a target, too."""
        for key in ("ssh-identity-file", "ssh-opt"):
            if own.get(key) and key in there and there[key] is None:
                reason = f"the {key} of the source counts there, too"
                text = f"target {target.address}"
                self._remarks[Remark(target.line, text, reason)] = None

    def _read(
        self,
        key: str,
        default: str,
        subvolume: Subvolume,
        target: TargetLine | None = None,
    ) -> str:
        """Return the value of an option that is carried over."""
        option = subvolume.option(key, target)
        if option is None:
            return default
        self._used.add(option.line)
        return option.value

    def _counts(self, option: Option) -> bool:
        """Return whether no other line overrules an option wherever it could count."""
        return any(
            subvolume.option(option.key, target) is option
            for subvolume in self._file.subvolumes
            for target in (None, *subvolume.targets)
            if target or not option.key.startswith("target_")
        )

    def _leave_out(
        self, line: int, address: Address, reason: str, kind: str = "subvolume"
    ) -> None:
        text = f"{kind} {address}"
        self._remarks[Remark(line, text, f"left out: {reason}")] = None

    def _remark(self, option: Option, reason: str) -> None:
        self._used.add(option.line)
        self._remarks[Remark(option.line, str(option), reason)] = None
