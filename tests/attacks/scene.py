"""The places that an attacker owns, and how the program is run between them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from btrfs_backup_ng.core.model import Snapshot
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.sendstream.names import body_name, seal_name
from tests.attacks.victims import OLD_ID, SECRET, Victim, make_victims
from tests.support import accounts, filesystems, ours, places, sshd
from tests.support.accounts import Account
from tests.support.filesystems import Filesystem
from tests.support.many import make_named
from tests.support.places import STATE, ssh_place, ssh_words
from tests.support.program import (
    ASKING,
    CHECKOUT,
    GO_ON,
    Argument,
    environment,
    run_program,
)
from tests.support.scene import Scene
from tests.support.sshd import Sshd

#: Of the snapshots that a source has, in this order; all but the last have backups.
NAMES = tuple(f"x-2020010{day}-000000" for day in range(1, 5))
NEW = NAMES[-1]
SEAL = os.fsdecode(seal_name(1000, os.fsencode(NEW)))
OLDER_SEALS = tuple(
    os.fsdecode(seal_name(size, os.fsencode(NEW))) for size in (10, 100)
)
BODY = os.fsdecode(body_name(1000, os.fsencode(NEW), b"\0\1\2\3"))
REFUSED = 4
#: A run that takes longer hangs: the longest takes 2 s.
PATIENCE_S = 15.0

Done = subprocess.CompletedProcess[str]


class Arena(NamedTuple):
    """What all attacks share: two filesystems with victims, and who is who.

    :ivar attacker: owns the places.
    :ivar carrier: may log in, and there do anything by sudo.
    :ivar unchecked: runs after which no look was taken at the victims.
    :ivar hook: shell; if it is there, each ``btrfs`` of root's reads it before.
    """

    here: Filesystem
    there: Filesystem
    victims: Mapping[Path, tuple[Victim, Victim]]
    attacker: Account
    carrier: Account
    sshd: Sshd
    hook: Path
    path: str
    unchecked: list[Done]

    def victim_at(self, path: Path, *, is_private: bool = False) -> Victim:
        """Return a victim on the filesystem of a path."""
        disk = self.here if path.is_relative_to(self.here.path) else self.there
        return self.victims[disk.path][is_private]

    def run(self, *words: Argument) -> Done:
        """Run the program as root."""
        asking = ASKING if self.hook.exists() else {}
        env = {**asking, "PATH": self.path}
        done = run_program(*words, env=env, timeout=PATIENCE_S)
        self.unchecked.append(done)
        return done

    def send(self, snapshot: Path, place: Path, user: str) -> Done:
        """Run btrfs-ssh-send as root."""
        script = str(CHECKOUT / "btrfs-ssh-send")
        done = subprocess.run(
            [sys.executable, "-I", script, str(snapshot)]
            + [f"{user}@test-server:{place}"],
            env=environment({"PATH": self.path}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=20,
        )
        self.unchecked.append(done)
        return done

    def check_victims(self, done: Done | None, **how: bool) -> None:
        """Check that nothing was done to any victim, and that no secret was told."""
        self.unchecked.clear()
        harm = [
            line
            for pair in self.victims.values()
            for victim in pair
            for line in victim.harm(**how)
        ]
        said = done.stdout + done.stderr if done else ""
        status = done.returncode if done else None
        told = "\n".join(["a victim was harmed:", *harm, f"status {status}", said])
        assert not harm, told
        assert SECRET not in said, said

    def judge(self, done: Done, statuses: Sequence[int], **how: bool) -> Done:
        """Check that no victim was harmed, and then how a run ended."""
        self.check_victims(done, **how)
        return clean(done, statuses)


@contextlib.contextmanager
def arena() -> Iterator[Arena]:
    """Make the places and people, and take all away in the end."""
    base = ours.public_directory()
    names = (*NAMES, SEAL, *OLDER_SEALS, BODY, OLD_ID)
    try:
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            here, there = (
                enter(filesystems.btrfs_filesystem(base, mount_options=("nobarrier",)))
                for _ in range(2)
            )
            attacker = enter(accounts.account())
            carrier = enter(accounts.account(sudoers=accounts.SUDO_ALL))
            hook = base / "hook"
            programs = _hookable_programs(base / "bin", hook)
            path = f"{programs}:{os.environ['PATH']}"
            server = enter(sshd.running_sshd(config=(f"SetEnv PATH={path}",)))
            ssh = shutil.which("ssh")
            (programs / "ssh").write_text(
                f'#!/bin/sh\nexec {ssh} -F {server.ssh_config} "$@"\n'
            )
            (programs / "ssh").chmod(0o755)
            victims = {disk.path: make_victims(disk, names) for disk in (here, there)}
            yield Arena(
                *(here, there, victims, attacker, carrier, server, hook, path),
                unchecked=[],
            )
    finally:
        shutil.rmtree(base)


def _hookable_programs(directory: Path, hook: Path) -> Path:
    """Make programs for the front of a PATH that do what a hook says before they run.

    What the hook itself runs has none.
    """
    directory.mkdir()
    for name in ("btrfs", "cp", "ln", "mkdir", "mv", "rm", "rmdir", "tar"):
        real = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        file = directory / name
        file.write_text(f"""#!/bin/sh
if [ -z "${{HOOKED:-}}" ] && [ -f "{hook}" ]; then
    HOOKED=1
    export HOOKED
    . "{hook}"
    unset HOOKED
