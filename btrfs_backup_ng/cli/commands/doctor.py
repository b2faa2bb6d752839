"""The ``doctor`` verb: places -> findings -> lines or a document."""

import argparse
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import BackupError, UsageError, visible
from btrfs_backup_ng.actions.doctor.diagnosis import (
    OF_A_PLACE,
    Diagnosis,
    Grade,
    exit_status,
)
from btrfs_backup_ng.actions.doctor.look import examine, rule_for
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.config.options import EPILOG_FILE, add_config
from btrfs_backup_ng.cli.job_files import JobFiles
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import Parser, add_display, new_parser
from btrfs_backup_ng.cli.places import need_places, read_configured
from btrfs_backup_ng.cli.session import open_session
from btrfs_backup_ng.cli.ssh_options import add_ssh, read_ssh
from btrfs_backup_ng.cli.stdout import print_line
from btrfs_backup_ng.cli.table import terminal_width, wrapped
from btrfs_backup_ng.cli.views import PlacesReport
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.value import EMPTY, Value, replace

if TYPE_CHECKING:
    from btrfs_backup_ng.cli.config.places import ConfiguredPlace

_EPILOG = f"""\
places:
  /path  as for a backup; nothing is changed there
  ssh://[user@]host[:port]/path  the same on another machine

checks:
  connect, login, shell  reachable? login accepted? does a start-up file print?
  btrfs, version, stream  btrfs-progs, and the send stream that they and the kernel know
  flock  keeps two runs apart on another machine
  privilege  root, or sudo -n or doas -n for btrfs
  {', '.join(OF_A_PLACE)}  what the place is, and what it can be
    used for
  clock  names of snapshots contain the time
  sessions  MaxSessions of the ssh server, by opening some
  programs  pv, mbuffer, zstd, lz4, which some options need

Each line says OK, WARN, FAIL, or UNKNOWN if it could not be checked, and how to fix it.

It never asks for a password, since a timer that starts a backup cannot type one. It
uses --ssh-password-file and --sudo-password-file.

examples:
  {PROGRAM} doctor --sudoers ssh://backup@nas/srv | visudo -c -f -  check the rule
    for sudo before you install it

exit status:
  0  all is OK
  1  WARN or UNKNOWN
  2  FAIL, or a usage error
  4  needs root here

{EPILOG_FILE}"""
#: Columns of the grade and of the check's name, and where the text begins.
_GRADE, _CHECK = 7, 10
_NAME_AT, _TEXT_AT = 2 + _GRADE + 2, 2 + _GRADE + 2 + _CHECK + 2


class DoctorOptions(Value):
    """The options of ``doctor``.

    :ivar sudoers: print only the rule for sudo.
    :ivar configured: the places, if the call names none.
    """

    places: tuple[Location, ...]
    sudoers: bool
    ssh: SshOptions
    configured: tuple["ConfiguredPlace", ...] = ()


def main(words: Sequence[str]) -> int:
    """Examine places."""
    parser = build_parser()
    expand = JobFiles(parser).expand

    def read_all(options: argparse.Namespace) -> DoctorOptions:
        return read(options, read_configured(options, build_parser, expand(words)))

    return run_command("doctor", words, parser, read_all, _run, expand)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "doctor",
        usage="[options] [PLACE ...]",
        description="Check that backups to and from places will work, and print how to"
        " fix each problem. Without a place, check those of the configuration.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--sudoers",
        action="store_true",
        help="print only the line that lets the user there run btrfs as root, for"
        " /etc/sudoers.d/btrfs-backup-ng (/etc/doas.conf if there is only doas)",
    )
    add_config(parser)
    add_ssh(parser)
    add_display(parser)
    return parser


def read(
    options: argparse.Namespace, configured: tuple["ConfiguredPlace", ...] = ()
) -> DoctorOptions:
    """Return the options that the parsed words mean."""
    if options.sudoers or not configured:
        need_places(options.places, "doctor")
    places = tuple(map(values.location, options.places))
    if options.sudoers and len(places) != 1:
        raise UsageError(
            "--sudoers takes one place: each machine has a rule of its own"
        )
    if options.sudoers and options.json:
        raise UsageError("--sudoers prints a line for a file, which is not JSON")
    ssh = replace(read_ssh(options), may_ask=options.sudoers)  # as a timer cannot
    return DoctorOptions(places, options.sudoers, ssh, configured)


class ExaminedPlace(Value):
    """A place and the results of all checks."""

    place: str
    findings: tuple[Diagnosis, ...]


def _run(options: DoctorOptions, call: Call) -> int:
    if options.sudoers:
        print_line(rule_for(options.places[0], options.ssh))
        return 0
    output, all_findings, here = Output(call), list[Diagnosis](), list[Diagnosis]()
    examined = []
    for place, findings in _examine_all(options, call, output):
        all_findings += findings
        here += findings if place.is_here else ()
        examined.append(ExaminedPlace(str(place), findings))
        if call.quiet:
            findings = tuple(f for f in findings if f.grade is not Grade.OK)
        if findings:
            output.result(visible(str(place)))
            for line in _lines(findings):
                output.result(visible(line))
    return output.finish(exit_status(all_findings, here), PlacesReport(examined))


def _examine_all(
    options: DoctorOptions, call: Call, output: Output
) -> Iterator[tuple[Location, tuple[Diagnosis, ...]]]:
    """Examine the places one after the other.

    Of those that are configured, one that may be away, and is, costs a line.
    """
    ways = {place: options.ssh for place in options.places}
    refused: Mapping[str, BackupError] = EMPTY
    if options.configured:
        from btrfs_backup_ng.cli.config import places  # here: only for these

        every = places.distinct(options.configured)
        ways = {one.location: replace(one.ssh, may_ask=False) for one in every}
        with open_session(call, options.ssh) as session:
            session = replace(session, ssh_at=ways)
            away, refused = places.find_absent(every, session, output)
        ways = {place: ssh for place, ssh in ways.items() if place not in away}
    line = visible(shlex.join([PROGRAM, *call.words]))
    for place, ssh in ways.items():
        if error := refused.get(str(place)):
            yield place, (Diagnosis("conditions", Grade.FAIL, error.message),)
        else:
            yield place, examine(place, ssh, clock=time.time, command_line=line)


def _lines(findings: Sequence[Diagnosis]) -> Iterator[str]:
    """Return a line for each finding; those unchecked for one reason share a line."""

    def reason(finding: Diagnosis) -> str:
        return finding.found if finding.grade is Grade.UNKNOWN else finding.check

    for _, group in groupby(findings, reason):
        same = list(group)
        names, first = ", ".join(finding.check for finding in same), same[0]
        start = f"  {first.grade.value.upper():<{_GRADE}}  "
        if len(same) > 1:
            yield from wrapped(f"{start}{names}: {first.found}", _NAME_AT)
        else:
            yield from wrapped(f"{start}{names:<{_CHECK}}  {first.found}", _TEXT_AT)
        for line in first.fix.splitlines():
            yield from _fix_lines(" " * _NAME_AT + line)


def _fix_lines(line: str) -> Iterator[str]:
    """Break a line before its command if it is too long; never break the command."""
    width = terminal_width()
    prose, colon, command = line.rpartition(":  ")
    if width is None or len(line) <= width or not colon:
        yield line
        return
    yield from wrapped(f"{prose}:", _NAME_AT)
    yield " " * (_NAME_AT + 2) + command
