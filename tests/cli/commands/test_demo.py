"""The ``demo`` verb: what it shows, and that nothing of it stays behind."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from btrfs_backup_ng.cli.commands.demo import fold
from tests.support import ours
from tests.support.command_line import (
    appears,
    as_nobody,
    complaint,
    covers,
    must,
    path_without,
    script,
    sudo_line,
)
from tests.support.filesystems import read_mounts
from tests.support.processes import wait_until
from tests.support.program import PROGRAM, environment, run_program, start_program

pytestmark = pytest.mark.btrfs

_NAME = r"\S+-\d{8}-\d{6}(?:_\d+)?"


def _images() -> set[str]:
    """List what loop devices show at this moment."""
    found = set()
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found.add(file.read_text().strip())
    return found


def _bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}[unit]


def _traces(below: Path) -> list[str]:
    """List what a demo in this temporary directory left.

    A loop device may go a moment later than its mount.
    """

    def devices() -> list[str]:
        return [image for image in _images() if image.startswith(str(below))]

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not devices())
    left = [str(mount.point) for mount in read_mounts() if str(below) in str(mount)]
    return left + devices() + [name for name in os.listdir(below) if name != "wrappers"]


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory for a demo that is cleared even if the demo does not.

    Its name is short, as that of the usual temporary directory.
    """
    base = ours.public_directory()
    place = base / "p"
    place.mkdir()
    yield place
    for mount in reversed(read_mounts()):
        if mount.point.is_relative_to(place):
            subprocess.run(["umount", "--lazy", mount.point], check=True)
    shutil.rmtree(base)


def unfolded(text: str) -> str:
    """Return the lines as they were before they were folded."""
    return re.sub(r"(?: \\)?\n(    |      )(?=\S)", " ", text)


def test_lines_are_folded_at_words_and_those_of_commands_can_still_be_typed():
    words = " ".join(["word"] * 30)
    folded = fold(f"  {words}", is_command=False).split("\n")
    assert max(map(len, folded)) <= 80 and len(folded) == 2
    assert folded[1].startswith("      word")
    script = fold(f"printf '%s ' {words}", is_command=True)
    assert max(map(len, script.split("\n"))) <= 80
    assert subprocess.check_output(["sh", "-c", script], text=True).split() == (
        words.split()
    )
    assert fold("x" * 90, is_command=True) == "x" * 90
    assert fold("short", is_command=False) == "short"


def test_the_demo_shows_everything_and_leaves_nothing(place: Path):
    done = must(run_program("demo", env={"TMPDIR": str(place)}))
    assert done.stderr == ""
    shown = unfolded(done.stdout)
    full = re.search(rf"sent ({_NAME}), (\S+ \S+) in full", shown)
    second = re.search(rf"sent ({_NAME}), (\S+ \S+) since ({_NAME})", shown)
    assert full and second
    assert second[3] == full[1]
    assert _bytes(second[2]) < _bytes(full[2]) / 5
    assert shown.count("no difference") == 2
    home, disk = f"{place}/bb/home", f"{place}/bb/disk"
    for line in (
        r"\$ mkfs\.btrfs .*",
        r"\$ mount .*",
        rf"\$ btrfs-backup-ng {home} {disk}",
        rf".*{full[1]}",
        rf".*{second[1]}",
        rf"\$ btrfs-backup-ng versions {home}/letter",
        rf"{home}/letter: 2 versions in 4 snapshots",
        r"\$ diff .*",
        "no difference",
        rf"\$ btrfs-backup-ng restore {disk} --file beach\.jpg --to {home}",
        rf"restored  1 file or folder below {home} .*",
        rf"\$ btrfs-backup-ng restore {disk} --to {home}/restored --writable",
        rf"restored  {home}/restored: .*",
        r'  mv -- "\$top"/\S+/restored "\$top"/@home',
        rf"{home} -> {disk}: sent \S+, \S+ \S+ since {second[1]} in .*",
        rf"{disk}: 3 backups",
        rf"OK       {disk}: .*",
        "# Everything is removed again.",
    ):
        assert re.search(f"^{line}$", shown, re.MULTILINE), line
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert _traces(place) == []


