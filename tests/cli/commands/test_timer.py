"""Timers: installed, shown and removed, with a systemctl that records its calls."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import BackupError, Refused, UsageError
from btrfs_backup_ng.actions import timer
from btrfs_backup_ng.cli.commands import run_words
from btrfs_backup_ng.core.units import MARKER
from tests.support.command_line import covers, in_conversation

#: Says what systemd 252 says, of units that are installed and ran once.
SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>{log}
[ "$1" != --user ] || shift
[ "$(cat {log}.fails 2>/dev/null)" != "$1" ] || {{ echo "no can do" >&2; exit 1; }}
[ "$1" = show ] || exit 0
[ "$2" != --property=Version ] || {{ echo Version=252; exit 0; }}
shift 2
for unit; do
    case "$unit" in
    *.timer) echo UnitFileState=enabled
        echo "NextElapseUSecRealtime=Sun 2026-11-29 02:03:11 UTC" ;;
    *) printf '%s\\n' ActiveState=inactive Result=exit-code ExecMainStatus=10
        echo "ExecMainExitTimestamp=Sun 2026-11-29 01:02:03 UTC" ;;
    esac
    echo
done
"""
CONFIGURATION = """\
[targets.usb]
place = "{place}/{{volume}}"
[targets.nas]
place = "ssh://nas/backup/{{volume}}"
[volumes.home]
source = "/home"
to = ["usb", "nas"]
[volumes.root]
source = "/"
to = "nas"
"""


