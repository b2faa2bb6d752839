"""The timers of this program: units of systemd that it wrote, and nothing else."""

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import (
    BackupError,
    Refused,
    UsageError,
    attempt,
    base_directory,
    visible,
)
from btrfs_backup_ng.core.units import MARKER, SERVICE, TIMER, read_key
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.process.child import run
from btrfs_backup_ng.process.command import (
    Command,
    Completed,
    find_program,
    last_words,
)

#: The directory of the administrator's units: systemd.unit(5).
SYSTEM_UNITS = "/etc/systemd/system"
#: What systemctl says of units, by their names.
States = Mapping[str, Mapping[str, str]]

_PROPERTIES = (
    *("UnitFileState", "NextElapseUSecRealtime", "ActiveState"),
    *("Result", "ExecMainStatus", "ExecMainExitTimestamp"),
)
#: Units are small; a larger file is not one of this program.
_LARGEST = 65536


class Timer(Value):
    """Units that belong together.

    :ivar name: theirs, without a suffix.
    :ivar units: the text of each unit, by its name.
    """

    name: str
    units: Mapping[str, str]

    @property
    def starter(self) -> str:
        """Return the unit that starts the backups: the timer, if there is one."""
        service, timer = self.name + SERVICE, self.name + TIMER
        return timer if timer in self.units else service

    @property
    def schedule(self) -> str:
        """Return when backups start, as OnCalendar= says it; "" at a mount."""
        return read_key(self.units[self.starter], "OnCalendar")

    @property
    def mount(self) -> str:
        """Return the unit of the mount that starts the backups, or ""."""
        return read_key(self.units.get(self.name + SERVICE, ""), "WantedBy")

    @property
    def description(self) -> str:
        """Return what the service does, in words."""
        return read_key(self.units.get(self.name + SERVICE, ""), "Description")

    @property
    def command(self) -> str:
        """Return what is started, as the service names it."""
        return read_key(self.units.get(self.name + SERVICE, ""), "ExecStart")


