"""The ssh servers that tests talk to: real ones, with their own keys and port."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import ours, processes

_PATIENCE_S = 15.0


class Sshd:
    """An ssh server on 127.0.0.1, into which ``identity`` lets any user.

    The counts are read from ``log_text()``, and restart at :meth:`mark`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ipv6: bool = False,
        hosts: Sequence[str] = (),
        config: Sequence[str] = (),
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.identity = directory / "identity"
        self.known_hosts = directory / "known_hosts"
        self.log = directory / "log"
        self.ssh_config = directory / "ssh_config"
        self._directory = directory
        self._addresses = ["127.0.0.1", "[::1]"] if ipv6 else ["127.0.0.1"]
        self._addresses += hosts
        self._config = list(config)
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = 0
        for key in ("identity", "host_key"):
            self._make_key(key)
        shutil.copy(directory / "identity.pub", directory / "authorized_keys")

    @property
    def ssh_options(self) -> list[str]:
        """List the ``-o`` options that ssh needs, each as ``KEYWORD=VALUE``."""
        return [
            f"Port={self.port}",
            f"IdentityFile={self.identity}",
            "IdentitiesOnly=yes",
            f"UserKnownHostsFile={self.known_hosts}",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "BatchMode=yes",
        ]

    @property
    def pid(self) -> int:
        """Name the process that listens."""
        assert self._process, "this sshd is not running"
        return self._process.pid

    def log_text(self) -> str:
        """Return the server's log since the last :meth:`mark`."""
        return self.log.read_bytes()[self._mark :].decode(errors="replace")

    def mark(self) -> None:
        """Begin to count connections and sessions from here."""
        self._mark = self.log.stat().st_size

    def connections(self) -> int:
        """Count the logins since the last mark."""
        return len(re.findall(r"^Accepted publickey", self.log_text(), re.MULTILINE))

    def sessions(self) -> int:
        """Count the commands, shells and subsystems started since the last mark."""
        return len(re.findall(r"^Starting session", self.log_text(), re.MULTILINE))

    def commands(self, user: str = "root") -> int:
        """Count the sessions since the last mark that ran a command as this user."""
        pattern = rf"^Starting session: (forced-)?command.* for {re.escape(user)} "
        return len(re.findall(pattern, self.log_text(), re.MULTILINE))

    def new_host_key(self) -> None:
        """Change the server's key, which clients must refuse; takes a restart."""
        self._make_key("host_key")

    def is_running(self) -> bool:
        """Return whether the server listens."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, on its old port if it has had one."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation
        for _ in range(20):
            first = not self.port
            if first:
                self.port = _free_port()
                self._write_client_files()
            self._write_server_config()
            if self._listen():
                return
            if first:
                self.port = 0  # another process was faster
            time.sleep(0.2)
        raise AssertionError(f"sshd does not start:\n{self.log_text()}")

    def stop(self) -> None:
        """End the server with all its connections, abruptly."""
        process, self._process = self._process, None
        if process:
            connections = processes.descendants(process.pid)
            process.terminate()
            process.wait()
            processes.kill(connections)

    def restart(self) -> None:
        """End the server with all its connections, and start it again."""
        self.stop()
        self.start()

    def ssh(
        self, *command: str, user: str = "root", options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run ssh against this server, without the program."""
        flags = [f"-o{option}" for option in (*options, *self.ssh_options)]
        return subprocess.run(
            ["ssh", "-F/dev/null", *flags, f"{user}@{self.host}", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=60,
        )

    def _make_key(self, name: str) -> None:
        path = self._directory / name
        path.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", path],
            check=True,
        )

    def _write_client_files(self) -> None:
        key = " ".join((self._directory / "host_key.pub").read_text().split()[:2])
        hosts = ("127.0.0.1", "::1", "localhost", *self._addresses[1:])
        self.known_hosts.write_text(
            "".join(f"[{host}]:{self.port} {key}\n" for host in hosts)
        )
        lines = [option.replace("=", " ", 1) for option in self.ssh_options]
        self.ssh_config.write_text(
            "\n  ".join(["Host test-server", f"HostName {self.host}", *lines]) + "\n"
        )

    def _write_server_config(self) -> None:
        lines = [
            *self._config,  # the first value of a keyword counts
            *(f"ListenAddress {address}:{self.port}" for address in self._addresses),
            f"HostKey {self._directory}/host_key",
            f"AuthorizedKeysFile {self._directory}/authorized_keys",
            "PidFile none",
            "StrictModes no",
            f"UsePAM {'yes' if _root_is_locked() else 'no'}",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "MaxSessions 10",
            "MaxStartups 100",
            "UseDNS no",
            "PrintMotd no",
            "LogLevel VERBOSE",
            "AcceptEnv LANG LC_*",
            "Subsystem sftp internal-sftp",
            # A client of OpenSSH 9.2 needs 0.1 s for the exchange that it prefers.
            "KexAlgorithms curve25519-sha256",
        ]
        if _openssh_version() >= (9, 8):
            lines.append("PerSourcePenalties no")
        # bash believes that it runs within a shell, and skips root's .bashrc, which may
        # do anything and take long in every session.
        chosen = [line[7:] for line in self._config if line.startswith("SetEnv ")]
        lines += ["Match User root", " ".join(["SetEnv SHLVL=2", *chosen[:1]])]
        (self._directory / "sshd_config").write_text("\n".join(lines) + "\n")

    def _listen(self) -> bool:
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                # If these tests are killed, their servers end with them.
                ["setpriv", "--pdeathsig", "TERM", _program("sshd"), "-D", "-e"]
                + ["-f", str(self._directory / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            if _answers(self.host, self.port) and process.poll() is None:
                self._process = process
                return True
            time.sleep(0.02)
        process.kill()
        process.wait()
        return False


@contextlib.contextmanager
def running_sshd(
    *, ipv6: bool = False, hosts: Sequence[str] = (), config: Sequence[str] = ()
) -> Iterator[Sshd]:
    """Run an ssh server.

    :param hosts: further addresses of this machine, 127.0.0.2 and so on: each is
        another host for the program.
    :param config: lines of sshd_config(5) that go before the usual ones, and so win.
    """
    directory = ours.public_directory()  # read with the rights of the user who logs in
    try:
        server = Sshd(directory, ipv6=ipv6, hosts=hosts, config=config)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        with socket.create_connection((host, port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin")
    assert path, f"{name} is not installed"
    return path


def _openssh_version() -> tuple[int, int]:
    done = subprocess.run(["ssh", "-V"], capture_output=True, text=True)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1]), int(found[2])


def _root_is_locked() -> bool:
    """Return whether sshd would refuse root as locked, as it does without PAM."""
    with open("/etc/shadow") as file:
        lines = (line.split(":") for line in file)
        return any(name == "root" and word.startswith("!") for name, word, *_ in lines)