class Timers:
    """Directories of a test's own, and what the program said of them last."""

    def __init__(self, base: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.file, self.units = base / "config.toml", base / "system"
        self.log = base / "calls"
        self.units.mkdir()
        self.file.write_text(CONFIGURATION.format(place="/proc/backup"))
        self._capfd = capfd

    def call(self, *words: str) -> str:
        """Run the program, and return its output."""
        self._capfd.readouterr()
        self.log.unlink(missing_ok=True)
        self.status = run_words(["timer", *words, "-c", str(self.file)])
        printed = self._capfd.readouterr()
        self.stderr = printed.err
        return printed.out

    def refuse(self, error: type[BackupError], *words: str) -> str:
        """Run the program, which refuses and changes nothing; return its message."""
        before = self.state()
        with pytest.raises(error) as raised:
            self.call(*words)
        assert self.state() == before
        return raised.value.message

    def let_fail(self, verb: str) -> None:
        """Let systemctl fail with a verb; without ``show``, systemd does not run."""
        self.log.with_suffix(".fails").write_text(verb)

    def state(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.units.iterdir()}

    @property
    def calls(self) -> list[str]:
        """Return what systemctl was asked to change."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if " --property=" not in line]


@pytest.fixture
def timers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Timers:
    found = Timers(tmp_path, capfd)
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL.format(log=found.log))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of-user"))
    monkeypatch.setattr(timer, "SYSTEM_UNITS", str(found.units))
    return found


@covers("--hourly", "--daily", "--oncalendar", "--on-mount", "--yes")
def test_timers_are_installed_shown_and_removed(timers: Timers):
    (timers.units / "btrfs-backup-ng-of-mine.timer").write_text("[Timer]\n")
    shown = timers.call("install", "--yes")
    units = timers.state()
    name, service = "btrfs-backup-ng", units["btrfs-backup-ng.service"]
    assert f" run -c {timers.file}\n" in service
    assert "OnCalendar=hourly" in units[f"{name}.timer"]
    for text in (service, units[f"{name}.timer"]):
        assert all(f"  {line}" in shown for line in text.splitlines() if line)
    assert timers.calls == [
        "daemon-reload",
        "reenable btrfs-backup-ng.timer",
        "restart btrfs-backup-ng.timer",
    ]
    assert "next run Sun 2026-11-29 02:03:11 UTC" in shown

    again = timers.call("install", "--oncalendar", "Mon..Fri 18:00", "--yes", "-q")
    assert again == "" and timers.state()[f"{name}.service"] == service
    assert "OnCalendar=Mon..Fri 18:00" in timers.state()[f"{name}.timer"]
    timers.call("install", "--daily", "home", "--yes")
    timers.call("install", "--on-mount", "usb", "home", "--yes")
    assert timers.calls == [
        "daemon-reload",
        "reenable btrfs-backup-ng.on-usb-home.service",
    ]
    text = timers.state()["btrfs-backup-ng.on-usb-home.service"]
    assert "WantedBy=proc.mount" in text and " --only usb home\n" in text

    said = timers.call("show")
    assert "btrfs-backup-ng: Mon..Fri 18:00\n" in said
    assert "01:02:03 UTC: failed (exit-code), exit status 10\n" in said
    assert "  log   journalctl -u btrfs-backup-ng-home.service\n" in said
    shown_timers = json.loads(timers.call("show", "--json"))["timers"]
    assert [(each["name"], each["schedule"]) for each in shown_timers] == [
        ("btrfs-backup-ng-home", "daily"),
        ("btrfs-backup-ng.on-usb-home", ""),
        (name, "Mon..Fri 18:00"),
    ]
    assert "made no 'x'" in timers.refuse(UsageError, "remove", "x", "--yes")
    assert "would remove" in timers.call("remove", "-n") and timers.calls == []
    timers.call("remove", "btrfs-backup-ng-home.timer", "--yes")
    assert timers.calls == ["disable --now btrfs-backup-ng-home.timer", "daemon-reload"]
    assert len(timers.state()) == 4
    timers.call("remove", "--yes")
    # Nothing ends a backup that runs.
    assert "disable btrfs-backup-ng.on-usb-home.service" in timers.calls
    assert timers.state() == {"btrfs-backup-ng-of-mine.timer": "[Timer]\n"}


def test_nothing_is_written_if_anything_is_wrong(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
):
    other = timers.units / "btrfs-backup-ng.timer"
    other.write_text(f"[Timer]\n{MARKER}\n")
    stays = "btrfs-backup-ng.timer was not made by btrfs-backup-ng timer"
    assert stays in timers.refuse(Refused, "install", "--yes")
    other.unlink()
    other.symlink_to("/dev/null")  # it is masked
    assert stays in timers.refuse(Refused, "install", "--yes")
    other.unlink()
    for words, message in {
        ("install", "hom", "-y"): "no volume 'hom'",
        ("install", "--on-mount", "ubs", "-y"): "no target 'ubs'",
        ("install", "--on-mount", "", "-y"): "no target given",
        ("install", "--on-mount", "usb", "root", "-y"): "none of these volumes goes",
        ("install", "--on-mount", "nas", "-y"): "nas is not on a disk of this machine",
        ("install", "--hourly", "--daily", "-y"): "--hourly and --daily are two",
        ("install", "--oncalendar", "x\nUser=y", "-y"): "is no time of systemd",
        ("install", "--oncalendar", "25:00", "-y"): "25:00",
        ("install",): "cannot ask for confirmation",
        ("show", "--daily"): "--daily has no effect with show",
        ("show", "x"): "show takes no 'x'",
        ("instal",): "'instal' is no action",
    }.items():
        assert message in timers.refuse(UsageError, *words)
    timers.file.write_text(CONFIGURATION.format(place="/no/disk"))
    message = timers.refuse(UsageError, "install", "--on-mount", "usb", "-y")
    assert "no disk is mounted at the place of usb now: /no/disk/home" in message
    text = timers.file.read_text()
    timers.file.write_text(
        text.replace("[volumes.home]", "retires = 3\n[volumes.home]")
    )
    assert "line 5" in timers.refuse(UsageError, "install", "-y")
    timers.file.write_text(f"{text}[notify]\n")
    assert "no notifier is named" in timers.refuse(UsageError, "install", "-y")
    timers.file.write_text(f"{text}[notify]\nping = 'http://x'\n")
    for names in ([], ["home"]):
        timers.call("install", "-n", *names)
        assert ("so they do not ping" in timers.stderr) == bool(names)
    timers.file.unlink()
    assert "there is no configuration" in timers.refuse(UsageError, "install", "-y")
    monkeypatch.setattr(timer, "SYSTEM_UNITS", "/proc/1")
    monkeypatch.setattr(os, "access", _may_not_write)
    assert "/proc/1 is not yours to write" in timers.refuse(Refused, "install", "-y")


def _may_not_write(path: str, mode: int) -> bool:
    return mode != os.W_OK


def test_without_systemd_there_is_a_line_for_cron(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
):
    timers.let_fail("show")
    line = timers.call("install", "home", "--yes").rstrip("\n")
    assert line.startswith("15 * * * * root /") and line.endswith(" home -q")
    assert timers.status == 4 and timers.state() == {}
    assert "systemd does not run here: no can do.\n" in timers.stderr
    document = json.loads(timers.call("install", "home", "--yes", "--json"))
    assert (document["exit_status"], document["cron"]) == (4, line)
    monkeypatch.setenv("PATH", "/nowhere")
    assert timers.call("install", "--oncalendar", "*:0/30", "--yes") == ""
    assert timers.status == 4 and "cannot run systemctl: not found" in timers.stderr


def test_a_call_of_systemctl_that_fails_is_an_error(timers: Timers):
    timers.let_fail("restart")
    with pytest.raises(BackupError, match="systemctl restart .* failed: no can do"):
        timers.call("install", "--yes")
    assert len(timers.state()) == 2
    # Where systemd does not run, links are removed, and nothing is started or ended.
    timers.let_fail("show")
    assert "hourly, not enabled" in timers.call("show")
    assert "systemd does not run here: no can do" in timers.stderr
    timers.call("remove", "--yes")
    assert timers.calls == ["disable btrfs-backup-ng.timer"] and timers.state() == {}


@covers("--user")
def test_a_timer_of_a_user_is_written_after_a_yes(timers: Timers, tmp_path: Path):
    words = ["timer", "install", "--user", "-c", str(timers.file)]
    units = tmp_path / "of-user/systemd/user"
    done = in_conversation(*words, answers={"[y/N]": "n"})
    assert done.returncode == 1 and "nothing was written" in done.stdout
    assert not units.exists()
    done = in_conversation(*words, answers={"[y/N]": "y"})
    assert done.returncode == 0 and "loginctl enable-linger" in done.stdout
    assert {path.name for path in units.iterdir()} == {
        "btrfs-backup-ng.service",
        "btrfs-backup-ng.timer",
    }
    text = (units / "btrfs-backup-ng.service").read_text()
    assert "NoNewPrivileges" not in text and "systemd-inhibit" not in text
    assert "--user reenable btrfs-backup-ng.timer" in timers.calls
    assert timers.state() == {}
