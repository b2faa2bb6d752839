"""Own the one ssh connection to a host that all sessions of a run share."""

import contextlib
import os
import shlex
import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Self

from btrfs_backup_ng.__util__ import BackupError, visible
from btrfs_backup_ng.location import Location
from btrfs_backup_ng.model import SshOptions
from btrfs_backup_ng.command import Command, last_words
from btrfs_backup_ng.process import Child, check_interrupted, run

#: Longest path of a control socket. ``sun_path`` has 108 bytes, and ssh appends 17
#: while it binds (measured with OpenSSH 9.2: 90 works, 91 fails).
_SOCKET_PATH_MAX = 90
#: How often a master that is logging in is looked at.
_POLL_S = 0.02
#: Options that keep a connection what it is for, and end it when the peer is gone.
_OPTIONS = (
    "StrictHostKeyChecking=accept-new",
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


class ConnectionFailed(BackupError):
    """No connection to a host could be opened."""


class LoginRefused(ConnectionFailed):
    """The host answered and did not let us in."""


class SSHMasterManager:
    """A master connection, open as long as the context is.

    :ivar prefers_aes: we put AES-GCM first, which is slow on a CPU without AES.

    Slaves never open a connection of their own (``ProxyCommand=false``), so that a
    dead master is an error and not a second login.
    """

    prefers_aes = False

    def __init__(self, location: Location, options: SshOptions) -> None:
        self._location = location
        self._options = options
        self._user = location.user or options.username
        self._directory = ""
        self._child: Child | None = None
        self._closing = threading.Event()
        self._opened = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BackupError | None = None

    @property
    def name(self) -> str:
        """``[user@]host``, for people."""
        user = f"{self._user}@" if self._user else ""
        return f"{user}{self._location.host}"

    @property
    def _socket(self) -> str:
        return os.path.join(self._directory, "s")

    def __enter__(self) -> Self:
        """Log in.

        :raises LoginRefused: if the host does not accept us.
        :raises ConnectionFailed: for every other reason.
        """
        self._directory = _private_directory()
        # The kernel ends a child with the thread that started it, and tasks that
        # share this connection end one before the other.
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        try:
            self._opened.wait()
            if self._failure:
                raise self._failure
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and remove its directory; again does nothing."""
        self._closing.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = ""

    def command(self, remote: str) -> tuple[str, ...]:
        """Give the argv that runs one string in the login shell there."""
        return (
            *("ssh", "-S", self._socket.replace("%", "%%")),
            *("-o", "ControlMaster=no", "-o", "ProxyCommand=false"),
            *("-o", "BatchMode=yes"),
            *self._common_arguments(),
            remote,
        )

    def _serve(self) -> None:
        try:
            with Child.start(self._master_command()) as child:
                self._child = child
                self._wait_for_login(child)
                self._opened.set()
                while not self._closing.wait(0.5):
                    if child.peek() is not None:
                        return
        except BackupError as error:
            self._failure = error
        finally:
            self._opened.set()

    def _wait_for_login(self, child: Child) -> None:
        while not os.path.exists(self._socket):
            check_interrupted()
            if self._closing.is_set():
                return
            if child.peek() is not None:
                child.reap()
                raise self._explained(child.stderr_tail())
            time.sleep(_POLL_S)

    def _master_command(self) -> Command:
        has_terminal = sys.stdin is not None and sys.stdin.isatty()
        asks = self._options.password_login and has_terminal
        batch = "no" if asks else "yes"
        argv = (
            *("ssh", "-M", "-N", "-S", self._socket.replace("%", "%%")),
            *("-o", "ControlPersist=no", "-o", f"BatchMode={batch}"),
            *self._cipher_arguments(),
            *self._common_arguments(),
        )
        return Command(argv, label=f"ssh to {visible(self.name)}", terminal=asks)

    def _common_arguments(self) -> list[str]:
        words: list[str] = []
        for option in self._options.options:  # first: ssh takes the first value
            words += ("-o", option)
        if not self._options.password_login:
            words += ("-o", "PasswordAuthentication=no")
            words += ("-o", "KbdInteractiveAuthentication=no")
        for option in _OPTIONS:
            words += ("-o", option)
        if self._options.identity_file:
            words += ("-i", self._options.identity_file)
        if self._location.port:
            words += ("-p", str(self._location.port))
        if self._user:
            words += ("-l", self._user)
        return [*words, "--", self._location.host]

    def _cipher_arguments(self) -> list[str]:
        """Prefer AES-GCM, unless somebody chose ciphers: by option, file or policy.

        Where CPUs have AES it takes a fifth less time and CPU than ssh's own first
        choice (measured: OpenSSH 9.2, loopback). The others stay, behind it.
        """
        keys = [option.partition("=")[0].lower() for option in self._options.options]
        if "ciphers" in keys or not _has_aes():
            return []
        names = self._ciphers()
        fast = [name for name in names if "-gcm@" in name]
        if not fast or names != self._ciphers("-F", "none"):
            return []
        self.prefers_aes = True
        others = [name for name in names if name not in fast]
        return ["-o", f"Ciphers={','.join([*fast, *others])}"]

    def _ciphers(self, *arguments: str) -> list[str]:
        """Give the ciphers that ssh would offer, best first."""
        argv = ("ssh", "-G", *arguments, *self._common_arguments())
        text = run(Command(argv, label="ssh"), check=False).stdout.decode()
        lines = (line.partition(" ") for line in text.splitlines())
        found = [value for key, _, value in lines if key == "ciphers"]
        return found[0].split(",") if found else []

    def _explained(self, stderr: str) -> ConnectionFailed:
        """Say what a failed login means; the text decides nothing but the words."""
        host = visible(self._location.host)
        words = last_words(stderr)
        if "IDENTIFICATION HAS CHANGED" in stderr:
            return ConnectionFailed(
                f"the host key of {host} is not the one that is known; somebody may"
                " be in between, or the machine was installed anew",
                hint=f"If it was:  ssh-keygen -R {shlex.quote(self._known_name())}",
            )
        if "Host key verification failed" in stderr:
            return ConnectionFailed(
                f"the host key of {host} is not known, and ssh is told to refuse it",
                hint=f"Look at it once by hand:  ssh {self._by_hand()} true",
            )
        if "Permission denied" in stderr or "Too many authentication" in stderr:
            return LoginRefused(
                f"{visible(self.name)} refused the login (tried: {self._tried()})",
                hint=self._login_hint(),
            )
        return ConnectionFailed(
            f"no connection to {host}" + (f": {words}" if words else ""),
            hint=f"Try it by hand:  ssh {self._by_hand()} true",
        )

    def _known_name(self) -> str:
        port = self._location.port
        return f"[{self._location.host}]:{port}" if port else self._location.host

    def _tried(self) -> str:
        ways = ["agent"] if os.environ.get("SSH_AUTH_SOCK") else []
        ways.append(self._options.identity_file or "the keys of ssh's configuration")
        return ", ".join(visible(way) for way in ways)

    def _login_hint(self) -> str:
        if self._options.identity_file:
            return f"Try it by hand:  ssh {self._by_hand()} true"
        home = os.path.expanduser(f"~{os.environ.get('SUDO_USER', '')}")
        note = ""
        if os.geteuid() == 0 and not os.environ.get("SSH_AUTH_SOCK"):
            note = "As root there is no ssh agent of yours. "
        return f"{note}Use a key:  --ssh-identity-file {home}/.ssh/id_ed25519"

    def _by_hand(self) -> str:
        port = f"-p {self._location.port} " if self._location.port else ""
        return f"{port}{visible(self.name)}"


def _has_aes() -> bool:
    """Tell whether this CPU has AES instructions."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", "rb") as file:
        return b" aes " in file.read().replace(b"\n", b" ")
    return False


def _private_directory() -> str:
    """Make an unpredictable 0700 directory whose path leaves room for a socket.

    :raises BackupError: if there is nowhere to make it.
    """
    wanted = (os.environ.get(name, "") for name in ("XDG_RUNTIME_DIR", "TMPDIR"))
    for place in (*wanted, "/tmp"):
        made = os.path.join(place, f"bbng-{os.urandom(4).hex()}")
        if not place.startswith("/") or len(os.fsencode(made)) + 2 > _SOCKET_PATH_MAX:
            continue
        with contextlib.suppress(OSError):
            os.mkdir(made, 0o700)
            return made
    raise BackupError("there is no directory in which an ssh socket can be made")
