"""The file of the configuration: where it is, and whether it may be trusted."""

import codecs
import os
import shlex
import stat

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import (
    MIB,
    BackupError,
    Refused,
    UsageError,
    base_directory,
    visible,
)
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


def next_command(words: str, path: str) -> str:
    """Return a command for the next step, which names the file if it is not the usual.

    :param words: behind the name of the program.
    :param path: absolute.
    """
    name = f" -c {shlex.quote(path)}" if path != configuration_path() else ""
    return visible(f"{PROGRAM} {words}{name}")


def read_configuration(path: str) -> Configuration:
    """Read the configuration.

    :param path: absolute.
    :raises UsageError: if it cannot be read, or is not right.
    :raises Refused: if other users can change it.
    """
    hint = f"Write one:  {PROGRAM} config init     Another file:  -c FILE"
    return parse_configuration(read_trusted(path, hint), path, configuration_keys())


def read_trusted(path: str, hint: str) -> str:
    """Read a file that no other user can change.

    :param path: absolute.
    :param hint: for the message that the file is missing.
    :raises UsageError: if it cannot be read, or is no text.
    :raises Refused: if other users can change it.
    """
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
        raise UsageError(f"there is no configuration {shown}", hint=hint) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read {shown}: {reason}") from error
    if len(content) > _LARGEST:
        raise UsageError(f"{shown} is larger than 1 MiB")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"line {line} of {shown} is not UTF-8") from error


def check_new(path: str, option: str) -> None:
    """Check that there is no file.

    :param option: that names another one.
    :raises Refused: if there is one.
    """
    if os.path.lexists(path):
        raise Refused(
            f"{visible(path)} exists, and is not replaced",
            hint=f"Check it:  {next_command('config check', path)}"
            f"     Another one:  {option} FILE",
        )


def write_new(path: str, text: str) -> None:
    """Write a new configuration, and the directory that it is in; then read it.

    :param path: absolute.
    :raises BackupError: if that fails.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        text = f"cannot write {visible(path)}: {error.strerror}"
        raise BackupError(text) from error
    read_configuration(path)