def test_every_command_of_the_demo_can_be_typed(place: Path):
    shown = must(run_program("demo", env={"TMPDIR": str(place)})).stdout
    lines = unfolded(shown).splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    assert len(commands) > 15
    for command in commands:
        subprocess.run(["sh", "-nc", command], check=True)
        first = shlex.split(command)[0]
        found = subprocess.run(
            ["sh", "-c", f"command -v {first}"],
            env={"PATH": f"{os.defpath}:/usr/sbin:/sbin"},
            stdout=subprocess.DEVNULL,
        )
        assert found.returncode == 0 or first == "btrfs-backup-ng"


def _with(place: Path, name: str, text: str) -> dict[str, str | None]:
    """Put another program in front of a real one, which is ``$real``."""
    wrappers = place.parent / "wrappers"
    wrappers.mkdir()
    real = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    script(wrappers / name, f"real={real}\n{text}")
    return {"PATH": f"{wrappers}:{os.environ['PATH']}", "TMPDIR": str(place)}


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("mkfs.btrfs", "echo no such luck >&2; exit 5", "no such luck"),
        ("mount", 'case "$*" in *disk) exit 32;; esac; exec $real "$@"', "mount "),
        ("btrfs", 'case "$*" in receive*) exit 1;; esac; exec $real "$@"', "receive"),
        ("diff", "exit 1", "diff"),
    ],
)
def test_a_demo_that_fails_leaves_nothing(place: Path, name: str, text: str, part: str):
    done = run_program("demo", env=_with(place, name, text))
    must(done, 1)
    assert done.stderr.startswith("btrfs-backup-ng: ")
    assert part in done.stdout + done.stderr
    assert _traces(place) == []
    assert "no difference" not in done.stdout


def test_a_demo_that_finds_a_difference_shows_it(place: Path):
    done = must(
        run_program("demo", env=_with(place, "diff", "echo Only here; exit 1")), 1
    )
    assert "Only here" in done.stdout + done.stderr
    assert _traces(place) == []


@pytest.mark.parametrize(
    ("name", "number", "status"),
    [
        ("mkfs.btrfs", signal.SIGINT, 130),
        ("mv", signal.SIGINT, 130),
        ("diff", signal.SIGTERM, 143),
    ],
)
def test_a_demo_that_is_interrupted_leaves_nothing(
    place: Path, name: str, number: signal.Signals, status: int
):
    began = place.parent / "began"
    env = _with(place, name, f"touch {began}; exec sleep 300")
    with start_program("demo", env=env) as demo:
        appears(began, demo)
        demo.send_signal(number)
        _, said = demo.communicate()
        assert demo.returncode == status, said
    assert "Traceback" not in said
    assert _traces(place) == []


def test_a_demo_that_is_interrupted_while_it_sends_leaves_nothing(place: Path):
    began = place.parent / "began"
    wait = f"case $1 in receive) touch {began}; exec sleep 300;; esac"
    env = _with(place, "btrfs", f'{wait}; exec $real "$@"')
    with start_program("demo", env=env) as demo:
        appears(began, demo)
        demo.send_signal(signal.SIGINT)
        _, said = demo.communicate()
        assert demo.returncode == 130, said
    assert _traces(place) == []


@covers("--slow")
def test_a_slow_demo_waits_at_each_line_and_can_be_ended_there(place: Path):
    with start_program("demo", "--slow", env={"TMPDIR": str(place)}) as demo:
        assert demo.stdout
        while not demo.stdout.readline().startswith("# Two btrfs filesystems"):
            pass
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate()
        assert demo.returncode == 130
    assert "$ mount" not in rest  # not even the next command was run
    assert _traces(place) == []


def test_the_loop_devices_of_a_demo_that_was_killed_go_with_its_mounts(place: Path):
    must(run_program("demo", env=_with(place, "diff", "kill -9 $PPID")), -9)
    mounted = [m.point for m in read_mounts() if m.point.is_relative_to(place)]
    assert len(mounted) == 2
    for point in mounted:  # a child of the killed program may end a moment later
        wait_until(lambda: subprocess.run(["umount", point]).returncode == 0)
    assert _traces(place) == ["bb"]


