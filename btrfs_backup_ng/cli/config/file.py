"""The file of the configuration: where it is, and whether it may be trusted."""

import os
import stat
from collections.abc import Iterator

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import MIB, Refused, UsageError, base_directory, visible
from btrfs_backup_ng.cli.config.keys import configuration_keys
from btrfs_backup_ng.cli.config.options import ROOTS_FILE
from btrfs_backup_ng.core.configuration import Configuration, parse_configuration

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
            _check_trust(path, status)
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


def _check_trust(path: str, status: os.stat_result) -> None:
    """Check that no other user can change a file; of root's, nor exchange it.

    :raises Refused: if one can.
    """
    if reason := _open_to(status):
        command = f"chown {_owner(status)} {path}; chmod go-w {path}"
        raise Refused(
            f"{visible(path)} {reason}, so it is not used",
            hint=f"Check its contents, then:  {visible(command)}",
        )
    if os.geteuid() != 0:
        return
    for directory in _directories(path):
        found = os.stat(directory)
        is_sticky = found.st_mode & stat.S_ISVTX and _is_ours(found.st_uid)
        if not is_sticky and (reason := _open_to(found)):
            raise Refused(
                f"{visible(path)} is not used: {visible(directory)} {reason}, who"
                " could put another file there",
                hint=f"Keep it in a directory of root's, as {ROOTS_FILE} is.",
            )


def _open_to(status: os.stat_result) -> str:
    """Return which other users can change a file or directory, or ""."""
    if not _is_ours(status.st_uid):
        return f"belongs to another user ({status.st_uid})"
    return "can be written by other users" if status.st_mode & 0o022 else ""


def _is_ours(owner: int) -> bool:
    return owner in (0, os.geteuid())


def _owner(status: os.stat_result) -> int:
    return status.st_uid if _is_ours(status.st_uid) else os.geteuid()


def _directories(path: str) -> Iterator[str]:
    """Yield the directories above a file, and above each link on the way to it."""
    names = {path, os.path.realpath(path)}
    while os.path.islink(path):
        path = os.path.join(os.path.dirname(path), os.readlink(path))
        names.add(path)
    for name in names:
        while name != "/":
            name = os.path.dirname(name)
            yield name
