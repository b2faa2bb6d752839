"""The file of the configuration: where it is, and whether it may be trusted."""

import os
import stat

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import MIB, UsageError, base_directory, visible
from btrfs_backup_ng.cli.config.keys import configuration_keys
from btrfs_backup_ng.cli.config.options import ROOTS_FILE
from btrfs_backup_ng.core.configuration import Configuration, parse_configuration
from btrfs_backup_ng.host.trust import check_trust

#: The file of another user, in the directory of all configurations.
_FILE = "btrfs-backup-ng/config.toml"
_LARGEST = MIB


def configuration_path(named: str | None = None) -> str:
    """Return the path of the configuration: the named one, else that of the user."""
    if named:
        return os.path.abspath(named)
    if os.geteuid() == 0:
        return ROOTS_FILE
    return os.path.join(base_directory("XDG_CONFIG_HOME", "~/.config"), _FILE)


def read_configuration(path: str) -> Configuration:
    """Read the configuration.

    :param path: absolute.
    :raises UsageError: if it cannot be read, or is not right.
    :raises Refused: if other users can change it.
    """
    return parse_configuration(_read(path), path, configuration_keys())


def _read(path: str) -> str:
    shown = visible(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{shown} is not a file")
            check_trust(path, status, f"as {ROOTS_FILE} is")
            content = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no configuration {shown}",
            hint=f"Write one:  {PROGRAM} config init     Another file:  -c FILE",
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read {shown}: {reason}") from error
    if len(content) > _LARGEST:
        raise UsageError(f"{shown} is larger than 1 MiB")
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"line {line} of {shown} is not UTF-8") from error