class Manager:
    """systemd: of the machine, or of the user.

    :ivar directory: of the units.
    """

    def __init__(self, *, is_users: bool) -> None:
        self._words = ("systemctl", "--user") if is_users else ("systemctl",)
        own = base_directory("XDG_CONFIG_HOME", "~/.config")
        self.directory = f"{own}/systemd/user" if is_users else SYSTEM_UNITS

    def find_obstacle(self) -> str:
        """Return why it cannot be asked now, or "" if it can."""
        done = attempt(lambda: self._call("show", "--property=Version"))
        if isinstance(done, BackupError):
            return done.message
        return _words(done).partition("; ")[0].rstrip(".") if done.status else ""

    def find_timers(self) -> list[Timer]:
        """Return the timers of this program, in the order of their names.

        :raises BackupError: if the directory cannot be read.
        """
        try:
            names = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failure("read", self.directory, error) from error
        found: dict[str, dict[str, str]] = {}
        for name in names:
            stem, dot, kind = name.rpartition(".")
            if name.startswith(PROGRAM) and dot + kind in (SERVICE, TIMER):
                if text := self._read_own(name):
                    found.setdefault(stem, {})[name] = text
        return [Timer(stem, units) for stem, units in found.items()]

    def check_rights(self, hint: str) -> None:
        """Check that units can be written and removed.

        :param hint: how to get the right to do it.
        :raises Refused: if they cannot.
        """
        above = self.directory
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.access(above, os.W_OK):
            raise Refused(f"{visible(above)} is not yours to write", hint=hint)

    def check_names(self, names: Iterable[str]) -> None:
        """Check that no file of another origin has the name of a unit.

        :raises Refused: if one has.
        """
        for name in names:
            path = os.path.join(self.directory, name)
            if os.path.lexists(path) and not self._read_own(name):
                away = visible(f"mv {path} {path}.old")
                raise Refused(
                    f"{visible(path)} was not made by {PROGRAM} timer, so it stays",
                    hint=f"If it is not needed, move it away:  {away}",
                )

    def install(self, timer: Timer) -> None:
        """Write units, and let systemd start backups by them.

        :raises BackupError: if that fails.
        """
        for name, text in timer.units.items():
            self._write(name, text)
        self._must("daemon-reload")
        self._must("reenable", timer.starter)  # also away from another mount
        if timer.starter.endswith(TIMER):
            self._must("restart", timer.starter)

    def remove(self, timers: Sequence[Timer], *, is_running: bool) -> None:
        """Remove units. A backup that runs goes on.

        :param is_running: systemd can be asked.
        :raises BackupError: if that fails.
        """
        for timer in timers:
            now = ("--now",) if is_running and timer.starter.endswith(TIMER) else ()
            if is_running or find_program("systemctl"):
                self._must("disable", *now, timer.starter)
            for name in timer.units:
                path = os.path.join(self.directory, name)
                try:
                    os.unlink(path)
                except OSError as error:
                    raise _failure("remove", path, error) from error
        if is_running:
            self._must("daemon-reload")

    def states(self, names: Sequence[str]) -> States:
        """Return what systemd says of units: its own words, by their properties.

        :raises BackupError: if it says nothing.
        """
        if not names:
            return {}
        done = self._must("show", f"--property={','.join(_PROPERTIES)}", *names)
        parts = done.stdout.decode(errors="replace").strip().split("\n\n")
        return dict(zip(names, map(_parse_properties, parts)))

    def _call(self, *words: str) -> Completed:
        return run(Command((*self._words, *words), label="systemctl"), check=False)

    def _must(self, *words: str) -> Completed:
        done = self._call(*words)
        if done.status:
            line = " ".join([*self._words, *words])
            raise BackupError(
                f"{visible(line)} failed: {_words(done)}",
                hint=f"Remove the units:  {PROGRAM} timer remove",
            )
        return done

    def _read_own(self, name: str) -> str:
        """Return the text of a unit that this program wrote, or ""."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with open(os.open(os.path.join(self.directory, name), flags), "rb") as file:
                is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                text = file.read(_LARGEST).decode(errors="replace") if is_file else ""
        except OSError:
            return ""
        return text if text.startswith(MARKER + "\n") else ""

    def _write(self, name: str, text: str) -> None:
        """Write a unit in one step."""
        path = os.path.join(self.directory, name)
        fresh = f"{path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            os.makedirs(self.directory, exist_ok=True)
            if os.path.lexists(fresh):
                os.unlink(fresh)
            with open(os.open(fresh, flags, 0o644), "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(fresh, path)
        except OSError as error:
            raise _failure("write", path, error) from error


def check_calendar(text: str) -> str:
    """Return a time for OnCalendar=, if systemd understands it.

    :raises UsageError: if not.
    """
    hint = "It is written like 'Mon..Fri 18:00' or '*:0/30'; see systemd.time(7)."
    if not re.fullmatch(r"[A-Za-z0-9 ,*:./~_+-]+", text):
        raise UsageError(f"'{visible(text)}' is no time of systemd", hint=hint)
    if find_program("systemd-analyze"):
        argv = ("systemd-analyze", "calendar", "--", text)
        done = run(Command(argv, label="systemd-analyze"), check=False)
        if done.status:
            raise UsageError(_words(done), hint=hint)
    return text


def find_mount(path: str, points: Sequence[str]) -> str:
    """Return the mount point that a path is below, except for the root; "" if none."""
    path = os.path.realpath(path)
    above = [p for p in points if p != "/" and f"{path}/".startswith(f"{p}/")]
    return max(above, key=len, default="")


def find_inhibitor(manager: Manager) -> str:
    """Return the program that keeps the machine awake, or "" if it would not work.

    It asks logind, and root only.
    """
    path = find_program("systemd-inhibit")
    states = attempt(lambda: manager.states(["systemd-logind.service"]))
    if not path or isinstance(states, BackupError):
        return ""
    is_active = [s for s in states.values() if s.get("ActiveState") == "active"]
    return path if is_active else ""


def _parse_properties(text: str) -> dict[str, str]:
    lines = (line.partition("=") for line in text.splitlines())
    return {key: visible(value) for key, _, value in lines}


def _words(done: Completed) -> str:
    """Return the last words of a command, for a message."""
    return last_words(done.stderr) or f"status {done.status}"


def _failure(verb: str, path: str, error: OSError) -> BackupError:
    return BackupError(f"cannot {verb} {visible(path)}: {error.strerror}")
