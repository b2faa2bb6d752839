"""The ``timer`` verb: units of systemd that run what is configured."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import Refused, UsageError, resembling, visible
from btrfs_backup_ng.actions.timer import (
    Manager,
    Timer,
    check_calendar,
    find_inhibitor,
    find_mount,
)
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.config.file import (
    configuration_path,
    read_configuration,
)
from btrfs_backup_ng.cli.config.jobs import plan_volumes
from btrfs_backup_ng.cli.config.look import FSTAB
from btrfs_backup_ng.cli.config.options import EPILOG_FILE, add_config
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import Parser, add_display, new_parser
from btrfs_backup_ng.cli.prompt import Declined, confirmed
from btrfs_backup_ng.cli.sudo import absolute_command
from btrfs_backup_ng.core.events import Level, Noted
from btrfs_backup_ng.core.notifiers import read_notifiers
from btrfs_backup_ng.core.units import SERVICE, Plan, cron_line, write_units
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.facts import read_text
from btrfs_backup_ng.host.mounts import MOUNTS, parse_mounts, unescaped
from btrfs_backup_ng.host.trust import find_open_directory
from btrfs_backup_ng.sshutil.passwords import has_terminal

_INSTALL, _SHOW, _REMOVE = "install", "show", "remove"
_ACTIONS = (_INSTALL, _SHOW, _REMOVE)
_HOURLY = "hourly"
_RUNNING = "running"
_EPILOG = f"""\
actions:
  install  write a service and a timer of systemd that run all volumes, or those
    that are named; print them, ask, and enable them. Each choice of volumes has its
    own timer, and is replaced when it is installed again. Without systemd, print the
    line for cron.

  show  print the timers, their next run, and how the last one ended

  remove  disable and delete all timers, or those that are named. A file that this
    program did not write is left alone.

exit status:
  0  done, or shown
  1  failed, or you said no
  2  usage error, or an error in the configuration; nothing was changed
  4  refused, nothing was changed: systemd does not run here, the units are not yours
    to write, or a file of another origin has their name

