"""The keys of the configuration: the long options of a backup, and a few of its own.

An option declared for argparse is a key: its type, its choices and its help count here,
too. Where it may stand follows from the field that it fills.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.cli.backup_options import add_backup_options
from btrfs_backup_ng.cli.parser import Parser
from btrfs_backup_ng.core.conditions import CONDITION_KEYS, MAX_AGE_KEY
from btrfs_backup_ng.core.configuration import LEVELS, ConfigKey, Scope, is_place
from btrfs_backup_ng.core.fleet import FLEET_KEYS
from btrfs_backup_ng.core.hooks import RUN_HOOK_KEYS, SNAPSHOT_HOOK_KEYS
from btrfs_backup_ng.core.model import Destination, SshOptions, TransferOptions
from btrfs_backup_ng.core.notifiers import NOTIFY_KEYS
from btrfs_backup_ng.core.upkeep import UPKEEP_KEYS
from btrfs_backup_ng.core.value import Value, replace

#: Options about one call, which a file cannot ask for.
OF_A_CALL = ("--dry-run", "--remove-locks", "--disk")
#: Options about all tasks of a call.
_OF_ALL_TASKS = ("--jobs",)
#: Options about a destination whose fields do not show that.
_OF_A_DESTINATION = (
    *("num_backups", "keep_at", "keep_zone"),
    *("no_incremental", "ssh_host_key_policy"),
)
_FIELDS_OF_A_DESTINATION = (Destination, SshOptions, TransferOptions)


class OptionValue(Value):
    """The value of an option, and the place of argparse for it.

    :ivar is_unset: it is an option without a value behind it, and not set.
    """

    dest: str
    value: Any
    is_unset: bool = False


def configuration_keys() -> dict[str, ConfigKey]:
    """Return all keys, by their names."""
    own = (
        ConfigKey("source", frozenset({Scope.VOLUME}), _source, is_list=True),
        ConfigKey("to", frozenset({Scope.VOLUME}), _destination, is_list=True),
        ConfigKey("place", frozenset({Scope.TARGET}), _place),
        *CONDITION_KEYS,
        *SNAPSHOT_HOOK_KEYS,
        *RUN_HOOK_KEYS,
        MAX_AGE_KEY,
        *NOTIFY_KEYS,
        *UPKEEP_KEYS,
        *FLEET_KEYS,
    )
    found: dict[str, ConfigKey] = {}
    for key in (*option_keys(), *own):
        found[key.name] = replace(key, other=found.get(key.name))
    return found


def option_keys() -> Iterator[ConfigKey]:
    """Yield the keys that are options of a backup."""
    parser = Parser("", usage=[], description="")
    add_backup_options(parser)
    for action in parser.options:
        if is_key(action):
            name = long_name(action)
            yield ConfigKey(
                name.removeprefix("--"),
                _scopes(action),
                partial(_read_flag if _is_flag(action) else _read_text, action, parser),
                is_flag=_is_flag(action),
                is_list=isinstance(action.default, list),
            )


def is_key(action: argparse.Action) -> bool:
    """Return whether an option of a backup is a key."""
    return action.dest != "help" and long_name(action) not in OF_A_CALL


def long_name(action: argparse.Action) -> str:
    """Return the long form of an option, its first one."""
    return next(word for word in action.option_strings if word.startswith("--"))


def _is_flag(action: argparse.Action) -> bool:
    return action.nargs == 0


def _scopes(action: argparse.Action) -> frozenset[Scope]:
    if long_name(action) in _OF_ALL_TASKS:
        return frozenset({Scope.TOP})
    kind, dot, _ = action.dest.partition(".")
    fields = (each.__name__ for each in _FIELDS_OF_A_DESTINATION)
    if (dot and kind in fields) or action.dest in _OF_A_DESTINATION:
        return frozenset(LEVELS)
    return frozenset({Scope.TOP, Scope.VOLUME})


def counts_at_source(dest: str, *, is_remote: bool) -> bool:
    """Return whether an option counts for a source, not only for destinations.

    :param dest: its place of argparse.
    :param is_remote: the source is behind ssh.
    """
    kind, dot, _ = dest.partition(".")
    if dest == "ssh_host_key_policy" or (dot and kind == SshOptions.__name__):
        return is_remote
    if dot:
        return kind not in (Destination.__name__, TransferOptions.__name__)
    return dest == "keep_zone" or dest not in _OF_A_DESTINATION


def _read_flag(action: argparse.Action, parser: Parser, is_set: bool) -> OptionValue:
    """Return the value of an option without a value behind it, or its default."""
    name = long_name(action)
    opposite = f"--no-{name.removeprefix('--')}"
    if not is_set and opposite not in action.option_strings:
        return OptionValue(action.dest, action.default, is_unset=True)
    return _parsed(action, parser, name if is_set else opposite)


def _read_text(action: argparse.Action, parser: Parser, text: str) -> OptionValue:
    return _parsed(action, parser, f"{long_name(action)}={text}")


def _parsed(action: argparse.Action, parser: Parser, word: str) -> OptionValue:
    """Let argparse read a word."""
    try:
        value = getattr(parser.parse_args([word]), action.dest)
    except UsageError as error:
        name = long_name(action)
        message = error.message.removeprefix(f"{name}: ")
        if message.startswith("argument "):  # argparse's own: argument -x/--name: ...
            message = message.partition(": ")[2]
        hint = "" if error.hint.startswith("See:") else error.hint
        raise UsageError(message, hint=hint) from error
    return OptionValue(action.dest, value)


def _source(text: str) -> str:
    if text.startswith("shell://"):
        raise ValueError("a command (shell://) cannot be a source")
    return _place(text)


def _destination(text: str) -> str:
    return _place(text) if is_place(text) else text


def _place(text: str) -> str:
    if not text.startswith(("/", "ssh://", "shell://")):
        raise ValueError(
            f"'{visible(text)}' is no place; expected /path, ssh://host/path or"
            " shell://COMMAND"
        )
    return text
