"""Parsers: the fields that options set, and the options of several commands."""

import argparse
import enum
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from datetime import timezone
from typing import Any, NoReturn, TypeVar

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import GIB, UsageError, visible
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.argv import join_levels, resembling, split_at_dashes
from btrfs_backup_ng.core.model import TransferOptions

T = TypeVar("T")

#: Where the snapshots of a source are by default.
FOLDER = ".btrfs-backup-ng/snapshots"
#: The part of an epilog that says what a place is.
EPILOG_PLACES = """\
places:
  /path, ssh://[user@]host[:port]/path   a source, a destination, or both
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are :class:`UsageError`."""

    def error(self, message: str) -> NoReturn:
        """Raise the error, with a hint how to find out more."""
        hint = f"See:  {self.prog} --help"
        if "expected one argument" in message:
            hint = f"A value that starts with a dash:  --OPTION=VALUE\n{hint}"
        meant = [self._meant(word) for word in message.split() if word[:2] == "--"]
        if message.startswith("unrecognized") and any(meant):
            hint = f"Did you mean:  {' '.join(filter(None, meant))}\n{hint}"
        raise UsageError(visible(message), hint=hint)

    @property
    def options(self) -> list[argparse.Action]:
        """Return the options."""
        return [action for action in self._actions if action.option_strings]

    @property
    def valued(self) -> frozenset[str]:
        """Return the options that have a value behind them."""
        return frozenset(
            word
            for action in self.options
            if action.nargs != 0
            for word in action.option_strings
        )

    def knows(self, option: str) -> bool:
        """Return whether there is such an option."""
        return option in self._option_string_actions

    def _meant(self, word: str) -> str:
        """Return the option that was probably meant, or ""."""
        option, _, _ = word.partition("=")
        return resembling(option, self._option_string_actions, cutoff=0.7)


