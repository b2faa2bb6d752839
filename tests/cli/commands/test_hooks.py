"""Hooks: the programs of a configuration before and after a step of a run."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.command_line import NOBODY, complaint, must, script
from tests.support.processes import everything, wait_until
from tests.support.program import Argument, finish, run_program, start_program
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs

#: Writes a line with its variables; "-" for one that is not set.
REPORT = """\
set -- "$BTRFS_BACKUP_NG_HOOK" "${BTRFS_BACKUP_NG_VOLUME--}" \
    "${BTRFS_BACKUP_NG_SOURCE--}" "${BTRFS_BACKUP_NG_SNAPSHOT--}" \
    "${BTRFS_BACKUP_NG_RESULT--}" "${BTRFS_BACKUP_NG_EXIT_STATUS--}"
[ -e "$4" ] && is_made=made || is_made=absent
echo "$*" "$is_made" >>"$(dirname "$0")/calls"
"""


class Hooked:
    """A scene with a configuration that has hooks, and their reports."""

    def __init__(self, scene: Scene, directory: Path) -> None:
        self.scene = scene
        self.directory = directory
        self.file = directory / "config.toml"
        self.env = {"BTRFS_BACKUP_NG_STATE": str(directory / "state")}
        self.report = script(directory / "report", REPORT)

    def write(self, top: str = "", home: str = "", more: str = "") -> None:
        """Write the configuration: all report, but for the given lines."""
        keys = ["before-snapshot", "after-snapshot", "before-run", "after-run"]
        lines = [f"{k} = '{self.report}'" for k in keys if f"{k} =" not in top]
        head = "\n".join(["snapshot-prefix = 'x-'", *lines, top])
        volume = f"[volumes.home]\nsource = '{self.scene.source}'\n"
        to = f"to = '{self.scene.destination}'\n"
        self.file.write_text(f"{head}\n{volume}{to}{home}\n{more}\n")

    def words(self, *more: Argument) -> list[Argument]:
        return ["run", "-c", self.file, *more]

    def calls(self) -> list[str]:
        """Return the reports, without the time in a name, and forget them."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        snapshots = [s.path for s in self.scene.snapshots]
        for snapshot in snapshots:
            lines = [line.replace(str(snapshot), "SNAPSHOT") for line in lines]
        return lines


@pytest.fixture
def hooked(scene: Scene, tmp_path: Path) -> Hooked:
    return Hooked(scene, tmp_path)


def test_hooks_run_around_their_steps_and_know_about_them(hooked: Hooked):
    source = hooked.scene.source
    hooked.write(home=f"after-snapshot = ['{hooked.report}', 'an argument']")
    dry = must(run_program(*hooked.words("--dry-run"), env=hooked.env))
    assert not hooked.calls()
    assert [line for line in dry.stdout.splitlines() if "would run" in line] == [
        f"would run before-run: {hooked.report}",
        f"{source}: would run before-snapshot: {hooked.report}",
        f"{source}: would run after-snapshot: {hooked.report} 'an argument'",
        f"would run after-run: {hooked.report}",
    ]
    done = must(run_program(*hooked.words("--json"), env=hooked.env))
    about = f"home {source} SNAPSHOT"
    assert hooked.calls() == [
        "before-run - - - - - absent",
        f"before-snapshot {about} - - absent",
        f"after-snapshot {about} success - made",
        "after-run - - - success 0 absent",
    ]
    events = json.loads(done.stdout)["events"]
    names = [event.get("hook", event["event"]) for event in events]
    assert names == [
        *("before-run", "before-snapshot", "snapshot", "after-snapshot"),
        *("sent", "after-run"),
    ]
    # A snapshot that is not asked for has no hooks.
    must(run_program(*hooked.words("-S"), env=hooked.env))
    assert [line.split()[0] for line in hooked.calls()] == ["before-run", "after-run"]


