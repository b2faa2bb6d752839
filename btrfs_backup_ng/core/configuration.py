"""The configuration: the text of its file -> settings, each with its line.

The keys come from the caller: those of the command line, and those of
:mod:`~btrfs_backup_ng.core.conditions`. This module knows the sections, who inherits
from whom, and the line of every key, which ``tomllib`` does not return.
"""

import enum
import re
import shlex
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from btrfs_backup_ng.__util__ import BackupError, UsageError, resembling, visible
from btrfs_backup_ng.core.value import EMPTY, Value, replace


class Scope(enum.Enum):
    """Where a key may stand."""

    TOP = "above the first section"
    TARGET = "in [targets.NAME]"
    VOLUME = "in [volumes.NAME]"
    PAIR = "in [volumes.NAME.at.TARGET]"
    NOTIFY = "in [notify]"


#: Where a key about volumes and targets may stand, from the most general place on.
LEVELS = (Scope.TOP, Scope.TARGET, Scope.VOLUME, Scope.PAIR)
#: The names of volumes and targets. They become parts of paths.
NAME = re.compile(r"\w[\w.-]*")


class ConfigKey(Value):
    """A key that a configuration may have.

    :ivar scopes: where it may stand.
    :ivar read: makes a value of the text, or of true and false; raises ``ValueError``
        or :class:`UsageError` if it has no sense.
    :ivar is_flag: its value is true or false.
    :ivar is_list: it may be a list of texts; then each is read.
    :ivar is_command: it is a program with its arguments; all of them are read at once.
    :ivar other: the key of the same name with another meaning, in other sections.
    """

    name: str
    scopes: frozenset[Scope]
    read: Callable[[Any], Any]
    is_flag: bool = False
    is_list: bool = False
    is_command: bool = False
    other: "ConfigKey | None" = None

    def in_scope(self, scope: Scope) -> "ConfigKey | None":
        """Return the key with this name that may stand there."""
        if scope in self.scopes:
            return self
        return self.other.in_scope(scope) if self.other else None

    @property
    def expected(self) -> str:
        """Return which values are expected, for a message."""
        if self.is_flag:
            return "true or false"
        if self.is_command:
            return 'a program and its arguments, like  ["/usr/local/bin/name", "-x"]'
        is_list = "a text, or a list of at least one"
        return is_list if self.is_list else "a text or a number"


class Setting(Value):
    """A key with its value.

    :ivar text: the value as a person writes it.
    :ivar value: the value as :attr:`ConfigKey.read` returns it; a tuple for a list.
    :ivar section: "" above the first section, else ``volumes.home``.
    :ivar line: its line in the file, from 1 on.
    """

    key: str
    text: str
    value: Any
    section: str
    line: int


#: The settings of a section, by their keys, in the order of the file.
Settings = Mapping[str, Setting]


class VolumeSection(Value):
    """A volume as the file describes it.

    :ivar settings: among them ``source`` and ``to``.
    :ivar at: settings for one target, by the target's name.
    """

    name: str
    line: int
    settings: Settings
    at: Mapping[str, Settings] = EMPTY


class TargetSection(Value):
    """A target as the file describes it."""

    name: str
    line: int
    settings: Settings


class Configuration(Value):
    """All sections of a file.

    :ivar path: of the file, for messages.
    :ivar notify: the settings of that section.
    :ivar notify_line: the line of that section; 0 without one.
    """

    path: str
    top: Settings
    targets: Mapping[str, TargetSection]
    volumes: Mapping[str, VolumeSection]
    notify: Settings = EMPTY
    notify_line: int = 0

    def levels(self, volume: str, target: str = "") -> list[Settings]:
        """Return the settings that count for a volume, the most general ones first.

        :param target: only what counts at this one, which need not have a section.
        """
        section = self.volumes[volume]
        if not target:
            return [self.top, section.settings]
        general = self.targets[target].settings if target in self.targets else EMPTY
        special = section.at.get(target, EMPTY)
        return [self.top, general, section.settings, special]

    def error(self, line: int, name: str, message: str, hint: str = "") -> UsageError:
        """Return the error about a key or section of the file."""
        return _error(self.path, line, name, message, hint)

    def error_in(self, setting: Setting, error: BackupError) -> UsageError:
        """Return the error of a setting, with its line."""
        name = _dotted(setting.section, setting.key)
        return self.error(setting.line, name, error.message, error.hint)


def chosen(names: Collection[str], levels: Sequence[Settings]) -> Settings:
    """Return the settings of some keys; of two, the more special one.

    :param levels: the most general one first.
    """
    return {name: level[name] for level in levels for name in names if name in level}


def parse_configuration(
    text: str, path: str, keys: Mapping[str, ConfigKey]
) -> Configuration:
    """Read a configuration.

    :param path: of the file, for messages.
    :param keys: all keys, by their names.
    :raises UsageError: with line, key and expectation.
    """
    return _SectionReader(text, path, keys).read()


