"""Volumes and targets carried over from btrbk -> the text of a configuration."""

from collections.abc import Iterator, Mapping

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.core.btrbk.carry import Carried
from btrfs_backup_ng.core.btrbk.reader import Remark
from btrfs_backup_ng.core.btrbk.settings import Setting, Settings, place_settings
from btrfs_backup_ng.core.toml import write_key, write_text


def write_configuration(carried: Carried, path: str) -> str:
    """Return the text of the file.

    :param path: of the file of btrbk, for the comment.
    """
    lines = [f"# {PROGRAM} config import {visible(path)}"]
    if carried.remarks:
        lines.append("# Not carried over, or not exactly:")
        lines += [f"#   {told(remark)}" for remark in carried.remarks]
    sections = place_settings(carried.volumes)
    top = {**sections.get((), {}), "keep-zone": carried.zone or None}
    lines += ["", *_settings(top)]
    for name, place in carried.targets.items():
        settings = {"place": place, **sections.get(("targets", name), {})}
        lines += ["", *_section(("targets", name), settings)]
    for volume in carried.volumes:
        names = ("volumes", volume.name)
        settings = {"source": volume.source, "to": tuple(volume.at) or None}
        own = _section(names, {**settings, **sections.get(names, {})})
        block = ["", *own]
        for target in volume.at:
            pair = (*names, "at", target)
            if pair in sections:
                block += _section(pair, sections[pair])
        sign = "# " if volume.is_off else ""
        lines += [line and sign + line for line in block]
    return "\n".join(lines) + "\n"


def told(remark: Remark) -> str:
    """Return a remark as a line, which no text of the file can break."""
    line = f"line {remark.line}: " if remark.line else ""
    return visible(f"{line}{remark.text}: {remark.reason}")


def _section(names: tuple[str, ...], settings: Mapping[str, Setting]) -> Iterator[str]:
    yield f"[{'.'.join(map(write_key, names))}]"
    yield from _settings(settings)


def _settings(settings: Settings) -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, tuple):
            yield f"{key} = [{', '.join(map(write_text, value))}]"
        elif isinstance(value, bool):
            yield f"{key} = {str(value).lower()}"
        elif value is not None:
            yield f"{key} = {write_text(value)}"
