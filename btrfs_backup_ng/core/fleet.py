"""One configuration for many machines: who runs a volume, and one for many names."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.core.configuration import (
    NAME,
    ConfigKey,
    Configuration,
    Scope,
    VolumeSection,
)

#: What a name of ``each`` replaces; in a place, no variable of a shell.
_EACH = re.compile(r"(?<!\$)\{each\}")
_ON, _NAMES = "on", "each"


def is_for(section: VolumeSection, machine: str) -> bool:
    """Return whether a machine runs a volume.

    :param machine: its name, of which the part before the first dot counts, too.
    """
    if _ON not in section.settings:
        return True
    name = machine.lower()
    names = (name, name.partition(".")[0])
    patterns = section.settings[_ON].value
    return any(fnmatchcase(each, pattern) for each in names for pattern in patterns)


def machines_of(section: VolumeSection) -> str:
    """Return which machines run a volume, as the file says it; "" for all."""
    return section.settings[_ON].text if _ON in section.settings else ""


def names_of(configuration: Configuration, section: VolumeSection) -> Sequence[str]:
    """Return the names for each of which there is a volume; "" alone for a plain one.

    :raises UsageError: if the source does not fit to them; with a line.
    """
    source, names = section.settings["source"], section.settings.get(_NAMES)
    if not names:
        if any(map(_EACH.search, source.value)):
            text = "{each} stands for the names of another key, which is missing"
            hint = 'Add it:  each = ["web1", "web2"]'
            raise configuration.error_in(source, UsageError(text, hint=hint))
        return ("",)
    for name in names.value:
        if names.value.count(name) > 1:
            text = f"{visible(name)} is given twice"
            raise configuration.error_in(names, UsageError(text))
    for word in source.value:
        if not _EACH.search(word):
            text = f"the source {visible(word)} would be the same for each name"
            hint = 'Use the name there, like  source = "ssh://{each}/srv"'
            raise configuration.error_in(names, UsageError(text, hint=hint))
    return tuple(names.value)


def with_name(text: str, name: str) -> str:
    """Return a source with a name of ``each`` in it."""
    return _EACH.sub(lambda _: name, text)


def _pattern(text: str) -> str:
    if not re.fullmatch(r"[^\s/]+", text):
        raise ValueError(
            f"'{visible(text)}' is no name of a machine, like web1 or web*"
        )
    return text.lower()


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(
            f"'{visible(text)}' is no name: it consists of letters, digits, and . _ -"
            " in the middle"
        )
    return text


_VOLUME = frozenset({Scope.VOLUME})
#: The keys of a file for many machines.
FLEET_KEYS = (
    ConfigKey(_ON, _VOLUME, _pattern, is_list=True),
    ConfigKey(_NAMES, _VOLUME, _name, is_list=True),
)
