"""The text of a btrbk.conf -> its sections, as btrbk.conf(5) describes them."""

import re
from collections.abc import Iterator, Mapping, Sequence

from btrfs_backup_ng.core.value import EMPTY, Value, replace


class Remark(Value):
    """Something of the file that is not carried over, or not exactly.

    :ivar line: of the file, from 1 on; 0: it is about no line.
    :ivar text: what is written there.
    """

    line: int
    text: str
    reason: str


class Option(Value):
    """A line with an option.

    :ivar value: as it is written; without a value, ``yes``.
    """

    line: int
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key} {self.value}"


#: The options of a section, by their keys.
Options = Mapping[str, Option]


class Address(Value):
    """A path here, or on another machine.

    :ivar host: "" for this machine; an IPv6 address has its brackets.
    """

    path: str
    host: str = ""
    port: str = ""

    def __str__(self) -> str:
        """Return it as btrbk would print it."""
        port = f":{self.port}" if self.port else ""
        return f"ssh://{self.host}{port}{self.path}" if self.host else self.path

    def join(self, path: str) -> "Address":
        """Return the address of a path that is relative to this one, or absolute."""
        if path.startswith("/"):
            return replace(self, path=_tidied(path))
        return replace(self, path=_tidied(f"{self.path}/{path}"))


class TargetLine(Value):
    """A target of a subvolume, with its own options.

    :ivar kind: ``send-receive`` or ``raw``.
    """

    line: int
    kind: str
    address: Address
    options: Options = EMPTY


class Subvolume(Value):
    """A subvolume section, and all that counts for it.

    :ivar volume: of the section around it, or None.
    :ivar levels: the options of file, volume and subvolume.
    :ivar targets: its own, and those that it inherits.
    """

    line: int
    address: Address
    volume: Address | None
    levels: tuple[Options, ...]
    targets: tuple[TargetLine, ...]

    @property
    def is_pattern(self) -> bool:
        return "*" in self.address.path

    def option(self, key: str, target: TargetLine | None = None) -> Option | None:
        """Return the option that counts here, or at one of the targets."""
        levels = (*self.levels, target.options) if target else self.levels
        return next((each[key] for each in reversed(levels) if key in each), None)


class BtrbkFile(Value):
    """The sections of a file.

    :ivar options: each line with an option, in the order of the file.
    :ivar remarks: on lines that are not understood.
    """

    subvolumes: tuple[Subvolume, ...]
    options: tuple[Option, ...]
    remarks: tuple[Remark, ...]


def parse_btrbk(text: str) -> BtrbkFile:
    """Read a configuration of btrbk; lines not understood become remarks."""
    return _FileReader().read(text)


_LINE = re.compile(r"([a-zA-Z_]+)(?:\s+(.*))?")
_TARGET = re.compile(r"([a-zA-Z_-]+)\s+(.*)")
_KINDS = ("send-receive", "raw")
#: With a path behind it; in brackets is an IPv6 address.
_HOST = r"([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])"
_URL = re.compile(rf"ssh://{_HOST}(?::([1-9][0-9]*))?(/.*)|{_HOST}:(/.*)")
_ASCENDS = re.compile(r"(^|/)\.\.(/|$)")


class _Section:
    """A section while the file is read.

    :ivar address: of a subvolume, as it is written; of a volume, read; None above all.
    """

    def __init__(self, line: int = 0, address: Address | None = None) -> None:
        self.line = line
        self.address = address
        self.options: dict[str, Option] = {}
        self.targets: list[tuple[int, str, Address, dict[str, Option]]] = []
        self.inner: list[_Section] = []


