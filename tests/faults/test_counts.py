"""What a run costs does not grow with the number of snapshots."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import filesystems, processes
from tests.support.many import make_pairs
from tests.support.places import MIB, command, delete_all, ssh_place, ssh_words
from tests.support.program import PROGRAM, environment, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

#: One worker makes the scene that these tests share.
pytestmark = [pytest.mark.btrfs, pytest.mark.xdist_group("counts")]

LIMIT_BYTES = 40 * MIB


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Return two places that have the same 1,000 snapshots, and nothing to do."""
    directory = tmp_path_factory.mktemp("crowd")
    quick = ("nobarrier", "noatime")
    with (
        filesystems.btrfs_filesystem(directory, mount_options=quick) as source,
        filesystems.btrfs_filesystem(directory, mount_options=quick) as target,
    ):
        scene = Scene(source, target)
        scene.back_up()
        make_pairs(scene.snapshot_folder, scene.destination, "x-", range(999))
        yield scene


def _words(scene: Scene, sshd: Sshd | None = None) -> list[str]:
    """Return the command line that has nothing to do."""
    place = ssh_place(sshd, scene.destination, user="root") if sshd else scene.place
    options = [*scene.options, *(ssh_words(sshd) if sshd else [])]
    return [*PROGRAM, *options, "-S", str(scene.source), place]


def test_1000_snapshots_cost_at_most_6_processes(crowd: Scene) -> None:
    traced = processes.trace(*_words(crowd), env=environment())
    assert traced.returncode == 0, traced.stderr
    assert "nothing to send, all 1000 snapshots are there already" in traced.stdout
    assert traced.processes <= 6, traced.execs


def test_1000_snapshots_cost_little_more_than_one(crowd: Scene, scene: Scene) -> None:
    scene.back_up()
    costs = [processes.measure(*_words(crowd), env=environment()) for _ in range(2)]
    assert [cost.returncode for cost in costs] == [0, 0]
    one = [processes.cpu_seconds(*_words(scene), env=environment()) for _ in range(2)]
    # Where a run with one takes 0.15 s that is less than 0.6 s.
    assert min(cost.cpu_s for cost in costs) < 4 * max(one), (costs, one)
    assert max(cost.peak_bytes for cost in costs) < LIMIT_BYTES, costs


def test_1000_snapshots_behind_ssh_cost_1_connection_and_2_sessions(
    crowd: Scene, sshd: Sshd
) -> None:
    cost = processes.measure(*_words(crowd, sshd), env=environment())
    assert cost.returncode == 0
    # One keeps the lock, one takes the verbs.
    assert (sshd.connections(), sshd.sessions()) == (1, 2), sshd.log_text()
    assert cost.peak_bytes < LIMIT_BYTES, cost


def test_1000_snapshots_of_a_remote_source_cost_no_more(
    crowd: Scene, sshd: Sshd
) -> None:
    source = ssh_place(sshd, crowd.source, user="root")
    words = [*crowd.options, *ssh_words(sshd), "-S", source, str(crowd.destination)]
    run_program(*words)  # which records what this destination needs
    sshd.mark()
    done = run_program(*words)
    assert done.returncode == 0, done.stderr
    assert "nothing to send, all 1000 snapshots" in done.stdout
    assert (sshd.connections(), sshd.sessions()) == (1, 2), sshd.log_text()


def test_sessions_and_processes_do_not_grow_with_the_snapshots(
    crowd: Scene, scene: Scene, sshd: Sshd
) -> None:
    scene.back_up()
    make_pairs(scene.snapshot_folder, scene.destination, "x-", range(9))
    sessions, started = [], []
    for few_or_many in (scene, crowd):
        sshd.mark()
        done = run_program(*_words(few_or_many, sshd)[len(PROGRAM) :])
        assert done.returncode == 0, done.stderr
        sessions.append((sshd.connections(), sshd.sessions()))
        started.append(
            processes.trace(*_words(few_or_many), env=environment()).processes
        )
    assert sessions[0] == sessions[1]
    assert started[0] == started[1]


