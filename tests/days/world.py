"""Five volumes, three targets, one configuration, and a clock that is set by hand."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tests.days.reference import HOUR, Rules, Told, time_of
from tests.support import processes
from tests.support.command_line import Done, script
from tests.support.filesystems import Filesystem
from tests.support.places import FOLDER, STATE, ssh_place
from tests.support.program import Argument, run_program, start_program
from tests.support.sshd import Sshd

#: The zone of the machine. Its clocks go back on 29 October 2045.
ZONE = ZoneInfo("Europe/Berlin")
#: Far from today, so that the calendar of the test is always the same one, and no
#: backup has its place by the time at which it really arrived.
START = datetime(2045, 10, 15, 10, 5, tzinfo=timezone.utc)
TARGETS = ("vault", "nas", "usb")
MAX_AGE = {"vault": timedelta(days=5), "usb": timedelta(days=10)}
#: What is kept of each volume: at its source, and at each target.
KEEP = {
    "home": ("24h 7d", "24h 7d 4w 12m"),
    "mail": ("latest=3 6h", "5d 3w 3m whole-weeks week=sunday"),
    "root": ("latest=5", "latest=8"),
    "data": ("min=1d 4d", "min=2d 9d 2m"),
    "vm": ("day=5h 3d", "30d day=5h"),
}


class Place(NamedTuple):
    """A volume at its source, for which the target is "", or at a target."""

    volume: str
    target: str

    def __str__(self) -> str:
        return f"{self.volume} at {self.target}"


PAIRS = [Place(volume, target) for volume in KEEP for target in TARGETS]


def rules(place: Place) -> Rules:
    """Return what is kept at a place."""
    return Rules(KEEP[place.volume][bool(place.target)], ZONE)


def moment_of(hour: int) -> datetime:
    """Return when the run of an hour since the start begins.

    Each begins a second later in its hour, so that no day has less than 24 hours.
    """
    return START + hour * (HOUR + timedelta(seconds=1))


class World:
    """The disks, and the program with this configuration at a time.

    :ivar now: by the clock of the program.
    """

    def __init__(
        self, directory: Path, disks: Mapping[str, Filesystem], sshd: Sshd
    ) -> None:
        """Make the volumes, the directories of the targets, and the configuration.

        :param disks: of the sources (""), and of each target.
        """
        self.now = START
        self.disks = disks
        self._directory = directory
        self._told = directory / "told"
        self._dice = random.Random(15)
        self.config = directory / "config.toml"
        self.config.write_text("\n".join(self._configuration(sshd)))
        for volume in KEEP:
            disks[""].subvolume(volume)
        for place in PAIRS:
            self.path(place).mkdir()

    def _configuration(self, sshd: Sshd) -> Iterator[str]:
        tell = script(
            self._directory / "tell", f"exec cat >>{self._told}"
        )  # the text of each message
        options = ", ".join(f'"{option}"' for option in sshd.ssh_options)
        yield 'snapshot-prefix = "x-"'
        yield f'keep-zone = "{ZONE}"'
        for name in TARGETS:
            path = self.disks[name].path
            where = ssh_place(sshd, path, user="root") if name == "nas" else path
            yield f'[targets.{name}]\nplace = "{where}/{{volume}}"'
            if name in MAX_AGE:
                yield f'max-age = "{MAX_AGE[name].days}d"'
            yield {"nas": f"ssh-opt = [{options}]", "usb": "optional = true"}.get(
                name, ""
            )
        for volume, (here, there) in KEEP.items():
            yield f'[volumes.{volume}]\nsource = "{self.disks[""].path}/{volume}"'
            yield f'to = {json.dumps(TARGETS)}\nkeep = "{here}"\nkeep-at = "{there}"'
        yield "[volumes.root.at.usb]\noptional = false"
        yield f'[notify]\ncommand = ["{tell}"]\n'

    def path(self, place: Place) -> Path:
        """Return the directory in which the snapshots or backups of a place are."""
        top = self.disks[place.target].path / place.volume
        return top if place.target else top / FOLDER

    def find(self, place: Place) -> dict[datetime, str]:
        """Return the times and names of the snapshots or backups at a place."""
        path = self.path(place)
        names = os.listdir(path) if path.exists() else []
        return {time_of(name, ZONE): name for name in names if name != STATE}

    def change(self, size: int = 8192, *volumes: str) -> None:
        """Write something new into volumes, by default into all of them."""
        for volume in volumes or KEEP:
            path = self.disks[""].path / volume / f"{size}-{self._dice.randrange(3)}"
            path.write_bytes(self._dice.randbytes(size))

    def _environment(self) -> dict[str, str]:
        ahead = self.now.timestamp() - time.time()
        return {
            "BTRFS_BACKUP_NG_CLOCK": f"{ahead} synchronised",
            "BTRFS_BACKUP_NG_STATE": str(self._directory / "state"),
            "TZ": str(ZONE),
        }

    def call(self, verb: str, *words: Argument) -> Done:
        """Run a command of the program at the time that it is here."""
        return run_program(verb, "-c", self.config, *words, env=self._environment())

    def start(self, *words: Argument) -> subprocess.Popen[str]:
        """Start a run."""
        return start_program("run", "-c", self.config, *words, env=self._environment())

    def restore(self, place: Place, name: str, to: Path) -> Done:
        """Restore a backup."""
        return run_program(
            "restore", self.path(place), name, "--to", to, env=self._environment()
        )

    def received_bytes(self, place: Place) -> int:
        """Count the bytes of unfinished transfers at a target."""
        found = (self.path(place) / STATE / "incoming").rglob("*-*")
        return sum(path.stat().st_size for path in found if path.is_file())

    def wait_for_quiet(self) -> None:
        """Wait until no process works at a place of this world."""
        marks = [disk.path.name for disk in self.disks.values()]

        def working() -> list[processes.Process]:
            return [
                process
                for process in processes.everything()
                if process.pid != os.getpid() and process.state not in "ZX"
                if any(map(process.works_at, marks))
            ]

        processes.wait_until(lambda: not working())

    def take_messages(self) -> list[Told]:
        """Return what was told since the last call, in alphabetical order."""
        text = self._told.read_text() if self._told.exists() else ""
        self._told.unlink(missing_ok=True)
        kinds = {"failed": "failure", "stale": "stale"}
        kinds |= dict.fromkeys(("good again", "up to date again"), "recovery")
        found = re.findall(rf"^(\S.*): ({'|'.join(kinds)})\b", text, re.M)
        return sorted(Told(kinds[word], subject) for subject, word in found)


def sent(done: Done) -> list[dict[str, Any]]:
    """Return the transfers in the report of a run with ``--json``."""
    events = json.loads(done.stdout)["events"]
    return [event for event in events if event["event"] == "sent"]