fi
[ -n "${{HOOKED:-}}" ] || {GO_ON}
exec {real} "$@"
""")
        file.chmod(0o755)
    return directory


class Attack(Scene):
    """A scene in the attacker's hands, with snapshots, and a directory for restores.

    The source has :data:`NAMES` as snapshots, the destination all of them but the last.

    :ivar to: an empty directory of the attacker, on the filesystem of the source.
    :ivar user: the login at the destination, or "" if it is here.
    :ivar login: the options of every command that let it get in there.
    """

    def __init__(self, arena: Arena, user: str = "") -> None:
        super().__init__(arena.here, arena.there, is_small=True)
        self.arena, self.user = arena, user
        self.place = self.at(self.destination)
        self.login = ssh_words(arena.sshd) if user else []
        self.options += self.login
        self.to = self.source.parent / "to"
        self.to.mkdir()
        (self.source / "a/b").mkdir(parents=True)
        (self.source / "a/b/file").write_text("file")
        self.subvolume(f"home/{STATE}")
        for directory in (self.snapshot_folder, self.destination / STATE):
            directory.mkdir()
            directory.chmod(0o700)
        self.snapshot_folder.parent.chmod(0o700)
        make_named(self.snapshot_folder, self.destination, list(NAMES[:-1]))
        self.snapshot(f"home/{STATE}/snapshots/{NEW}")
        uuid = places.show(self.source).uuid
        sources, holds = self.destination / STATE / "sources.json", self.holds
        for record, fields in (
            (sources, {"prefixes": {"x-": [[uuid, ""]]}}),
            (holds, {"destinations": []}),
        ):
            record.write_text(json.dumps({"version": 1, **fields}))
        self.give_away(self.source, self.source / "a", self.destination, self.to)
        self._restored = itertools.count(1)

    def give_away(self, *paths: Path) -> None:
        """Make things the attacker's."""
        for path in paths:
            attacker = self.arena.attacker
            os.chown(path, attacker.uid, attacker.gid, follow_symlinks=False)

    def at(self, path: Path) -> str:
        """Name a path as the program is told of it."""
        if not self.user:
            return str(path)
        return ssh_place(self.arena.sshd, path, user=self.user)

    def run(self, *more: Argument, **how: object) -> Done:
        """Run the program from the source to the destination, in the arena."""
        assert not how
        return self.arena.run(*self.words(*more))

    def receive_new(self) -> None:
        """Bring the newest snapshot to the backups without the program."""
        places.send_and_receive(self.snapshot_folder / NEW, self.destination)

    def new_path(self) -> Path:
        """Return a path below ``to`` for the next restore."""
        return self.to / f"new-{next(self._restored)}"

    def transfer_id(self) -> str:
        """Return an id with which the transfer of the new snapshot would go on."""
        return self.id_by(_protocol(self.arena, self.user))

    def id_by(self, protocol: str) -> str:
        """Return the same for a protocol."""
        new, parent = (self._known(name) for name in (NEW, NAMES[-2]))
        return staging.full_id(OLD_ID, new, parent, protocol)

    def _known(self, name: str) -> Snapshot:
        uuid = UUID(places.show(self.snapshot_folder / name).uuid)
        return Snapshot(name, None, uuid, None, None, 0)

    def missing(self) -> set[str]:
        """List the origins that the source has and the destination has not."""
        have = {snapshot.origin for snapshot in self.snapshots}
        return have - {one.received_uuid for one in self.backups if one.read_only}


_protocols: dict[str, str] = {}


def _protocol(arena: Arena, user: str) -> str:
    """Find out how a transfer goes, from the name of what it is staged in."""
    user = user and "root"  # sudo has a PATH of its own, without the hook
    if user not in _protocols:
        scene = Attack(arena, user)
        seen = arena.hook.with_name("seen")
        with hooked(arena, f'ls {scene.destination}/{STATE}/incoming >>"{seen}"'):
            clean(scene.run("-S"), [0])
        (end,) = {line[len(OLD_ID) :] for line in seen.read_text().splitlines()}
        (_protocols[user],) = (
            protocol
            for protocol in ("1", "2", "2c")
            if scene.id_by(protocol).endswith(end)
        )
        seen.unlink()
    return _protocols[user]


@contextlib.contextmanager
def hooked(
    arena: Arena, script: str, *, before: str = "btrfs*receive"
) -> Iterator[Path]:
    """Do something each time before root runs a program.

    :param script: shell.
    :param before: pattern for the beginning of its command line.
    :returns: a file that is there once it was done.
    """
    draft, done = arena.hook.with_suffix(".draft"), arena.hook.with_suffix(".done")
    done.unlink(missing_ok=True)
    pattern = before.replace(" ", "\\ ")
    draft.write_text(
        f'case "${{0##*/}} $*" in {pattern}*) {script}\n: >"{done}" ;; esac\n'
    )
    draft.rename(arena.hook)
    try:
        yield done
    finally:
        arena.hook.unlink()


def mending_command(said: str) -> str:
    """Find the command in a message that takes away what is in the way."""
    words = r"(?:ssh .*|sudo )?(?:mv|rm|rmdir|chmod|chown|unlink|btrfs-backup-ng) -?.*"
    found = re.search(rf":  ({words})$", said, re.MULTILINE)
    assert found, f"no command that mends it: {said}"
    return found[1]


def mend(arena: Arena, said: str) -> str:
    """Do what a message says, and give the command."""
    command = mending_command(said)
    done = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PATH": arena.path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return command


def names_below(top: Path, *others: Path) -> set[tuple[object, ...]]:
    """List what is below directories, with what tells each from any other."""
    found: set[tuple[object, ...]] = set()
    for directory in (top, *others):
        for where, below, files in os.walk(directory):
            for name in (*below, *files):
                path = os.path.join(where, name)
                status = os.lstat(path)
                found.add((path, status.st_ino, status.st_mode, status.st_uid))
    return found


def clean(done: Done, statuses: Sequence[int]) -> Done:
    """Check that a run ended in an orderly way, and with one of these statuses."""
    told = f"{done.args}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, told
    assert done.returncode in statuses, told
    return done