def test_a_backup_beside_1000_others_is_incremental_and_cheap(crowd: Scene) -> None:
    crowd.write()
    words = [*PROGRAM, *crowd.options, str(crowd.source), crowd.place]
    traced = processes.trace(*words, env=environment())
    assert traced.returncode == 0, traced.stderr
    assert "since" in traced.stdout
    # What brings the data to the disk beside receive, as long as that takes.
    flush = (("timeout", "1"), ("cat",), ("sync", "-f"))
    flushing = sum(traced.count(*words) for words in flush)
    assert traced.processes - flushing <= 20, traced.execs


def test_a_full_backup_beside_100_snapshots_takes_1_connection_and_5_sessions(
    scene: Scene, sshd: Sshd
) -> None:
    assert run_program("-p", "old-", "-T", scene.source).returncode == 0
    taking = ("btrfs", "-q", "subvolume", "snapshot", "-r", scene.source)
    for number in range(99):
        command(*taking, scene.snapshot_folder / f"old-20250101-{number:06}")
    scene.write(MIB)
    words = _words(scene, sshd)[len(PROGRAM) :]
    words.remove("-S")
    done = run_program(*words)
    assert done.returncode == 0, done.stderr
    assert "in full (first backup there)" in done.stdout
    # For the lock, verbs (of two threads), the stream, and a trial of room for that.
    assert sshd.connections() == 1
    assert sshd.sessions() <= 5, sshd.log_text()


def test_a_subvolume_more_behind_ssh_costs_a_session_more(
    scene: Scene, sshd: Sshd
) -> None:
    """As its stream; 20 of them cost 24 at most."""
    words: list[str] = []
    for number in range(5):
        source = scene.subvolume(f"home {number}")
        (source / "file").write_text("x")
        place = ssh_place(sshd, scene.other_destination(f"{number}"), user="root")
        words += ["::", *scene.options, *ssh_words(sshd), str(source), place]
    assert run_program(*words[1:]).returncode == 0
    sshd.mark()
    done = run_program(*words[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("since") == 5, done.stdout
    assert sshd.connections() == 1
    assert sshd.sessions() <= 5 + 5, sshd.log_text()


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_transfer_needs_little_memory(
    scene: Scene, request: pytest.FixtureRequest, kind: str
) -> None:
    sshd = request.getfixturevalue("sshd") if kind == "ssh" else None
    scene.write(64 * MIB)
    words = [word for word in _words(scene, sshd) if word != "-S"]
    cost = processes.measure(*words, "--progress", env=environment())
    assert cost.returncode == 0
    assert len(scene.backups) == 1
    assert cost.peak_bytes < LIMIT_BYTES, cost
    (scene.source / "data").unlink()


def test_many_deletions_cost_few_processes(scene: Scene) -> None:
    scene.back_up("-N1", "-n1")
    make_pairs(scene.snapshot_folder, scene.destination, "x-", range(250))
    words = [*PROGRAM, *scene.options, "-S", "-N1", "-n1"]
    words += [str(scene.source), scene.place]
    traced = processes.trace(*words, env=environment())
    assert traced.returncode == 0, traced.stderr
    assert len(os.listdir(scene.snapshot_folder)) <= 2, "the newest, and the base"
    assert traced.processes <= 30


def test_a_restore_and_a_pruning_ask_a_place_once(scene: Scene, sshd: Sshd) -> None:
    """Sessions: one for verbs; for the restore also two for its size and stream."""
    scene.back_up()
    place = ssh_place(sshd, scene.destination, user="root")
    options = ssh_words(sshd)
    delete_all(scene.snapshot_folder)  # else there is nothing to send
    sshd.mark()
    back = scene.source.parent / "back"
    done = run_program("restore", *options, place, "--to", back)
    assert done.returncode == 0, done.stderr
    assert (sshd.connections(), sshd.sessions()) == (1, 3)
    sshd.mark()
    policy = ("--keep-at", "latest=9", "--keep-zone", "UTC", "--dry-run")
    done = run_program("prune", *options, *policy, place)
    assert done.returncode == 0, done.stderr
    assert (sshd.connections(), sshd.sessions()) == (1, 1)
