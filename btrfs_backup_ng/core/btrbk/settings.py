"""The settings of volumes at targets -> the sections in which they stand."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from btrfs_backup_ng.core.value import Value

#: The value of a key: a text, a flag, or several texts; None: it is not set.
Setting = str | bool | tuple[str, ...] | None
Settings = Mapping[str, Setting]
#: Where a setting counts: the name of a volume and of a target, or "" for the source.
Cell = tuple[str, str]
#: The names of a section: none above all others.
Path = tuple[str, ...]


class Volume(Value):
    """A volume.

    :ivar line: of its section in the file of btrbk.
    :ivar own: the settings that count at its source.
    :ivar at: for each of its targets the settings that count there.
    :ivar is_off: btrbk runs it only if it is named.
    """

    line: int
    name: str
    source: str
    own: Settings
    at: Mapping[str, Settings]
    is_off: bool = False


#: Keys that every volume has for itself, even if all have the same.
_OWN = ("snapshot-folder", "snapshot-prefix")


def place_settings(volumes: Sequence[Volume]) -> dict[Path, dict[str, Setting]]:
    """Return the settings of each section, in few lines.

    Nothing is inherited that does not count: a key that is not set everywhere stands on
    one level of sections only. About ssh a target may differ from its source; the
    volume's section has the settings of the source.
    """
    cells: dict[str, dict[Cell, Setting]] = {}
    for volume in volumes:
        for target, settings in (("", volume.own), *volume.at.items()):
            for key, value in settings.items():
                cells.setdefault(key, {})[volume.name, target] = value
    found: dict[Path, dict[str, Setting]] = {}
    for key, values in cells.items():
        for path, value in _places(values, is_own=key in _OWN):
            if value is not None:
                found.setdefault(path, {})[key] = value
    return found


def _places(
    cells: Mapping[Cell, Setting], *, is_own: bool
) -> Iterator[tuple[Path, Setting]]:
    """Yield the sections in which a key stands, with its values."""
    values = [*cells.values()]
    if len(values) > 1 and len({*values}) == 1 and not is_own:
        yield (), values[0]
        return
    by_target, by_volume = _grouped(cells, 1), _grouped(cells, 0)
    if "" not in by_target and all(len({*g.values()}) == 1 for g in by_target.values()):
        for target, group in by_target.items():
            yield ("targets", target), next(iter(group.values()))
        return
    usual = None
    if len({bool(target) for _, target in cells}) == 1 and None not in values:
        value, count = Counter(values).most_common(1)[0]
        if count > 1 and not is_own:
            usual = value
            yield (), usual
    for volume, group in by_volume.items():
        at_source = group.get("", usual)
        if len({*group.values()}) == 1:
            value = next(iter(group.values()))
            if value != usual:
                yield ("volumes", volume), value
            continue
        for target, value in group.items():
            if not target:
                yield ("volumes", volume), value
            elif value != at_source:
                is_undone = value is None and at_source is True
                yield ("volumes", volume, "at", target), False if is_undone else value


def _grouped(cells: Mapping[Cell, Setting], part: int) -> dict[str, dict[str, Setting]]:
    """Return for each volume (0) or target (1) its settings by the other part."""
    groups: dict[str, dict[str, Setting]] = {}
    for cell, value in cells.items():
        groups.setdefault(cell[part], {})[cell[1 - part]] = value
    return groups
