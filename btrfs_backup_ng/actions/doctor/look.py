"""The examination of one place by ``doctor``; nothing is changed.

The facts that it finds are judged in ``diagnosis``.
"""

import os
import pwd
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext

from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError, attempt, visible
from btrfs_backup_ng.actions.doctor import diagnosis
from btrfs_backup_ng.actions.doctor.diagnosis import Diagnosis, Grade, Subject
from btrfs_backup_ng.core.codecs import PROGRAMS
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Facts, Privilege, SshOptions
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.host.facts import parse_facts
from btrfs_backup_ng.host.local import LocalHost
from btrfs_backup_ng.host.ssh import (
    CREDENTIAL,
    SshHost,
    check_programs,
    privilege_error,
    privilege_rule,
)
from btrfs_backup_ng.process.child import PIPE, Child
from btrfs_backup_ng.process.command import find_program, last_words
from btrfs_backup_ng.sshutil.login import Login
from btrfs_backup_ng.sshutil.master import LoginRefused
from btrfs_backup_ng.sshutil.passwords import find_password_file
from btrfs_backup_ng.wire import verbs

#: Seconds since the epoch, of this machine.
Clock = Callable[[], float]

_PROGRAMS_HERE = ("pv", "mbuffer", *PROGRAMS)


def examine(
    location: Location, options: SshOptions, *, clock: Clock, command_line: str
) -> tuple[Diagnosis, ...]:
    """Find out whether backups can be made from or to a place.

    :param command_line: as the user typed it, for the hint that repeats it.
    :returns: one finding for each check, whether or not it could be made.
    :raises UsageError: if the place cannot be examined.
    """
    if location.is_command:
        raise UsageError("a command (shell://) cannot be examined")
    if location.is_here:
        findings = _look_here(location.path, command_line, options.silence_s)
        return diagnosis.completed(diagnosis.HERE, findings, "that needs root")
    findings = []
    with Connections() as connections:
        because = _look_there(location, options, connections, clock, findings)
    return diagnosis.completed(diagnosis.THERE, findings, because)


def rule_for(location: Location, options: SshOptions) -> str:
    """Return the line that lets the verbs run btrfs as root on another machine.

    :raises UsageError: if it is not a place on another machine.
    :raises Refused: if such a line would be of no use.
    """
    if not location.is_remote:
        raise UsageError(
            "on this machine the whole program runs as root, and no rule is needed",
            hint="Run:  sudo btrfs-backup-ng ...",
        )
    with Connections() as connections:
        host = connections.host(location, options)
        said = host.hello(location.path)
    name = visible(host.name)
    if said.get("uid") == "0":
        raise Refused(f"{name} is root there, and needs no rule")
    if not said.get("granted") and not said.get("program"):
        raise Refused(f"{name} has no btrfs command that a rule could name")
    return visible(privilege_rule(said)[1])


def _look_here(path: str, command_line: str, silence_s: float) -> list[Diagnosis]:
    host = LocalHost(silence_s)
    privilege = Diagnosis("privilege", Grade.OK, "root")
    sudo = f"Run:  sudo {command_line}"
    try:
        facts, is_seen = host.look(path), True
    except NeedsRoot as error:
        facts, is_seen = host.look("/"), False
        privilege = Diagnosis("privilege", Grade.FAIL, error.message, sudo)
    except BackupError as error:
        facts, is_seen = host.look("/"), False
        finding = Diagnosis("directory", Grade.FAIL, error.message, error.hint)
        return [*_look_at_tools(facts), privilege, finding, _programs(None)]
    if is_seen and facts.privilege is Privilege.NONE:
        text = f"reading snapshots of {visible(path)} needs root"
        privilege = Diagnosis("privilege", Grade.FAIL, text, sudo)
    findings = [*_look_at_tools(facts), privilege, _programs(None)]
    if is_seen:
        subject = _subject_here(path, facts)
        findings += diagnosis.judge_place(subject)
    return findings


def _look_at_tools(facts: Facts) -> list[Diagnosis]:
    program, version = find_program("btrfs") or "", facts.btrfs_version
    return [
        diagnosis.judge_btrfs(program, "", is_here=True),
        diagnosis.judge_version(version, has_btrfs=bool(program)),
        diagnosis.judge_stream(facts.send_protocol, version),
    ]


def _subject_here(path: str, facts: Facts) -> Subject:
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    is_subvolume = facts.is_btrfs and facts.containing == os.path.realpath(path)
    return Subject(path, "", user, facts, is_subvolume, is_root=os.geteuid() == 0)


def _programs(there: frozenset[str] | None) -> Diagnosis:
    here = frozenset(name for name in _PROGRAMS_HERE if find_program(name))
    return diagnosis.judge_programs(here, there)