@covers("--keep")
def test_a_kept_demo_stays_and_goes_with_the_printed_command(place: Path):
    done = must(run_program("demo", "--keep", env={"TMPDIR": str(place)}))
    mounted = [m.point for m in read_mounts() if m.point.is_relative_to(place)]
    assert len(mounted) == 2
    assert any(list(point.glob("*-*")) for point in mounted)
    assert "removed again" not in done.stdout
    command = done.stdout.split("Remove it with:\n")[1]
    subprocess.run(["sh", "-ec", command], check=True)
    assert _traces(place) == []


def test_the_demo_tells_other_users_what_to_do():
    said = complaint(as_nobody("demo"), 4, "needs root")
    assert f"\n  Run:  {sudo_line('demo')}\n" in said


def test_the_advice_to_other_users_repeats_their_options():
    said = complaint(as_nobody("demo", "--keep"), 4, "needs root")
    assert sudo_line("demo", "--keep") in said


def test_the_demo_takes_no_places(place: Path):
    complaint(run_program("demo", place), 2, "demo --help")


@covers("--install-missing", "-h", "--help")
def test_the_demo_explains_itself():
    done = must(run_program("demo", "--help"))
    assert "--keep" in done.stdout
    assert "--install-missing" in done.stdout


# What is in /usr/sbin is found whatever PATH says, so it is hidden by a mount that
# only the program sees.
def _run_without_mkfs(place: Path, path: str, *words: str):
    real = shutil.which("mkfs.btrfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert real
    hide = f'mount --bind /dev/null {real}; exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", hide, "sh", *PROGRAM, "demo", *words],
        env=environment({"PATH": path, "TMPDIR": str(place)}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


_MANAGERS = ("apt-get", "dnf", "pacman", "zypper")


def _fake_manager(place: Path, manager: str, installs: str) -> tuple[str, Path]:
    """Return a PATH with one package manager, which logs what it is asked for."""
    path = path_without(place.parent, *_MANAGERS, sbin=("mkfs.btrfs",))
    log = place.parent / "manager.log"
    log.touch()
    script(Path(path) / manager, f'echo "$*" >>{log}\n{installs}')
    return path, log


@covers("--install-missing")
@pytest.mark.parametrize(
    ("manager", "asked"),
    [
        ("apt-get", r"install (-y|--yes) .*\bbtrfs-progs"),
        ("dnf", "install -y btrfs-progs"),
        ("pacman", "-S --noconfirm .*btrfs-progs"),
        ("zypper", "--non-interactive install btrfsprogs"),
    ],
)
def test_the_right_package_is_asked_for(place: Path, manager: str, asked: str):
    path, log = _fake_manager(place, manager, ":")
    done = _run_without_mkfs(place, path, "--install-missing")
    complaint(done, 4, "mkfs.btrfs", "by hand")
    assert log.read_text(), done
    assert re.fullmatch(asked, log.read_text().splitlines()[-1])
    assert re.search(rf"^\$ {manager} ", done.stdout, re.MULTILINE)
    assert _traces(place) == []


@covers("--install-missing")
def test_a_demo_goes_on_with_what_it_installed(place: Path):
    real = shutil.which("mkfs.btrfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    copy = place.parent / "mkfs"
    assert real
    shutil.copy(real, copy)
    link = place.parent / "links" / "mkfs.btrfs"
    path, log = _fake_manager(place, "apt-get", f"ln -sf {copy} {link}")
    done = must(_run_without_mkfs(place, path, "--install-missing"))
    assert "no difference" in done.stdout
    assert _traces(place) == []


@covers("--install-missing")
def test_an_installation_that_fails_is_told(place: Path):
    path, _ = _fake_manager(place, "apt-get", "echo no network >&2; exit 100")
    done = _run_without_mkfs(place, path, "--install-missing")
    must(done, 1)
    assert "apt-get" in done.stderr
    assert "no network" in done.stdout + done.stderr


@covers("--install-missing")
def test_nothing_is_installed_unasked(place: Path):
    path, log = _fake_manager(place, "apt-get", ":")
    done = _run_without_mkfs(place, path)
    complaint(done, 4, "mkfs.btrfs", "sudo btrfs-backup-ng demo --install-missing")
    assert log.read_text() == ""


@covers("--install-missing")
def test_nothing_is_installed_where_nothing_is_missing(place: Path):
    log = place.parent / "log"
    env = _with(place, "true", ":")
    script(place.parent / "wrappers/apt-get", f"echo asked >{log}")
    must(run_program("demo", "--install-missing", env=env))
    assert not log.exists()
