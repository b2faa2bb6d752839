"""``config import``: write the configuration that a btrbk.conf stands for."""

import glob
import os
import re

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, UsageError, attempt, visible
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.cli.config.file import (
    check_new,
    next_command,
    read_trusted,
    write_new,
)
from btrfs_backup_ng.cli.config.jobs import plan_volumes
from btrfs_backup_ng.cli.config.keys import configuration_keys
from btrfs_backup_ng.cli.config.look import BTRBK, is_writable_subvolume
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.core.btrbk.carry import carry
from btrfs_backup_ng.core.btrbk.reader import Remark, parse_btrbk
from btrfs_backup_ng.core.btrbk.writer import told, write_configuration
from btrfs_backup_ng.core.configuration import parse_configuration
from btrfs_backup_ng.core.events import Level, Noted
from btrfs_backup_ng.core.value import Value

_ZONES = re.compile(r".*/zoneinfo/(.+)")


class ImportReport(Value):
    """The document of ``import``.

    :ivar written: the path of the new file, or "".
    :ivar text: of the configuration.
    """

    btrbk: str
    written: str
    volumes: dict[str, str]
    remarks: list[Remark]
    text: str


def import_btrbk(named: str, written: str, call: Call) -> int:
    """Print the configuration for a btrbk.conf, or write it to a new file.

    :param named: the path of the btrbk.conf; "" for the usual one.
    :param written: the path of the new file, or "".
    :raises UsageError: if there is nothing to carry over.
    :raises Refused: if there is a file already.
    """
    if written:
        check_new(written, "-o")
    path = named or next(filter(os.path.exists, BTRBK), BTRBK[-1])
    text = read_trusted(path, f"Name it:  {PROGRAM} config import FILE")
    file = parse_btrbk(text)
    carried = carry(file, zone=_local_zone(), find=_find)
    output = Output(call)
    for remark in carried.remarks:
        output.tell(Noted(path, Level.INFO, told(remark)))
    if not carried.volumes:
        raise UsageError(f"{visible(path)} has no subvolume that can be carried over")
    text = write_configuration(carried, path)
    _check(text, written, output)
    names = {volume.name: volume.source for volume in carried.volumes}
    if written:
        write_new(written, text)
        count = "1 volume" if len(names) == 1 else f"{len(names)} volumes"
        output.line(f"{visible(written)}: written, with {count}")
        for name, source in names.items():
            output.line(f"  {name}: {visible(source)}")
        output.line(f"Then:  {next_command('config check', written)}")
        output.line(f"And:   {next_command('run --dry-run', written)}")
    else:
        output.result(text.rstrip("\n"))
    report = ImportReport(path, written, names, list(carried.remarks), text)
    return output.finish(0, report)


def _check(text: str, path: str, output: Output) -> None:
    """Print the error that a run would report, for a person to edit."""
    shown = path or "the new configuration"
    configuration = parse_configuration(text, shown, configuration_keys())
    found = attempt(lambda: plan_volumes(configuration))
    if isinstance(found, BackupError):
        output.tell(Noted(shown, Level.WARNING, found.message, found.hint))


def _find(pattern: str) -> list[str]:
    """Return the subvolumes that match a pattern of btrbk, which only knows ``*``."""
    text = "*".join(map(glob.escape, re.split(r"\*+", pattern)))
    found = sorted(glob.glob(text, include_hidden=True))
    return [
        path
        for path in found
        if is_writable_subvolume(path) and os.path.basename(path) != f".{PROGRAM}"
    ]


def _local_zone() -> str:
    """Return the name of the time zone of this machine, or ""."""
    link = os.environ.get("TZ") or os.path.realpath("/etc/localtime")
    found = _ZONES.fullmatch(link)
    name = found[1] if found else link.lstrip(":")
    is_known = not isinstance(attempt(lambda: values.zone(name)), BackupError)
    return name if is_known else ""