def _look_there(
    location: Location,
    options: SshOptions,
    connections: Connections,
    clock: Clock,
    findings: list[Diagnosis],
) -> str:
    """Examine a place of another machine, as far as possible.

    :param findings: takes the findings on the way.
    :returns: why the other checks could not be made.
    """
    where = visible(location.address)
    host = attempt(lambda: connections.host(location, options))
    if isinstance(host, BackupError):
        refused = isinstance(host, LoginRefused)
        if refused:
            findings.append(Diagnosis("connect", Grade.OK, f"{where} answers"))
        check = "login" if refused else "connect"
        findings.append(_failure(check, host))
        return "there is no login" if refused else "there is no connection"
    findings.append(Diagnosis("connect", Grade.OK, f"{where} answers"))
    began = clock()
    said = attempt(lambda: host.hello(location.path))
    ended = clock()
    if isinstance(said, BackupError):
        text = f"{visible(host.name)}, one connection"
        findings.append(Diagnosis("login", Grade.OK, text))
        by_hand = Login(location, options).by_hand()
        findings.append(_failure("shell", said, f"See:  ssh {by_hand} true"))
        return "no command can be run there"
    user = visible(said.get("user", ""))
    text = f"as {user} (uid {visible(said.get('uid', ''))}), one connection"
    findings.append(Diagnosis("login", Grade.OK, text))
    lacking = attempt(lambda: check_programs(host.name, said))
    if isinstance(lacking, BackupError):
        findings.append(_failure("shell", lacking))
        return "programs are missing there"
    findings.append(Diagnosis("shell", Grade.OK, "prints nothing of its own"))
    findings.append(diagnosis.judge_clock(said.get("clock", ""), began, ended))
    more, privilege = _privilege(location, options, host, said)
    facts = _facts(more)
    findings += _tools(said, facts)
    codecs = frozenset(name for name in PROGRAMS if said.get(name))
    findings.append(_programs(codecs))
    findings.append(_sessions(host, is_one_kept=more is not said))
    if isinstance(facts, BackupError):
        findings += (privilege, _failure("directory", facts))
        return "the answer is not understood"
    subject = Subject(
        location.path,
        host.name,
        said.get("user", ""),
        facts,
        is_subvolume=facts.is_btrfs and facts.containing == more.get("where"),
        is_root=more.get("uid") == "0",
    )
    if subject.is_subvolume and not facts.is_subvolume and privilege.grade is Grade.OK:
        privilege = _half_a_privilege(said, more)
    findings += (privilege, *diagnosis.judge_place(subject))
    return ""


def _failure(check: str, error: BackupError, hint: str = "") -> Diagnosis:
    return Diagnosis(check, Grade.FAIL, error.message, error.hint or hint)


def _facts(said: Mapping[str, str]) -> Facts | BackupError:
    try:
        return parse_facts(said)
    except (ValueError, KeyError) as error:
        return BackupError(f"the answer is not understood: {visible(str(error))}")


def _tools(said: Mapping[str, str], facts: Facts | BackupError) -> list[Diagnosis]:
    program, words = said.get("program", ""), said.get("btrfs", "")
    findings = [
        diagnosis.judge_btrfs(program, words, is_here=False),
        diagnosis.judge_flock(said.get("flock", "")),
    ]
    if isinstance(facts, BackupError):
        return findings
    version = facts.btrfs_version
    has_btrfs = bool(program or words)
    findings.append(diagnosis.judge_version(version, has_btrfs=has_btrfs))
    findings.append(diagnosis.judge_stream(facts.send_protocol, version))
    return findings


def _privilege(
    location: Location, options: SshOptions, host: SshHost, said: Mapping[str, str]
) -> tuple[Mapping[str, str], Diagnosis]:
    """Return the answer of ``hello`` with the right to run btrfs, and judge that right.

    The user is not asked for a password, as a timer that starts a backup cannot ask.

    :param said: the answer without a password.
    """
    privilege = said.get("privilege", "none")
    if privilege == "root":
        return said, Diagnosis("privilege", Grade.OK, "root")
    if privilege != "none":
        text = f"{visible(privilege)} -n runs btrfs as root"
        return said, Diagnosis("privilege", Grade.OK, text)
    if not said.get("program") and not said.get("granted"):
        return said, diagnosis.unknown("privilege", "there is no btrfs command")
    if said.get("sudo"):
        file = find_password_file(options.sudo_password_file, CREDENTIAL)
        if file:
            more = attempt(lambda: host.ask_about(location.path))
            if isinstance(more, BackupError):
                return said, _failure("privilege", more)
            text = f"sudo accepts the password in {visible(file)}"
            return more, Diagnosis("privilege", Grade.OK, text)
    error = privilege_error(host.name, said)
    text = error.message.removeprefix(f"on {visible(host.name)}, ")
    return said, Diagnosis("privilege", Grade.FAIL, text, error.hint)


def _half_a_privilege(said: Mapping[str, str], more: Mapping[str, str]) -> Diagnosis:
    """Return the finding that root's btrfs may show its version, and no subvolume."""
    how = visible(more.get("privilege", ""))
    text = f"{how} runs btrfs --version as root, but not btrfs subvolume show"
    hint = privilege_error("", said).hint
    return Diagnosis("privilege", Grade.FAIL, text, hint)


def _sessions(host: SshHost, *, is_one_kept: bool) -> Diagnosis:
    """Open as many sessions side by side as backups may need.

    :param is_one_kept: one is open already.
    """
    host.close_idle()
    command = host.command(verbs.WAIT, label="a session")
    command = replace(command, room=nullcontext())  # to see where the room ends
    opened, words = int(is_one_kept), ""
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child.start(command, stdin=PIPE, stdout=PIPE))
            for _ in range(diagnosis.SESSIONS - opened)
        ]
        for child in children:
            said = attempt(child.read_line)
            if said == b"ready":
                opened += 1
            elif isinstance(said, BackupError):
                return diagnosis.judge_sessions(opened, said.message)
            elif not words:
                child.wait(10)
                words = visible(last_words(child.stderr_tail()))
        for child in children:
            assert child.stdin
            child.stdin.close()
        for child in children:
            child.wait(5)
    return diagnosis.judge_sessions(opened, words)
