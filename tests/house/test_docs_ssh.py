"""What docs/ssh.md tells people to type works: its blocks run, in order, as they are.

Laptop and NAS are both this machine. Only names and paths are replaced, and ``ssh``
and the program are found in a PATH of the test's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MakesFilesystems
from tests.support import accounts, ours
from tests.support.program import CHECKOUT, environment
from tests.support.sshd import Sshd

TEXT = (CHECKOUT / "docs" / "ssh.md").read_text()
BLOCKS = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", TEXT, re.MULTILINE)
KEY = "ssh-ed25519 AAAA... root@laptop"
RULE = "laptop ALL=(root) NOPASSWD: /usr/bin/btrfs"
PASSWORD = "a pass'word"


class Machines:
    """The laptop and the NAS of the text, and what their paths are here."""

    def __init__(self, base: Path, name: str, source: Path, disk: Path) -> None:
        self.base, self.name = base, name
        self.bin, self.etc, self.keys, self.homes = (
            base / part for part in ("bin", "etc", "keys", "homes")
        )
        for path in (self.bin, self.etc / "cron.d"):
            path.mkdir(parents=True)
        self.homes.mkdir()
        common = {r"\blaptop\b": name, "/srv/backup": str(disk)}
        self._names = {
            "nas": {
                **common,
                r"/home\b": str(self.homes),
                "/etc/sudoers.d/btrfs-backup-ng": f"/etc/sudoers.d/{name}",
            },
            "laptop": {
                **common,
                r"/home\b": str(source),
                r"/root/\.ssh": str(self.keys),
                "/usr/local/bin": str(self.bin),
                "/etc/(?=btrfs|cron)": f"{self.etc}/",
            },
        }

    def program(self, name: str, script: str) -> None:
        """Put a program where the blocks find it first."""
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def here(self, machine: str, text: str) -> str:
        """Put this machine's names and paths for those of the text, in one go."""
        names = self._names[machine]
        pattern = "|".join(f"(?:{part})" for part in names)

        def replaced(found: re.Match[str]) -> str:
            (new,) = {
                new
                for part, new in names.items()
                if re.fullmatch(part.partition("(?=")[0], found[0])
            }
            return new

        return re.sub(pattern, replaced, text)

    def run(self, script: str, **changes: str) -> str:
        """Run a script as root's shell would; give what it printed."""
        env = environment({"SUDO_USER": None, "CREDENTIALS_DIRECTORY": None})
        env |= {"PATH": f"{self.bin}:{env['PATH']}:/usr/sbin:/sbin", **changes}
        done = subprocess.run(
            ["sh", "-euc", script],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            cwd=self.base,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout


@pytest.fixture
def machines(
    btrfs: MakesFilesystems, new_sshd: Callable[..., Sshd]
) -> Iterator[Machines]:
    base, mark = ours.public_directory(), ours.mark()
    disks = btrfs(size="512M"), btrfs(size="512M")
    mounted = base / "srv"  # where a user can reach it, as the test's are not
    mounted.mkdir()
    source = disks[0].subvolume("home")
    (source / "thesis").write_text("of years")
    server = new_sshd(
        config=(
            "AuthorizedKeysFile .ssh/authorized_keys",
            "PasswordAuthentication yes",
            "StrictModes yes",
        )
    )
    try:
        subprocess.run(["mount", "--bind", disks[1].path, mounted], check=True)
        found = Machines(base, mark[:32], source, mounted)
        found.program(
            "btrfs-backup-ng", f'exec {sys.executable} -m btrfs_backup_ng "$@"'
        )
        config = found.keys / "config"
        found.program("ssh", f'exec {shutil.which("ssh")} -F {config} "$@"')
        found.keys.mkdir()
        config.write_text(
            f"Host nas\n    HostName {server.host}\n    Port {server.port}\n"
            f"    UserKnownHostsFile {found.keys}/known_hosts\n"
        )
        yield found
    finally:
        subprocess.run(["umount", mounted], check=False)
        (Path("/etc/sudoers.d") / f"{mark}.new").unlink(missing_ok=True)
        accounts.remove(mark[:32], mark)
        shutil.rmtree(base)


@pytest.mark.ssh
@pytest.mark.btrfs
def test_the_steps_lead_to_a_backup(machines: Machines):
    printed: list[str] = []
    for words, block in BLOCKS:
        language, machine = words.split()
        assert language == "sh"
        text = machines.here(machine, block)
        if machine == "nas":
            text = _as_printed(text, printed, machines)
        if "useradd" in text:
            with ours.only_one():
                printed.append(machines.run(text))
        else:
            printed.append(machines.run(text))
    assert len(printed) == len(BLOCKS) == 9
    *_, rule, _, doctor, backup, _, _ = printed
    assert rule == machines.here("nas", RULE) + "\n"
    assert "FAIL" not in doctor and "UNKNOWN" not in doctor
    assert _backups(machines) == 1
    assert re.search(r": sent \S+, .* in full", backup)
    _allow_only_the_password(machines)
    _check_cron(machines)


def _as_printed(text: str, printed: list[str], machines: Machines) -> str:
    """Put what the laptop printed for the line that stands for it in the text."""
    for line in (KEY, RULE):
        if (line := machines.here("nas", line)) in text:
            text = text.replace(line, printed[-1].strip())
    return text


def _backups(machines: Machines) -> int:
    directory = machines.base / "srv" / machines.name
    return len([name for name in os.listdir(directory) if name[0] != "."])


def _check_cron(machines: Machines) -> None:
    (line,) = (machines.etc / "cron.d/btrfs-backup-ng").read_text().splitlines()
    *times, user, command = line.split(maxsplit=6)
    assert (len(times), user) == (5, "root")
    assert machines.run(command) == ""
    assert _backups(machines) == 2


def _allow_only_the_password(machines: Machines) -> None:
    """Let no key lead in, but the password of the file."""
    (machines.homes / machines.name / ".ssh/authorized_keys").unlink()
    password = machines.etc / "btrfs-backup-ng.password"
    assert password.stat().st_mode & 0o777 == 0o600
    password.write_text(PASSWORD + "\n")
    with ours.only_one():
        said = f"{machines.name}:{PASSWORD}"
        accounts.call("chpasswd", "--crypt-method=SHA512", said=said)


def test_readme_leads_to_this_page():
    assert "docs/ssh.md" in (CHECKOUT / "README.md").read_text()
