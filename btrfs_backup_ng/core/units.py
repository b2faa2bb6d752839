"""The units of systemd, or the line for cron, by which backups run by themselves.

The syntax is that of systemd.syntax(7), systemd.service(5) and systemd.timer(5).
"""

import re
import shlex
from collections.abc import Sequence

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.core.value import Value

#: The first line of a unit that this program wrote. Without it, a file is not touched.
MARKER = "# Made by btrfs-backup-ng timer install; timer remove deletes it."
SERVICE, TIMER = ".service", ".timer"

_BASE = "btrfs-backup-ng"
#: systemd allows 255 characters, with the suffix.
_LONGEST_NAME = 240
#: Longest time by which a backup is put off, so that a fleet does not start at once.
#: Each machine has a time of its own, always the same: a day later is 24 hours later.
_DELAYS = {"hourly": "5min", "daily": "1h"}
_DELAY = "5min"
#: The times for cron.
_CRON_TIMES = {"hourly": "15 * * * *", "daily": "15 3 * * *"}

#: Restrictions that leave a backup all it needs, wherever its places are.
_HARDENING = """\
# Not ProtectSystem=, PrivateTmp= and the like: they cover directories by mounts, and a
# source or destination may be any of them. Not RestrictSUIDSGID=, PrivateDevices=:
# btrfs receive makes such files. Not ProtectClock=: the clock is asked if it is right.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
CapabilityBoundingSet=~CAP_SYS_BOOT CAP_SYS_MODULE CAP_SYS_TIME CAP_SYSLOG
"""


class Plan(Value):
    """Backups that run by themselves.

    :ivar command: the program and its words, with an absolute path in front.
    :ivar calendar: as OnCalendar= takes it; "" with a mount.
    :ivar mount: the mount point whose mounting starts the backups, or "".
    :ivar target: the only one, with a mount.
    :ivar volumes: the only ones; without any, all.
    :ivar inhibitor: the path of systemd-inhibit, or "": the machine may go to sleep.
    :ivar is_users: they run as the user, not as root, and with fewer restrictions.
    """

    command: tuple[str, ...]
    calendar: str = "hourly"
    mount: str = ""
    target: str = ""
    volumes: tuple[str, ...] = ()
    inhibitor: str = ""
    is_users: bool = False

    @property
    def name(self) -> str:
        """Return the name of its units, without the suffix.

        Each choice of volumes and target has its own: a dash that is not a separator is
        escaped.

        :raises UsageError: if it would be too long.
        """
        first = f"{_BASE}.on" if self.mount else _BASE
        words = [*([self.target] if self.mount else []), *self.volumes]
        name = "-".join([first, *map(_escaped, words)])
        if len(name) > _LONGEST_NAME:
            raise UsageError("too many volumes for the name of a unit; leave them out")
        return name

    @property
    def starter(self) -> str:
        """Return the unit that is enabled."""
        return self.name + (SERVICE if self.mount else TIMER)


def write_units(plan: Plan) -> dict[str, str]:
    """Return the text of each unit, by its name.

    :raises UsageError: if a word cannot be written into a unit.
    """
    found = {plan.name + SERVICE: _service(plan)}
    if not plan.mount:
        found[plan.name + TIMER] = _timer(plan)
    return found


def _service(plan: Plan) -> str:
    lines = [MARKER, "[Unit]", f"Description=Back up {_subject(plan)}."]
    if not plan.is_users:  # the units of users know no network
        lines += ["Wants=network-online.target", "After=network-online.target"]
    mount = mount_unit(plan.mount) if plan.mount else ""
    if mount:
        lines += [f"BindsTo={mount}", f"After={mount}"]
    command = plan.command
    if plan.inhibitor:
        why = ["--what=sleep", f"--who={_BASE}", "--why=A backup is running"]
        command = (plan.inhibitor, *why, "--", *command)
    lines += ["", "[Service]", "Type=oneshot", f"ExecStart={_exec_line(command)}"]
    lines += ["Nice=10", "IOSchedulingClass=idle"]
    text = "\n".join(lines) + "\n"
    if not plan.is_users:  # they would take sudo away from a user
        text += _HARDENING
    return text + (f"\n[Install]\nWantedBy={mount}\n" if mount else "")


def _timer(plan: Plan) -> str:
    return f"""\
{MARKER}
[Unit]
Description=Back up {_subject(plan)}, {plan.calendar}

[Timer]
OnCalendar={plan.calendar}
RandomizedDelaySec={_DELAYS.get(plan.calendar, _DELAY)}
FixedRandomDelay=true
Persistent=true

[Install]
WantedBy=timers.target
"""


def _subject(plan: Plan) -> str:
    words = ", ".join(map(_plain, plan.volumes)) or "all volumes"
    words += f" to {_plain(plan.target)}" if plan.target else ""
    return words.replace("%", "%%")


def _exec_line(words: Sequence[str]) -> str:
    """Return a command for ExecStart=.

    The colon in front means that no variable is replaced, so a dollar is a dollar.

    :raises UsageError: if a word cannot be written into a unit.
    """
    first, *others = words
    if re.search("[\"'\\\\]", first):
        raise UsageError(
            f"systemd starts no program with quotes in its path: {visible(first)}",
            hint="Install it in another directory.",
        )
    return " ".join(map(_quoted, [f":{first}", *others]))


def _quoted(word: str) -> str:
    word = _plain(word).replace("%", "%%")
    if re.fullmatch(r"[\w:./=%@+,-]+", word, re.ASCII):
        return word
    return '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'


def _plain(word: str) -> str:
    """Return a word of a unit.

    :raises UsageError: if it has characters that no unit may have.
    """
    if not word.isprintable():
        raise UsageError(f"{visible(word)!r} cannot be written into a unit of systemd")
    return word


def _escaped(text: str) -> str:
    """Return a text as a part of a unit's name, as systemd-escape(1) writes it."""
    return re.sub(
        rb"[^\w:.]",
        lambda match: b"\\x%02x" % match[0][0],
        text.encode(errors="surrogateescape"),
    ).decode()


def mount_unit(point: str) -> str:
    """Return the unit of a mount point: systemd.mount(5)."""
    name = "-".join(_escaped(part) for part in point.split("/") if part) or "-"
    return re.sub(r"^\.", r"\\x2e", name) + ".mount"


def read_key(text: str, key: str) -> str:
    """Return the value of a key of a unit that this program wrote, or ""."""
    found = re.search(rf"^{key}=(.*)$", text, re.MULTILINE)
    return found[1].replace("%%", "%") if found else ""


def cron_line(plan: Plan) -> str:
    """Return the line for cron(8), or "" if cron knows no such time.

    A user's own lines have no name of a user.
    """
    if plan.mount or plan.calendar not in _CRON_TIMES:
        return ""
    command = shlex.join([*plan.command, "-q"]).replace("%", "\\%")
    user = "" if plan.is_users else "root "
    return f"{_CRON_TIMES[plan.calendar]} {user}{command}"