def test_a_failed_hook_fails_its_volume_and_no_other(hooked: Hooked):
    scene, directory = hooked.scene, hooked.directory
    mark = f"987.{os.getpid()}"
    slow = script(directory / "slow", f"sleep {mark} &\nwait")
    fails = script(directory / "fails", "echo 'the database is away'\nexit 3")
    second, third = scene.subvolume("second"), scene.subvolume("third")
    more = f"""
[volumes.second]
source = '{second}'
before-snapshot = '{slow}'
hook-timeout = '0.2s'
[volumes.third]
source = '{third}'
before-snapshot = []
after-snapshot = '{fails}'
"""
    hooked.write(home=f"before-snapshot = '{fails}'", more=more)
    done = must(run_program(*hooked.words(), env=hooked.env), 10)
    assert (
        f"{scene.source}: before-snapshot ({fails}) failed with status 3: the database"
        " is away.\n  No snapshot was made." in done.stderr
    )
    limit = f"{second}: before-snapshot ({slow}) did not end within 0.2 s"
    assert limit in done.stderr
    assert f"{third}: after-snapshot ({fails}) failed with status 3" in done.stderr
    assert not scene.snapshots and f"{third}: made snapshot" in done.stdout
    assert not [each for each in everything() if each.argv == ("sleep", mark)]
    calls = sorted(line.split(" ", 3)[::2] for line in hooked.calls())
    assert [name for name, _ in calls].count("after-snapshot") == 2
    failures = must(run_program("log", "--failures", env=hooked.env)).stdout
    assert failures.count("FAILED: ") == 3 and "the database is away" in failures

    hooked.write(top=f"before-run = '{fails}'")
    failed = must(run_program(*hooked.words(), env=hooked.env), 1)
    assert "Nothing was done" in failed.stderr and not scene.snapshots
    assert hooked.calls() == ["after-run - - - failure 1 absent"]
    failures = must(run_program("log", "--failures", env=hooked.env)).stdout
    # Of home with its destination, and of the others.
    assert failures.count(f"before-run ({fails}) failed") == 2


def test_a_program_that_others_can_change_is_not_run(hooked: Hooked, public_path: Path):
    theirs = script(public_path / "theirs", "exit 0")
    check: list[Argument] = ["config", "check", "-c", hooked.file]
    for mode, owner, status, reason in (
        (0o755, NOBODY, 4, f"belongs to another user ({NOBODY})"),
        (0o777, 0, 4, "can be written by other users"),
        (0o644, 0, 1, "is not executable"),
    ):
        os.chown(theirs, owner, -1)
        theirs.chmod(mode)
        hooked.write(home=f"before-snapshot = '{theirs}'")
        where = f"of {hooked.file}: volumes.home.before-snapshot: {theirs} {reason}"
        complaint(run_program(*check), status, where)
        failed = must(run_program(*hooked.words("--dry-run"), env=hooked.env), 10)
        assert f"before-snapshot: {theirs} {reason}" in failed.stderr
    done = must(run_program(*hooked.words(), env=hooked.env), 10)
    assert not hooked.scene.snapshots
    # What did not begin is not ended.
    assert [line.split()[0] for line in hooked.calls()] == ["before-run", "after-run"]
    assert "No such file" in complaint(
        run_program("config", "check", "-c", _missing(hooked)), 1, "line 2 of "
    )

    hooked.write(home="hook-timeout = '1h'")
    shown = must(run_program(*check)).stdout.splitlines()
    rows = [" ".join(line.split()) for line in shown]
    assert rows[:3] == [
        "each run",
        f"before-run {hooked.report} line 4",
        f"after-run {hooked.report} line 5",
    ]
    assert f"before-snapshot {hooked.report} line 2" in rows
    assert "hook-timeout 1h [volumes.home], line 10" in rows
    assert done.returncode == 10


def _missing(hooked: Hooked) -> Path:
    text = hooked.file.read_text().replace(f"{hooked.report}", "/no/such")
    path = hooked.directory / "missing.toml"
    path.write_text(text)
    return path


def test_an_interruption_ends_what_runs_and_the_hooks_behind_it_still_run(
    hooked: Hooked,
):
    waits = script(hooked.directory / "waits", f"touch {hooked.directory}/up\nsleep 60")
    hooked.write(home=f"before-snapshot = '{waits}'")
    with start_program(*hooked.words(), env=hooked.env) as program:
        wait_until((hooked.directory / "up").exists, 60)
        program.send_signal(signal.SIGTERM)
        done = finish(program)
    assert done.returncode == 143, done.stderr
    calls = [line.split() for line in hooked.calls()]
    assert [(name, *rest[3:5]) for name, *rest in calls] == [
        ("before-run", "-", "-"),
        ("after-snapshot", "interrupted", "143"),
        ("after-run", "interrupted", "143"),
    ]
    assert not hooked.scene.snapshots