class _FileReader:
    def __init__(self) -> None:
        self._top = _Section()
        self._volume: _Section | None = None
        self._section = self._top
        self._options = self._top.options
        self._all: list[Option] = []
        self._remarks: list[Remark] = []

    def read(self, text: str) -> BtrbkFile:
        for number, line in enumerate(text.split("\n"), 1):
            if line := without_comment(line).strip():
                self._line(number, line)
        return BtrbkFile(
            tuple(self._subvolumes()), tuple(self._all), tuple(self._remarks)
        )

    def _line(self, number: int, line: str) -> None:
        found = _LINE.fullmatch(line)
        if not found:
            self._remark(number, line, "this is no line that btrbk understands")
            return
        key, value = found[1].lower(), found[2] or ""
        if key == "volume":
            self._begin_volume(number, line, _unquoted(value))
        elif key == "subvolume":
            self._begin_subvolume(number, line, _unquoted(value))
        elif key == "target":
            self._begin_target(number, line, value)
        else:
            option = Option(number, key, value or "yes")
            self._all.append(option)
            self._options[key] = option

    def _begin_volume(self, number: int, line: str, value: str) -> None:
        address = parse_address(value)
        if address is None:
            self._remark(number, line, "this is no absolute path and no ssh:// place")
        self._volume = self._section = _Section(number, address)
        self._options = self._section.options
        self._top.inner.append(self._section)

    def _begin_subvolume(self, number: int, line: str, value: str) -> None:
        volume = self._volume
        if volume is None:  # it stands for itself, in a volume that has no name
            volume = self._volume = _Section()
            self._top.inner.append(volume)
        address = parse_address(value)
        if address is None and volume.address and value and not _ASCENDS.search(value):
            address = volume.address.join(value)
        if address is None:
            is_lost = volume.line and not volume.address
            what = "its volume is not understood" if is_lost else "this is no path"
            self._remark(number, line, f"{what}, so the subvolume is left out")
        self._section = _Section(number, address)
        self._options = self._section.options
        volume.inner.append(self._section)

    def _begin_target(self, number: int, line: str, value: str) -> None:
        found = _TARGET.fullmatch(value)
        kind, path = (found[1].lower(), found[2]) if found else (_KINDS[0], value)
        address = parse_address(_unquoted(path))
        self._options = {}
        if kind not in _KINDS:
            self._remark(number, line, f"there is no target of the type {kind}")
        elif address is None:
            self._remark(number, line, "this is no absolute path and no ssh:// place")
        else:
            self._section.targets.append((number, kind, address, self._options))

    def _remark(self, number: int, text: str, reason: str) -> None:
        self._remarks.append(Remark(number, text, reason))

    def _subvolumes(self) -> Iterator[Subvolume]:
        for volume in self._top.inner:
            inherited = _inherit(_targets(self._top), _targets(volume))
            for section in volume.inner:
                if section.address:
                    sections = (self._top, volume, section)
                    yield Subvolume(
                        section.line,
                        section.address,
                        volume.address,
                        tuple(each.options for each in sections),
                        tuple(_inherit(inherited, _targets(section))),
                    )


def _targets(section: _Section) -> list[TargetLine]:
    return [TargetLine(*each) for each in section.targets]


def _inherit(
    outer: Sequence[TargetLine], own: Sequence[TargetLine]
) -> list[TargetLine]:
    """Return the targets of a section: its own count, where both name the same."""
    named = [(target.kind, target.address) for target in own]
    return [t for t in outer if (t.kind, t.address) not in named] + [*own]


def without_comment(line: str) -> str:
    """Return a line up to the first ``#`` that is not between two quotes."""
    position = 0
    while position < len(line):
        sign = line[position]
        if sign == "#":
            return line[:position]
        end = line.find(sign, position + 1) if sign in "\"'" else -1
        position = max(position, end) + 1
    return line


def parse_address(text: str) -> Address | None:
    """Read an absolute path, ``ssh://HOST[:PORT]/PATH`` or ``HOST:/PATH``, or None."""
    found = _URL.fullmatch(text)
    path = (found[3] or found[5]) if found else text
    if not path.startswith("/") or _ASCENDS.search(path) or "\0" in path:
        return None
    if not found:
        return Address(_tidied(path))
    return Address(_tidied(path), found[1] or found[4], found[2] or "")


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] in "\"'" else text


def _tidied(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
