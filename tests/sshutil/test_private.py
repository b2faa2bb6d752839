"""The private directories of connections: made, kept while in use, and cleared."""

import fcntl
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from btrfs_backup_ng.sshutil.private import clear_left_behind, make_private_directory
from tests.support.processes import wait_until
from tests.support.program import run_program, start_program
from tests.support.sshd import Sshd

OTHER_USER = 65534


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the directory in which private directories are made; its path is short."""
    path = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    shutil.rmtree(path)


def leave_behind(place: Path, name: str = "bbng-0123abcd") -> Path:
    """Make what a killed program leaves."""
    path = place / name
    path.mkdir(0o700)
    for file in ("lock", "s"):
        (path / file).touch(0o600)
    return path


def test_one_that_is_in_use_stays_and_the_next_one_is_made_beside(place: Path):
    first, second = (make_private_directory("", runs=False) for _ in range(2))
    assert sorted(map(str, place.iterdir())) == sorted([first.path, second.path])
    assert stat.S_IMODE(os.stat(first.path).st_mode) == 0o700
    first.remove()
    first.remove()
    assert os.listdir(place) == [os.path.basename(second.path)]
    second.remove()
    assert os.listdir(place) == []


def test_one_that_was_left_behind_is_cleared_and_no_link_in_it_followed(place: Path):
    victim = place / "victim"
    victim.mkdir()
    (victim / "file").touch()
    left = leave_behind(place)
    (left / "link").symlink_to(victim)
    (left / "file link").symlink_to(victim / "file")
    made = make_private_directory("", runs=False)
    assert not left.exists()
    assert os.listdir(victim) == ["file"]
    made.remove()


def test_one_with_a_directory_in_it_is_not_of_this_program_and_is_no_failure(place):
    left = leave_behind(place)
    (left / "more").mkdir()
    (left / "more" / "file").touch()
    make_private_directory("", runs=False).remove()
    assert (left / "more" / "file").exists()


def give_away(path: Path) -> None:
    for each in (path, *path.iterdir()):
        os.chown(each, OTHER_USER, OTHER_USER)


def replace_by_link(path: Path) -> None:
    path.rename(path.parent / "victim")
    path.symlink_to(path.parent / "victim")


def let_lock_be_link(path: Path) -> None:
    (path / "lock").rename(path.parent / "lock of another")
    (path / "lock").symlink_to(path.parent / "lock of another")


PLANTED = {
    "of another user": give_away,
    "a link": replace_by_link,
    "with a link as its lock": let_lock_be_link,
    "open to others": lambda path: path.chmod(0o755),
    "without a lock": lambda path: (path / "lock").unlink(),
    "not named by us": lambda path: path.rename(path.parent / "bbng-4711-1-x"),
}


@pytest.mark.parametrize("how", PLANTED)
def test_what_is_not_surely_left_behind_stays(place: Path, how: str):
    PLANTED[how](leave_behind(place))
    before = sorted(str(path) for path in place.rglob("*"))
    clear_left_behind(str(place), os.geteuid())
    make_private_directory("", runs=False).remove()
    assert sorted(str(path) for path in place.rglob("*")) == before


def test_one_whose_lock_another_process_holds_stays(place: Path):
    left = leave_behind(place)
    with open(left / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clear_left_behind(str(place), os.geteuid())
        assert sorted(os.listdir(left)) == ["lock", "s"]
    clear_left_behind(str(place), os.geteuid())
    assert not left.exists()


def test_those_of_the_caller_of_sudo_are_cleared_and_not_those_of_root(place: Path):
    ours, his = leave_behind(place), leave_behind(place, "bbng-00000000")
    give_away(his)
    clear_left_behind(str(place), OTHER_USER)
    assert ours.exists() and not his.exists()


def test_a_place_that_cannot_be_read_is_no_failure(place: Path):
    clear_left_behind(str(place / "missing"), os.geteuid())


def test_a_killed_program_leaves_one_that_the_next_run_clears(
    place: Path, sshd: Sshd, new_sshd: Callable[..., Sshd], tmp_path: Path
):
    def words(server: Sshd) -> list[str]:
        options = [word for o in server.ssh_options for word in ("--ssh-opt", o)]
        return ["doctor", *options, f"ssh://root@{server.host}{tmp_path}"]

    silent = new_sshd(config=("ForceCommand sleep 60",))
    with start_program(*words(silent)) as program:
        wait_until(lambda: any(place.glob("*/s")))
        run_program(*words(sshd))
        (left,) = place.iterdir()  # it is in use
        program.send_signal(signal.SIGKILL)
    assert list(left.iterdir())
    run_program(*words(sshd))
    assert list(place.iterdir()) == []