{EPILOG_FILE}"""


class TimerOptions(Value):
    """The options of ``timer``.

    :ivar action: ``install``, ``show`` or ``remove``.
    :ivar words: names of volumes; of ``remove``, of timers.
    :ivar calendar: as OnCalendar= of systemd takes it.
    :ivar on_mount: the target whose disk starts the backups, or "".
    """

    action: str
    path: str
    words: tuple[str, ...]
    calendar: str
    on_mount: str
    is_users: bool
    dry_run: bool
    yes: bool


class TimerView(Value):
    """A timer.

    :ivar schedule: as systemd has it; "" if a mount starts it.
    :ivar next_run: as systemd writes times; "" if it is not known.
    :ivar last_end: of the last run since systemd started, as above.
    :ivar result: ``success`` or what failed, as systemd says it; ``running``; or "".
    :ivar exit_status: of that run.
    """

    name: str
    schedule: str
    mount: str
    description: str
    command: str
    enabled: bool
    next_run: str
    last_end: str
    result: str
    exit_status: int | None


class InstallReport(Value):
    """The document of ``install``.

    :ivar units: their texts, by their paths.
    :ivar cron: the line for cron, if systemd does not run here.
    """

    units: dict[str, str]
    installed: bool
    cron: str = ""


class ShowReport(Value):
    """The document of ``show`` and ``remove``."""

    timers: list[TimerView]


def main(words: Sequence[str]) -> int:
    """Install, show or remove timers."""
    return run_command("timer", words, build_parser(), read, _run)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "timer",
        usage=[
            "[options] install [VOLUME ...]",
            "[options] show",
            "[options] remove [TIMER ...]",
        ],
        description="Let systemd run the backups of the configuration by itself.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add_config(parser)
    add("--hourly", action="store_true", help="every hour (the default)")
    add("--daily", action="store_true", help="every day")
    add(
        "--oncalendar",
        metavar="SPEC",
        help="at these times, as systemd writes them, like 'Mon..Fri 18:00'",
    )
    add(
        "--on-mount",
        metavar="TARGET",
        help="whenever the disk of this target is mounted; back up to it only",
    )
    add("--user", action="store_true", help="as this user, not as root")
    add(
        "-n",
        "--dry-run",
        action="store_true",
        help="print what would be written or removed; change nothing",
    )
    add("-y", "--yes", action="store_true", help="do not ask for confirmation")
    add_display(parser)
    return parser


def read(options: argparse.Namespace) -> TimerOptions:
    """Return the options, if they make sense together.

    :raises UsageError: if they do not.
    """
    action, *words = options.places or [""]
    if action not in _ACTIONS:
        meant = resembling(action, _ACTIONS) or _SHOW
        text = f"{visible(action)!r} is no action" if action else "no action given"
        raise UsageError(text, hint=f"Try:  {PROGRAM} timer {meant}")
    times = {
        "--hourly": options.hourly,
        "--daily": options.daily,
        "--oncalendar": options.oncalendar,
        "--on-mount": options.on_mount,
    }
    given = [name for name, value in times.items() if value or value == ""]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} are two answers to one question")
    if given and action != _INSTALL:
        raise UsageError(f"{given[0]} has no effect with {action}")
    if options.on_mount == "":
        raise UsageError("--on-mount: no target given")
    if words and action == _SHOW:
        raise UsageError(f"show takes no {visible(words[0])!r}")
    named = options.oncalendar
    return TimerOptions(
        action=action,
        path=configuration_path(options.config),
        words=tuple(words),
        calendar=named if named is not None else "daily" if options.daily else _HOURLY,
        on_mount=options.on_mount or "",
        is_users=options.user,
        dry_run=options.dry_run,
        yes=options.yes,
    )


def _run(options: TimerOptions, call: Call) -> int:
    manager = Manager(is_users=options.is_users)
    if options.action == _SHOW:
        return _show(manager, Output(call))
    if not (options.yes or options.dry_run or has_terminal() and not call.as_json):
        raise UsageError(
            "cannot ask for confirmation (no terminal); nothing was changed",
            hint="Preview:  --dry-run     Skip the question:  --yes",
        )
    manager.check_rights(f"As root:  {call.sudo_line}\nFor this user alone:  --user")
    work = _install if options.action == _INSTALL else _remove
    return work(options, manager, call)


def _install(options: TimerOptions, manager: Manager, call: Call) -> int:
    output = Output(call)
    plan = _plan(options, manager, output)
    units = write_units(plan)
    manager.check_names(units)
    if obstacle := manager.find_obstacle():
        return _offer_cron(plan, obstacle, output)
    paths = {
        os.path.join(manager.directory, name): text for name, text in units.items()
    }
    if not options.is_users:
        _warn_of_program(output)
    for path, text in paths.items():
        word = "replaces the one there" if os.path.lexists(path) else "new"
        output.line(f"{visible(path)} ({word}):")
        for line in text.splitlines():
            output.line(f"  {line}".rstrip())
    if not options.dry_run:
        _ask(options, "Write and enable this?", "written")
        timer = Timer(plan.name, units)
        manager.install(timer)
        (view,) = _views([timer], manager, is_running=True)
        for line in _installed(plan, view):
            output.line(line)
    return output.finish(0, InstallReport(paths, not options.dry_run))


def _plan(options: TimerOptions, manager: Manager, output: Output) -> Plan:
    """Return what is to be installed; remark if its runs will not ping.

    :raises UsageError: if the configuration has an error, or no such volume or target.
    :raises Refused: if it is not to be trusted.
    """
    configuration = read_configuration(options.path)
    only = [options.on_mount] if options.on_mount else []
    plans = plan_volumes(configuration, wanted=options.words, only=only)
    if only and not plans:
        raise UsageError("none of these volumes goes to that target")
    notifiers = read_notifiers(configuration)
    if notifiers and notifiers.ping and (only or options.words):
        text = "its runs are a part of all, so they do not ping ([notify])"
        output.tell(Noted("", Level.INFO, text))
    mounts = {
        target.conditions.require_mount
        or _mount_of(options.on_mount, one.location.path, is_here=one.location.is_here)
        for plan in plans
        for target, one in zip(plan.targets, plan.job.destinations)
        if only
    }
    if len(mounts) > 1:
        several = ", ".join(map(visible, sorted(mounts)))
        raise UsageError(f"{visible(options.on_mount)} is on several disks: {several}")
    if not only:
        check_calendar(options.calendar)
    words = ["run", "-c", options.path]
    words += ["--only", options.on_mount] if only else []
    return Plan(
        command=(*absolute_command(), *words, *options.words),
        calendar="" if only else options.calendar,
        mount=mounts.pop() if mounts else "",
        target=options.on_mount,
        volumes=options.words,
        inhibitor="" if options.is_users else find_inhibitor(manager),
        is_users=options.is_users,
    )


def _mount_of(target: str, path: str, *, is_here: bool) -> str:
    """Return where the disk of a target is mounted, or is to be mounted.

    :raises UsageError: if that is not known.
    """
    name = visible(target)
    if not is_here:
        raise UsageError(f"the target {name} is not on a disk of this machine")
    mounted = [mount.point for mount in parse_mounts(read_text(MOUNTS))]
    fields = [line.split("#")[0].split() for line in read_text(FSTAB).splitlines()]
    later = [unescaped(each[1]) for each in fields if len(each) > 1]
    found = find_mount(path, mounted) or find_mount(path, later)
    if not found:
        raise UsageError(
            f"no disk is mounted at the place of {name} now: {visible(path)}",
            hint="Mount it first, or name the mount point in the configuration:"
            '  require-mount = "/mnt/usb"',
        )
    return found


def _warn_of_program(output: Output) -> None:
    """Warn if another user can change the program, which root will run."""
    package = os.path.dirname(
        os.path.abspath(sys.modules[__package__.partition(".")[0]].__file__ or "")
    )
    for path in (os.path.abspath(sys.argv[0]), os.path.join(package, "__init__.py")):
        if os.path.exists(path) and (found := find_open_directory(path)):
            text = f"root will run {visible(path)}, but {found}"
            hint = "Install the program where only root can change it: see README."
            return output.tell(Noted(path, Level.WARNING, text, hint))


def _offer_cron(plan: Plan, obstacle: str, output: Output) -> int:
    """Print the line for cron, as systemd cannot be asked."""
    line = cron_line(plan)
    where = "crontab -e" if plan.is_users else "/etc/cron.d/btrfs-backup-ng"
    hint = f"For cron, the line above goes into  {where}"
    if line:
        output.result(line)
    else:
        hint = "There is a line for cron with  --hourly  or  --daily"
    error = Refused(f"systemd does not run here: {obstacle}", hint=hint)
    status = output.fail("", error)
    return output.finish(status, InstallReport({}, installed=False, cron=line))


def _installed(plan: Plan, view: TimerView) -> Iterator[str]:
    if plan.mount:
        start = "systemctl --user start" if plan.is_users else "systemctl start"
        yield f"{plan.starter}: starts when {visible(plan.mount)} is mounted"
        yield f"To start it now:  {start} {_service_of(plan.name)}"
    else:
        yield f"{plan.starter}: enabled, next run {view.next_run or 'unknown'}"
    if plan.is_users:
        yield "To run also while you are not logged in:  loginctl enable-linger"


def _show(manager: Manager, output: Output) -> int:
    timers = manager.find_timers()
    obstacle = manager.find_obstacle()
    views = _views(timers, manager, is_running=not obstacle)
    for view in views:
        for line in _lines(view):
            output.line(line)
    if not views:
        output.line(f"No timer is installed. Install one:  {PROGRAM} timer install")
    elif obstacle:
        text = f"systemd does not run here: {obstacle}"
        output.tell(Noted("", Level.WARNING, text))
    return output.finish(0, ShowReport(views))


def _remove(options: TimerOptions, manager: Manager, call: Call) -> int:
    output, timers = Output(call), manager.find_timers()
    names = [
        word.removesuffix(".timer").removesuffix(SERVICE) for word in options.words
    ]
    for name in names:
        if name not in [timer.name for timer in timers]:
            raise UsageError(
                f"{PROGRAM} timer made no {visible(name)!r}",
                hint=f"See:  {PROGRAM} timer show",
            )
    timers = [timer for timer in timers if not names or timer.name in names]
    is_running = not manager.find_obstacle()
    views = _views(timers, manager, is_running=is_running)
    word = "would remove" if options.dry_run else "removed"
    for view in views if not options.yes else ():
        output.line(f"{view.name}: {_when(view)}")
    if timers and not options.dry_run:
        _ask(options, "Remove this?", "removed")
        manager.remove(timers, is_running=is_running)
    for timer in timers:
        for name in timer.units:
            output.line(f"{word} {visible(os.path.join(manager.directory, name))}")
    if not timers:
        output.line("No timer is installed.")
    return output.finish(0, ShowReport(views))


def _ask(options: TimerOptions, question: str, done: str) -> None:
    """Ask whether to continue, unless ``--yes`` says so.

    :raises Declined: if the answer was no.
    """
    if not (options.yes or confirmed(f"{question} [y/N]: ")):
        raise Declined(f"nothing was {done}")


def _views(
    timers: Sequence[Timer], manager: Manager, *, is_running: bool
) -> list[TimerView]:
    """Return the views of timers.

    :param is_running: systemd can be asked.
    """
    names = [n for t in timers for n in (t.starter, t.name + SERVICE)]
    states = manager.states(names) if is_running else {}
    views = []
    for timer in timers:
        starter = states.get(timer.starter, {})
        service = states.get(timer.name + SERVICE, {})
        ended = service.get("ExecMainExitTimestamp", "")
        result = service.get("Result", "") if ended else ""
        status = service.get("ExecMainStatus", "")
        if service.get("ActiveState") in ("activating", "deactivating"):
            result, ended = _RUNNING, ""
        views.append(
            TimerView(
                name=timer.name,
                schedule=timer.schedule,
                mount=timer.mount,
                description=timer.description,
                command=timer.command,
                enabled=starter.get("UnitFileState") == "enabled",
                next_run=starter.get("NextElapseUSecRealtime", ""),
                last_end=ended,
                result=result,
                exit_status=int(status) if ended and status.isdigit() else None,
            )
        )
    return views


def _lines(view: TimerView) -> Iterator[str]:
    yield f"{view.name}: {_when(view)}{'' if view.enabled else ', not enabled'}"
    yield f"  does  {visible(view.description)}"
    if view.next_run:
        yield f"  next  {view.next_run}"
    if view.result == _RUNNING:
        yield "  now   running"
    if view.last_end:
        how = "done" if view.result == "success" else f"failed ({view.result})"
        if view.exit_status:
            how += f", exit status {view.exit_status}"
        yield f"  last  {view.last_end}: {how}"
        yield f"  log   journalctl -u {_service_of(view.name)}"


def _when(view: TimerView) -> str:
    return visible(view.schedule) if view.schedule else f"with {visible(view.mount)}"


def _service_of(name: str) -> str:
    """Return the service of a timer as a word of a shell."""
    return shlex.quote(name + SERVICE)
