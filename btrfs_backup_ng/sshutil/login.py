"""How ssh logs in: the user, the keys, the options and the ciphers."""

import contextlib
import os
import pwd
import shlex
import stat
from collections.abc import Mapping

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import SshOptions
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.process.child import run
from btrfs_backup_ng.process.command import Command, CommandNotStarted
from btrfs_backup_ng.sshutil.passwords import find_password_file, has_terminal

#: Options that allow nothing but commands, and end a connection whose peer is gone.
_OPTIONS = (
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ConnectTimeout=30",
    "ForwardAgent=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "LogLevel=ERROR",
)
#: Name of systemd's credential with the password for logins.
CREDENTIAL = "ssh-password"


class LoginAttempt(Value):
    """One way to try a login.

    :ivar user: ssh runs as this user, with their keys, agent and files; "": as the
        program's own user.
    :ivar asks: it may ask for a password or passphrase at the terminal.
    """

    user: str
    asks: bool


class Login:
    """A login before it is tried.

    :ivar name: ``[user@]host``, for people.
    """

    def __init__(self, location: Location, options: SshOptions) -> None:
        self.location = location
        self.options = options
        self.user = location.user or options.username
        self.name = f"{self.user}@{location.host}" if self.user else location.host
        self._seen: dict[tuple[str, ...], dict[str, list[str]]] = {}

    @property
    def password_file(self) -> str:
        """Return the path of the file with the answer to ssh's questions, or ""."""
        if not self.options.password_login:
            return ""
        return find_password_file(self.options.password_file, CREDENTIAL)

    def attempts(self) -> list[LoginAttempt]:
        """Return the ways to try, in order.

        Under sudo, ssh runs as the user who called sudo: it finds their keys, agent,
        known hosts and configuration as usual, and no such file acts for root. Root's
        own keys are tried after theirs. A user without a key is not tried, unless
        neither has one.

        :raises UsageError: if the path that the user named is not an agent's.
        """
        self._check_agent()
        caller, users = sudo_caller(), [""]
        if caller:
            users = [user for user in (caller, "") if self._may_log_in(user)]
            users = users or [caller]
        options = self.options
        asks = options.password_login and options.may_ask and has_terminal()
        if self.password_file or len(users) == 1:
            return [LoginAttempt(users[0], asks and not self.password_file)]
        last = [LoginAttempt(users[0], True)] if asks else []
        return [*(LoginAttempt(user, False) for user in users), *last]

    def _may_log_in(self, user: str) -> bool:
        if named := self.options.identity_file:
            return user == _owner(named)
        return bool(self.keys(user)) or bool(user and self.agent)

    def keys(self, user: str) -> list[str]:
        """Return the paths of the keys that the ssh of a user may use."""
        if self.options.identity_file:
            return [self.options.identity_file]
        home = pwd.getpwnam(user).pw_dir if user else os.path.expanduser("~")
        paths = self.configuration(user).get("identityfile", [])
        paths = [home + path[1:] if path[:2] == "~/" else path for path in paths]
        return [path for path in paths if os.path.exists(path)]

    @property
    def agent(self) -> str:
        """Return the socket of the agent, or ""."""
        return self.options.auth_sock or os.environ.get("SSH_AUTH_SOCK", "")

    def _check_agent(self) -> None:
        path = self.options.auth_sock
        if not path:
            return
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                return
        raise UsageError(f"no ssh agent at {visible(path)}")

    def variables(self) -> tuple[tuple[str, str], ...]:
        """Return the variables that ssh gets beyond the usual ones."""
        named = self.options.auth_sock
        return (("SSH_AUTH_SOCK", named),) if named else ()

    def arguments(self) -> list[str]:
        """Return the options of every ssh to this host, and the host."""
        words: list[str] = []
        for option in self.options.options:  # first: ssh takes the first value
            words += ("-o", option)
        if not self.options.password_login:
            words += ("-o", "PasswordAuthentication=no")
            words += ("-o", "KbdInteractiveAuthentication=no")
        policy = "yes" if self.options.strict_host_keys else "accept-new"
        for option in (f"StrictHostKeyChecking={policy}", *_OPTIONS):
            words += ("-o", option)
        if self.options.identity_file:
            words += ("-i", self.options.identity_file)
        if self.location.port:
            words += ("-p", str(self.location.port))
        if self.user:
            words += ("-l", self.user)
        return [*words, "--", self.location.host]

    def ciphers(self, user: str) -> list[str]:
        """Return options that prefer AES-GCM, unless option, file or policy chose.

        Where CPUs have AES it takes a fifth less time and CPU than ssh's own first
        choice (measured: OpenSSH 9.2, loopback). The others stay, behind it.
        """
        keys = [option.partition("=")[0].lower() for option in self.options.options]
        if "ciphers" in keys or not has_aes():
            return []
        names = self._ciphers(user)
        fast = [name for name in names if "-gcm@" in name]
        if not fast or names != self._ciphers(user, "-F", "none"):
            return []
        others = [name for name in names if name not in fast]
        return ["-o", f"Ciphers={','.join([*fast, *others])}"]

    def _ciphers(self, user: str, *arguments: str) -> list[str]:
        """Return the ciphers that ssh would offer, best first."""
        found = self.configuration(user, *arguments).get("ciphers", [""])
        return found[0].split(",")

    def configuration(self, user: str, *arguments: str) -> Mapping[str, list[str]]:
        """Return ssh's settings, from its files and the options: keyword -> values."""
        if (user, *arguments) in self._seen:
            return self._seen[user, *arguments]
        argv = ("ssh", "-G", *arguments, *self.arguments())
        command = Command(argv, label="ssh", user=user, ends_by_pipes=True)
        found = self._seen[user, *arguments] = {}
        with contextlib.suppress(CommandNotStarted):  # the login will report it
            text = run(command, check=False).stdout
            for line in text.decode(errors="surrogateescape").splitlines():
                key, _, value = line.partition(" ")
                found.setdefault(key, []).append(value)
        return found

    def by_hand(self) -> str:
        """Return the words after ``ssh`` that a person would type."""
        port = f"-p {self.location.port} " if self.location.port else ""
        return f"{port}{visible(shlex.quote(self.name))}"

    def known_name(self) -> str:
        """Return the name under which the host's key is known."""
        port = self.location.port
        return f"[{self.location.host}]:{port}" if port else self.location.host


def sudo_caller() -> str:
    """Return the user who called sudo, if sudo made the program root; else ""."""
    name = os.environ.get("SUDO_USER", "")
    with contextlib.suppress(KeyError):
        if name and os.geteuid() == 0 and pwd.getpwnam(name).pw_uid != 0:
            return name
    return ""


def _owner(path: str) -> str:
    """Return the user who can use a key: the caller of sudo, or "" for this one."""
    caller = sudo_caller()
    with contextlib.suppress(OSError):
        if caller and os.stat(path).st_uid == pwd.getpwnam(caller).pw_uid:
            return caller
    return ""


def has_aes() -> bool:
    """Return whether this CPU has AES instructions."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", "rb") as file:
        return b" aes " in file.read().replace(b"\n", b" ")
    return False
