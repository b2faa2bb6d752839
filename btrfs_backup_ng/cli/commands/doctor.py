"""The ``doctor`` verb: words -> what is examined -> lines or a document."""

import argparse
import shlex
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

from btrfs_backup_ng.__logger__ import PROGRAM
from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.actions.doctor.diagnosis import (
    OF_A_PLACE,
    Diagnosis,
    Grade,
    exit_status,
)
from btrfs_backup_ng.actions.doctor.look import examine, rule_for
from btrfs_backup_ng.cli.output import print_line
from btrfs_backup_ng.cli.parser import Parser, add_display
from btrfs_backup_ng.cli.places import (
    new_parser,
    print_document,
    read_places,
    read_words,
)
from btrfs_backup_ng.cli.ssh_options import add_ssh, ssh_options
from btrfs_backup_ng.cli.table import terminal_width, wrapped

_EPILOG = f"""\
places:
  /path, ssh://[user@]host[:port]/path   as for a backup; nothing is changed there

what it looks at:
  connect, login, shell   is somebody there, are we let in, does a start file print?
  btrfs, version, stream  btrfs-progs, and the send stream they and the kernel know
  flock                   keeps two runs apart on another machine
  privilege               root, or sudo -n or doas -n for btrfs; no password is asked
  {', '.join(OF_A_PLACE)}
                          what is there, and what can it be used for?
  clock                   names of snapshots carry the time
  sessions                MaxSessions of the sshd there, by really opening some
  programs                pv, mbuffer, zstd, lz4, which some options need

what it says:
  OK, WARN, FAIL, or UNKNOWN for what could not be looked at; and what mends it

exit status:
  0 all is OK   1 WARN or UNKNOWN   2 FAIL, or a usage error

a rule for sudo, checked before it is in force:
  btrfs-backup-ng doctor --sudoers ssh://backup@nas/srv | visudo -c -f -
"""
#: Columns of the grade and of the check's name, and where the text begins.
_GRADE, _CHECK = 7, 10
_NAME_AT, _TEXT_AT = 2 + _GRADE + 2, 2 + _GRADE + 2 + _CHECK + 2


def main(words: Sequence[str]) -> int:
    """Examine places, one after the other, and say what was found.

    :returns: 0 if all is good, 1 for warnings, 2 for failures.
    :raises UsageError: if the words do not make sense.
    """
    options = read_words(_parser(), words)
    if options is None:
        return 0
    places, ssh = read_places(options), ssh_options(options)
    if options.sudoers:
        if len(places) != 1:
            raise UsageError("--sudoers is about one place: each machine has its own")
        print_line(rule_for(places[0], ssh))
        return 0
    command_line = visible(shlex.join([PROGRAM, "doctor", *words]))
    found: list[tuple[str, tuple[Diagnosis, ...]]] = []
    for place in places:
        findings = examine(place, ssh, clock=time.time, command_line=command_line)
        found.append((str(place), findings))
        _show(str(place), findings, options)
    status = exit_status(finding for _, findings in found for finding in findings)
    if options.json:
        print_document(status, [_as_json(*each) for each in found])
    return status


def _parser() -> Parser:
    parser = new_parser(
        "doctor",
        usage="[options] PLACE ...",
        description="Find out whether backups can be made from or to places, and say"
        " what\nmends what is in the way.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--sudoers",
        action="store_true",
        help="print only the line that lets the user there run btrfs as root, for"
        " /etc/sudoers.d/btrfs-backup-ng (for /etc/doas.conf where there is only doas)",
    )
    add_ssh(parser)
    add_display(parser)
    return parser


def _show(
    place: str, findings: Sequence[Diagnosis], options: argparse.Namespace
) -> None:
    if options.json:
        return
    if options.quiet:
        findings = [f for f in findings if f.grade is not Grade.OK]
        if not findings:
            return
    print_line(visible(place))
    for line in _lines(findings):
        print_line(visible(line))


def _lines(findings: Sequence[Diagnosis]) -> Iterator[str]:
    """Return a line for each finding; those unchecked for one reason share a line."""

    def reason(finding: Diagnosis) -> str:
        return finding.found if finding.grade is Grade.UNKNOWN else finding.check

    for _, group in groupby(findings, reason):
        same = list(group)
        names, first = ", ".join(finding.check for finding in same), same[0]
        start = f"  {first.grade.value:<{_GRADE}}  "
        if len(same) > 1:
            yield from wrapped(f"{start}{names}: {first.found}", _NAME_AT)
        else:
            yield from wrapped(f"{start}{names:<{_CHECK}}  {first.found}", _TEXT_AT)
        for line in first.mend.splitlines():
            yield from _mending(" " * _NAME_AT + line)


def _mending(line: str) -> Iterator[str]:
    """Return a line with a command a second one if it is too long; never cut that."""
    width = terminal_width()
    prose, colon, command = line.rpartition(":  ")
    if width is None or len(line) <= width or not colon:
        yield line
        return
    yield from wrapped(f"{prose}:", _NAME_AT)
    yield " " * (_NAME_AT + 2) + command


def _as_json(place: str, findings: Sequence[Diagnosis]) -> dict[str, object]:
    return {
        "place": place,
        "findings": [
            {
                "check": finding.check,
                "status": finding.grade.value.lower(),
                "found": finding.found,
                "mend": finding.mend.splitlines(),
            }
            for finding in findings
        ],
    }