#: The sections, and the keys in them that are sections.
_NOTIFY = "notify"
_SECTIONS = ("targets", "volumes", _NOTIFY)
_AT = "at"
#: The parts of the longest key: volumes.NAME.at.TARGET.KEY.
_DEPTH = 5


class _SectionReader:
    def __init__(self, text: str, path: str, keys: Mapping[str, ConfigKey]) -> None:
        self._path = path
        self._keys = keys
        try:
            self._tree = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise _no_toml(error, text, path) from error
        found = find_lines(text)
        # A section without a header is where its first key is.
        self._lines = {
            key[:length]: line
            for key, line in reversed(found.items())
            for length in range(1, min(len(key), _DEPTH))
        } | found

    def read(self) -> Configuration:
        tree = self._tree
        top = {k: v for k, v in tree.items() if k not in _SECTIONS}
        targets = {
            name: TargetSection(
                name,
                self._line("targets", name),
                self._settings(table, Scope.TARGET, "targets", name),
            )
            for name, table in self._tables("targets")
        }
        volumes = {
            name: self._volume(name, table) for name, table in self._tables("volumes")
        }
        notify = tree.get(_NOTIFY, {})
        if not isinstance(notify, dict):
            raise self._error([_NOTIFY], f"expected a section [{_NOTIFY}]")
        found = Configuration(
            self._path,
            self._settings(top, Scope.TOP),
            targets,
            volumes,
            self._settings(notify, Scope.NOTIFY, _NOTIFY),
            self._line(_NOTIFY) if _NOTIFY in tree else 0,
        )
        for volume in volumes.values():
            self._check_at(found, volume)
        return found

    def _tables(self, *parts: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the sections of a kind, each with its name."""
        tree: Any = self._tree
        for part in parts:
            tree = tree.get(part, {})
        if not isinstance(tree, dict):
            raise self._error(parts, f"expected a section [{_dotted(*parts)}.NAME]")
        for name, table in tree.items():
            if not isinstance(table, dict):
                expected = f"expected a section [{_dotted(*parts)}.NAME]"
                raise self._error([*parts, name], expected)
            if not (NAME.fullmatch(name) or parts[-1] == _AT):
                raise self._error(
                    [*parts, name],
                    "a name consists of letters, digits, and . _ - in the middle",
                )
            yield name, table

    def _volume(self, name: str, table: dict[str, Any]) -> VolumeSection:
        own = {k: v for k, v in table.items() if k != _AT}
        place = ("volumes", name)
        settings = self._settings(own, Scope.VOLUME, *place)
        if "source" not in settings:
            raise self._error(place, 'it needs a source, like  source = "/home"')
        at = {
            target: self._settings(each, Scope.PAIR, *place, _AT, target)
            for target, each in self._tables(*place, _AT)
        }
        return VolumeSection(name, self._line(*place), settings, at)

    def _check_at(self, found: Configuration, volume: VolumeSection) -> None:
        """Check that a volume goes to each target for which it has settings."""
        targets = volume.settings["to"].value if "to" in volume.settings else ()
        for name in targets:
            if not is_place(name) and name not in found.targets:
                raise found.error_in(
                    volume.settings["to"],
                    UsageError(
                        f"there is no target {visible(name)!r}",
                        hint=did_you_mean(name, found.targets)
                        or "Expected: names of targets, or places such as /mnt/usb.",
                    ),
                )
            if name in found.targets and "place" not in found.targets[name].settings:
                raise self._error(
                    ("targets", name), 'it needs a place, like  place = "/mnt/usb"'
                )
        for name in volume.at:
            if name not in targets:
                raise self._error(
                    ("volumes", volume.name, _AT, name),
                    f"the volume does not go to {visible(name)!r}",
                    did_you_mean(name, targets) or f"It goes to: {_listed(targets)}.",
                )

    def _settings(
        self, table: Mapping[str, Any], scope: Scope, *place: str
    ) -> dict[str, Setting]:
        """Return the settings of a section."""
        return {
            name: self._setting(name, value, scope, place)
            for name, value in table.items()
        }

    def _setting(
        self, name: str, value: Any, scope: Scope, place: Sequence[str]
    ) -> Setting:
        where, line = (*place, name), self._line(*place, name)
        key = self._keys.get(name)
        if not key:
            sections = [*_SECTIONS] if scope is Scope.TOP else []
            sections += [_AT] if scope is Scope.VOLUME else []
            known = [k for k, each in self._keys.items() if each.in_scope(scope)]
            raise self._error(
                where,
                "unknown section" if isinstance(value, dict) else "unknown key",
                did_you_mean(name, [*known, *sections])
                or did_you_mean(name, self._keys),
            )
        named, key = key, key.in_scope(scope)
        if not key:
            allowed = " or ".join(each.value for each in Scope if named.in_scope(each))
            raise self._error(where, f"it may stand {allowed} only")
        texts = self._texts(key, value, where)
        setting = Setting(name, _listed(texts), None, _dotted(*place), line)
        try:
            if key.is_flag:
                return replace(setting, value=key.read(value))
            if key.is_command:
                text = visible(shlex.join(texts)) or "nothing"
                return replace(setting, text=text, value=key.read(texts))
            if key.is_list:
                return replace(setting, value=tuple(map(key.read, texts)))
            return replace(setting, value=key.read(texts[0]))
        except UsageError as error:
            raise self._error(where, error.message, error.hint) from error
        except (ValueError, OverflowError) as error:
            raise self._error(where, visible(str(error))) from error

    def _texts(self, key: ConfigKey, value: Any, where: Sequence[str]) -> list[str]:
        """Return the values of a key as texts, if they are of the expected kind."""
        wrong = self._error(where, f"expected {key.expected}")
        if key.is_flag:
            if not isinstance(value, bool):
                raise wrong
            return [str(value).lower()]
        may_be_list = key.is_list or key.is_command
        values = value if may_be_list and isinstance(value, list) else [value]
        kinds = (str,) if may_be_list else (str, int, float)
        is_missing = not values and not key.is_command
        if is_missing or any(type(each) not in kinds for each in values):
            raise wrong
        texts = [_number(each) for each in values]
        if any("\0" in text for text in texts):
            raise self._error(where, "a text cannot contain a NUL character")
        return texts

    def _line(self, *path: str) -> int:
        """Return the line of a key, or of the nearest one around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return 1

    def _error(self, path: Sequence[str], message: str, hint: str = "") -> UsageError:
        line = self._line(*path)
        return _error(self._path, line, _dotted(*path), message, hint)


def is_place(word: str) -> bool:
    """Return whether a word of ``to`` is a place, and not the name of a target."""
    return "/" in word or ":" in word


def _error(path: str, line: int, name: str, message: str, hint: str = "") -> UsageError:
    start = f"line {line} of {visible(path)}: " + (f"{name}: " if name else "")
    return UsageError(start + message, hint=hint)


def _no_toml(error: Exception, text: str, path: str) -> UsageError:
    message = visible(re.sub(r" \(at .*\)$", "", str(error)))
    if isinstance(error, RecursionError):
        message = "brackets are nested too deeply"
    at = re.search(r"\(at line (\d+), column \d+\)$", str(error))
    line = int(at[1]) if at else text.count("\n") + 1
    return _error(path, line, "", f"not TOML: {message}")


def _number(value: str | int | float) -> str:
    try:
        return f"{value:.15g}" if isinstance(value, float) else str(value)
    except ValueError:  # more digits than Python writes
        return f"{value:#x}"


def _listed(texts: Collection[str]) -> str:
    return ", ".join(map(visible, texts)) or "nothing"


def _dotted(*parts: str) -> str:
    """Return a key as it is written in a file, with quotes where it needs them."""
    plain = re.compile(r"[A-Za-z0-9_.-]+")
    shown = (p if plain.fullmatch(p) else f'"{visible(p)}"' for p in parts if p)
    return ".".join(shown)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return the hint at the name that was probably meant, or ""."""
    meant = resembling(word, known)
    return f"Did you mean:  {visible(meant)}" if meant else ""


#: The parts of a TOML document; a bare word may be a key, a number or a date.
_TOKEN = re.compile(
    r"""\#[^\n]*
    | (?P<text>\"{3}(?:\\.|[^\\])*?\"{3,5} | '{3}.*?'{3,5}
        | "(?:\\.|[^"\\\n])*" | '[^'\n]*')
    | (?P<word>[A-Za-z0-9_-]+)
    | [^\S\n]+
    | (?P<sign>.)""",
    re.DOTALL | re.VERBOSE,
)


def find_lines(text: str) -> dict[tuple[str, ...], int]:
    """Find the line of each section and key of a valid document.

    A key in an inline table has no line of its own.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    key: list[str] = []
    line, depth = 1, 0
    is_header = is_value = False
    for token in _TOKEN.finditer(f"{text}\n"):  # which ends the last section
        word, quoted, sign = token["word"], token["text"], token["sign"]
        if is_value:
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(sign or "", 0)
            if sign == "\n" and depth == 0:
                is_value = False
        elif sign == "[":
            is_header, key = True, key if is_header else []
        elif word or quoted:
            key.append(word or _unquoted(quoted))
        elif sign == "=":
            found.setdefault((*table, *key), line)
            key, is_value, depth = [], True, 0
        elif sign == "\n":
            if is_header:
                table, key, is_header = tuple(key), [], False
                found.setdefault(table, line)
        line += token[0].count("\n")
    return found


def _unquoted(quoted: str) -> str:
    return str(tomllib.loads(f"key = {quoted}")["key"])
