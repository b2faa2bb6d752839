"""Parsers: the fields that options set, and the options of several commands."""

import argparse
import enum
from collections.abc import Sequence
from datetime import timezone
from functools import partial
from typing import Any, NoReturn, TypeVar

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import GIB, UsageError, resembling, visible
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.argv import join_levels, split_at_dashes
from btrfs_backup_ng.cli.stdout import print_line
from btrfs_backup_ng.core.model import TransferOptions
from btrfs_backup_ng.core.value import Value, defaults_of

T = TypeVar("T", bound=Value)

#: Where the snapshots of a source are by default.
FOLDER = ".btrfs-backup-ng/snapshots"
#: The part of an epilog that describes a place.
EPILOG_PLACES = """\
places:
  /path  a source, a destination, or both
  ssh://[user@]host[:port]/path  the same on another machine
"""


class _ShowHelp(argparse.Action):
    """The option that prints a help and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        assert isinstance(parser, Parser)
        parser.show_help(everything=self.const)
        parser.exit()


#: It is never asked for a help; with a width, it does not import shutil.
_Formatter = partial(argparse.HelpFormatter, width=80)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are :class:`UsageError`.

    :ivar verb: "" for the classic command line.
    """

    def __init__(
        self, verb: str, *, usage: Sequence[str], description: str, epilog: str = ""
    ) -> None:
        """Prepare.

        :param usage: each way to call it, behind the program's name and the verb.
        """
        prog = f"{PROGRAM} {verb}".rstrip()
        super().__init__(
            prog, prog, formatter_class=_Formatter, add_help=False, allow_abbrev=False
        )
        self.verb = verb
        self.usages = [f"{prog} {each}".rstrip() for each in usage]
        self.description, self.epilog = description, epilog
        add = partial(self.add_argument, action=_ShowHelp, nargs=0, dest="help")
        add("-h", "--help", const=False, help="print the usual options")
        add("--help-all", const=True, help="print all options")

    def show_help(self, *, everything: bool) -> None:
        """Print the help.

        :param everything: with all options.
        """
        from btrfs_backup_ng.cli.help import write  # here: other calls need no help

        text = write(self, self.verb, self.usages, everything=everything)
        print_line(text.rstrip("\n"))

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


def new_parser(
    verb: str, *, usage: str | Sequence[str], description: str, epilog: str
) -> Parser:
    """Return a parser that takes places, without further options.

    :param verb: "" for the classic command line.
    :param usage: one way to call it, or several.
    """
    usages = [usage] if isinstance(usage, str) else usage
    parser = Parser(verb, usage=usages, description=description, epilog=epilog)
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
    """Options that set the fields of a value, each of which has its default."""

    def __init__(self, group: argparse._ActionsContainer, kind: type[Value]) -> None:
        self._group = group
        self._kind = kind
        self._defaults = defaults_of(kind)

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
    """Return a value with those of the options of its :class:`OptionGroup`.

    :param others: fields that have no option of their own.
    """
    for field, default in defaults_of(kind).items():
        dest = f"{kind.__name__}.{field}"
        if field not in others and hasattr(namespace, dest):
            value = getattr(namespace, dest)
            if isinstance(default, enum.Enum):
                value = type(default)(value)
            others[field] = tuple(value) if isinstance(value, list) else value
    return kind(**others)


def add_policies(group: argparse._ActionsContainer) -> None:
    """Add the options that say which snapshots and backups are kept."""
    add = group.add_argument
    add(
        "--keep",
        metavar="POLICY",
        help="retention policy for the snapshots at the source, like '24h 7d 4w 12m 5y"
        " min=2d'",
    )
    add(
        "--keep-at",
        metavar="POLICY",
        help="the same for the backups at each destination",
    )
    add(
        "--keep-zone",
        type=values.zone,
        metavar="ZONE",
        default=timezone.utc,
        help="time zone in which its days begin, like Europe/Berlin (default: UTC)",
    )


def add_folder(parser: argparse._ActionsContainer) -> None:
    """Add the option that says where a source's snapshots are."""
    parser.add_argument(
        "-f",
        "--snapshot-folder",
        metavar="DIR",
        default=FOLDER,
        help="where the source keeps its snapshots: relative to it, or absolute"
        " (default: %(default)s)",
    )


def add_wait(parser: argparse._ActionsContainer) -> None:
    """Add the option that says how long to wait for a lock."""
    parser.add_argument(
        "--wait",
        type=values.seconds,
        metavar="SPAN",
        default=0.0,
        help="wait up to SPAN, like 1h or 90 (seconds), for another run to end"
        " (default: %(default)g)",
    )


def add_sending(group: OptionGroup) -> None:
    """Add the options about transfers: rate, compression, resuming."""
    group.add(
        "rate",
        "--rate",
        type=values.rate,
        metavar="SIZE",
        help="limit to SIZE bytes a second, like 10M; needs pv or mbuffer",
    )
    group.add(
        "compress",
        "--compress",
        type=values.codec,
        metavar="HOW",
        help="compress on the way through ssh: zstd, zstd:LEVEL, lz4, none; auto"
        " compresses if that is faster (default: %(default)s)",
    )
    group.add(
        "retries",
        "--retries",
        type=values.retries,
        metavar="N",
        help="resume an interrupted transfer up to N times in this run (default:"
        " %(default)s); the next run resumes it in any case",
    )
    group.add(
        "checkpoint_interval",
        "--checkpoint-interval",
        type=values.interval,
        metavar="SIZE",
        help="save a resume point every SIZE bytes, over ssh and in large local"
        f" transfers (default: {TransferOptions().checkpoint_interval // GIB}G)",
    )
    group.add(
        "max_size",
        "--max-size",
        type=values.max_size,
        metavar="SIZE",
        help="stop and discard a transfer larger than SIZE, like 500G; for a source"
        " that is not trusted (default: no limit)",
    )


def add_check_space(group: OptionGroup) -> None:
    """Add the option that controls the check for free space before sending."""
    group.add(
        "check_space",
        "--no-check-space",
        action="store_false",
        help="skip the free-space check",
    )


def add_sudo(parser: Parser) -> None:
    """Add the option that asks for root's rights."""
    parser.add_argument(
        "--sudo",
        action="store_true",
        dest="as_root",
        help="if not root, run this command again through sudo",
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
        help="print nothing but failures",
    )
    add(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="print more; -vv: every command that runs; also -v LEVEL: debug, info,"
        " warning or error",
    )
    add(
        "--verbosity",
        choices=["debug", "info", "warning", "error"],
        help=argparse.SUPPRESS,
    )
    add("-d", "--debug", action="store_true", help="the same as -vv")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show progress (default: on a terminal)",
    )
    add("--json", action="store_true", help="print a JSON document instead of lines")
    add(
        "--version",
        action="store_true",
        help="print the version; with -v also those of Python, kernel, btrfs and ssh",
    )