def new_parser(verb: str, *, usage: str, description: str, epilog: str) -> Parser:
    """Return a parser that takes places, without further options.

    :param verb: "" for the classic command line.
    """
    parser = Parser(
        prog=f"{PROGRAM} {verb}".rstrip(),
        usage=f"%(prog)s {usage}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("places", nargs="*", metavar="PLACE", help=argparse.SUPPRESS)
    return parser


def parse_places(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Read options and ``places`` in any order; behind ``--`` there are only places.

    :raises UsageError: if they do not make sense.
    """
    words, behind = split_at_dashes(join_levels(list(map(str, words))))
    options = parser.parse_intermixed_args(words)
    options.places += behind
    return options


class OptionGroup:
    """Options that set the fields of a dataclass, each of which has its default."""

    def __init__(self, group: argparse._ActionsContainer, kind: type) -> None:
        self._group = group
        self._kind = kind
        self._defaults = {field.name: _default(field) for field in fields(kind)}

    def add(self, field: str, *flags: str, **settings: Any) -> None:
        """Add an option for a field; settings are those of argparse."""
        default = self._defaults[field]
        if isinstance(default, enum.Enum):
            if "action" not in settings:
                settings.setdefault("choices", [each.value for each in type(default)])
            default = default.value
        if isinstance(default, tuple):
            default = list(default)
        dest = f"{self._kind.__name__}.{field}"
        self._group.add_argument(*flags, dest=dest, default=default, **settings)


def read_fields(kind: type[T], namespace: argparse.Namespace, /, **others: Any) -> T:
    """Return a dataclass with the values of the options of its :class:`OptionGroup`.

    :param others: fields that have no option of their own.
    """
    for field in fields(kind):  # type: ignore[arg-type]  # T is a dataclass
        dest = f"{kind.__name__}.{field.name}"
        if field.name not in others and hasattr(namespace, dest):
            value, default = getattr(namespace, dest), _default(field)
            if isinstance(default, enum.Enum):
                value = type(default)(value)
            others[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**others)


def _default(field: "Field[Any]") -> Any:
    return None if field.default is MISSING else field.default


def add_policies(group: argparse._ActionsContainer) -> None:
    """Add the options that say which snapshots and backups stay."""
    add = group.add_argument
    add(
        "--keep",
        metavar="POLICY",
        help="keep at the source what a policy like '24h 7d 4w 12m 5y min=2d' wants:"
        " the first of each hour, day, ISO week, month, year, so many periods back, and"
        " all of the last 2 days; always the newest; also latest=N, *d for all days,"
        " all, whole-weeks (months of whole weeks, as in btrbk)",
    )
    add("--keep-at", metavar="POLICY", help="the same for backups at each destination")
    add(
        "--keep-zone",
        type=values.zone,
        metavar="ZONE",
        default=timezone.utc,
        help="the time zone of these periods, like Europe/Berlin (default: UTC)",
    )


def add_folder(parser: argparse._ActionsContainer) -> None:
    """Add the option that says where a source's snapshots are."""
    parser.add_argument(
        "-f",
        "--snapshot-folder",
        metavar="DIR",
        default=FOLDER,
        help="where snapshots are kept, relative to the source or absolute"
        " (default: %(default)s)",
    )


def add_wait(parser: argparse._ActionsContainer) -> None:
    """Add the option that says how long to wait for a lock."""
    parser.add_argument(
        "--wait",
        type=values.seconds,
        metavar="SPAN",
        default=0.0,
        help="wait for another run to end, up to SPAN, like 1h or 90 (seconds; default:"
        " %(default)g)",
    )


def add_sending(group: OptionGroup) -> None:
    """Add the options about the way of a stream: rate, compression, resuming."""
    group.add(
        "rate",
        "--rate",
        type=values.rate,
        metavar="SIZE",
        help="at most SIZE bytes a second, like 10M; needs pv or mbuffer",
    )
    group.add(
        "compress",
        "--compress",
        type=values.codec,
        metavar="HOW",
        help="compress on the way through ssh: zstd, zstd:LEVEL, lz4, none, or auto,"
        " which tries whether it pays (default: %(default)s)",
    )
    group.add(
        "retries",
        "--retries",
        type=values.retries,
        metavar="N",
        help="after a cut, wait and go on, up to N times in one run (default:"
        " %(default)s; the next run goes on in any case)",
    )
    group.add(
        "checkpoint_interval",
        "--checkpoint-interval",
        type=values.interval,
        metavar="SIZE",
        help="how much a cut may cost: what has arrived is sealed each SIZE bytes, over"
        " ssh and for larger local transfers, and not sent again"
        f" (default: {TransferOptions().checkpoint_interval // GIB}G)",
    )
    group.add(
        "max_size",
        "--max-size",
        type=values.max_size,
        metavar="SIZE",
        help="end a transfer that is longer than SIZE, like 500G, and keep nothing of"
        " it: for a source that is not trusted (default: no limit)",
    )


def add_check_space(group: OptionGroup) -> None:
    """Add the option that says whether to look for room before sending."""
    group.add(
        "check_space",
        "--no-check-space",
        action="store_false",
        help="do not compare what a transfer needs with what is free",
    )


def add_sudo(parser: Parser) -> None:
    """Add the option that asks for root's rights."""
    parser.add_argument(
        "--sudo",
        action="store_true",
        dest="as_root",
        help="without root's rights: run all of this again through sudo",
    )


def add_display(parser: Parser) -> None:
    """Add the options about the output, and --sudo; they count for all tasks."""
    add_sudo(parser)
    group = parser.add_argument_group("display")
    add = group.add_argument
    add(
        "-q",
        "--quiet",
        action="store_true",
        help="print nothing on success, everything about a failure",
    )
    add(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="say more; -vv: every command; or -v LEVEL with debug, info, warning,"
        " error",
    )
    add(
        "--verbosity",
        choices=["debug", "info", "warning", "error"],
        help=argparse.SUPPRESS,
    )
    add("-d", "--debug", action="store_true", help="the same as -v debug")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show progress in one line (default: on a terminal)",
    )
    add("--json", action="store_true", help="print one JSON document instead of lines")
    add(
        "--version",
        action="store_true",
        help="print the version; with -v those of python, kernel, btrfs and ssh, too",
    )
