"""A place that says nothing, next to nothing, or without end, is given up."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from btrfs_backup_ng.host.ssh import beating
from btrfs_backup_ng.process.child import PIPE, Child
from btrfs_backup_ng.process.command import Command
from tests.faults.conftest import Disks
from tests.faults.playing import LIMIT_S, LONGEST_S, Stage, run_impatient
from tests.support import ours, processes
from tests.support.command_line import assert_fails
from tests.support.places import MIB, STATE, ssh_place, ssh_words
from tests.support.program import finish
from tests.support.scene import Scene
from tests.support.sshd import Sshd, running_sshd

#: One worker makes the scene that these tests share.
pytestmark = [pytest.mark.btrfs, pytest.mark.xdist_group("silent")]

LIMIT = ("--stall-timeout", str(LIMIT_S))
SILENT = f"was silent for {LIMIT_S} s, so it was stopped"
LONG = "did not end within"
WAYS = ["push", "pull", "local"]


@pytest.fixture(scope="module")
def _stage() -> Iterator[Stage]:
    directory = ours.public_directory()
    yield Stage(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def _server(_stage: Stage) -> Iterator[Sshd]:
    with running_sshd(config=(f"SetEnv PATH={_stage.path}",)) as server:
        yield server


@pytest.fixture
def stage(_stage: Stage) -> Iterator[Stage]:
    """Return a stage on which nothing is played yet."""
    yield _stage
    _stage.stop()


class Way:
    """From where to where a run goes, with one end on the stage."""

    def __init__(self, disks: Disks, stage: Stage, server: Sshd, kind: str) -> None:
        self.scene = scene = Scene(*disks)
        self.path = stage.path if kind == "local" else ""
        self.source, self.place = str(scene.source), scene.place
        if kind == "push":
            self.place = ssh_place(server, scene.destination, user="root")
        if kind == "pull":
            self.source = ssh_place(server, scene.source, user="root")
        if kind != "local":
            scene.options += ssh_words(server)
        self.where = " on root@127.0.0.1" if kind != "local" else ""

    def run(
        self, *more: str, longest_s: int = LONGEST_S
    ) -> subprocess.CompletedProcess[str]:
        """Run the program that way."""
        words = [*self.scene.options, *LIMIT, *more, self.source, self.place]
        return run_impatient(*words, path=self.path, longest_s=longest_s)

    def back_up(self, *more: str) -> None:
        """Run it, and be sure that it went well."""
        done = self.run(*more)
        assert done.returncode == 0, done.stderr

    def check_free(self) -> None:
        """Check that nobody has the locks of both places."""
        for place in (self.scene.source, self.scene.destination):
            if (place / STATE).exists():
                argv = ["flock", "-n", str(place / STATE), "true"]
                processes.wait_until(lambda: subprocess.run(argv).returncode == 0)


@pytest.fixture
def way(
    request: pytest.FixtureRequest, disks: Disks, stage: Stage, _server: Sshd
) -> Way:
    """Return the way that a test's parameter names, which nothing has gone yet."""
    return Way(disks, stage, _server, request.param)


@pytest.fixture(scope="module")
def trodden(disks: Disks, _stage: Stage, _server: Sshd) -> dict[str, Way]:
    """Return ways that two backups have gone, and that tests go on using."""
    ways = {kind: Way(disks, _stage, _server, kind) for kind in WAYS}
    for each in ways.values():
        each.back_up()
        each.scene.write()
        each.back_up()
    return ways


def _check_given_up(way: Way, stage: Stage, verb: str, more: str) -> None:
    stage.play(verb, "silent")
    began = time.monotonic()
    done = way.run(*more.split())
    assert stage.was_played
    assert time.monotonic() - began < 40
    said = {"preview": "a dry run"}.get(verb, verb)
    assert done.returncode in (1, 10)
    said = f"{said}{way.where} {SILENT}"
    assert_fails(done, done.returncode, said, "--stall-timeout")
    way.check_free()
    way.scene.check_laws()


#: Verb, way, words that make a run use it.
VERBS = [
    ("hello", "push", ""),
    ("lock", "push", ""),
    ("list", "push", ""),
    ("publish", "push", ""),
    ("delete", "push", "-n1 --force"),
    ("sync", "push", "-n1 -s --force"),
    ("hello", "pull", ""),
    ("lock", "pull", ""),
    ("list", "pull", ""),
    ("snapshot", "pull", ""),
    ("put", "pull", ""),
    ("delete", "pull", "-N1 --force"),
    ("preview", "pull", "--dry-run"),
    ("delete", "local", "-n1 --force"),
    ("sync", "local", "-n1 -s --force"),
    ("preview", "local", "--dry-run"),
]


@pytest.mark.parametrize(("verb", "kind", "more"), VERBS)
def test_a_verb_that_says_nothing_is_given_up(
    verb: str, kind: str, more: str, stage: Stage, trodden: dict[str, Way]
) -> None:
    trodden[kind].scene.write()
    _check_given_up(trodden[kind], stage, verb, more)


@pytest.mark.parametrize(
    ("verb", "way"),
    [
        ("lock", "push"),
        ("put", "push"),
        ("prepare", "local"),
    ],
    indirect=["way"],
)
def test_a_verb_of_the_first_run_that_says_nothing_is_given_up(
    verb: str, way: Way, stage: Stage
) -> None:
    _check_given_up(way, stage, verb, "")
    stage.stop()
    way.back_up()
    way.scene.check_laws()


@pytest.mark.parametrize("kind", WAYS)
def test_after_all_that_a_run_makes_all_good(
    kind: str, stage: Stage, trodden: dict[str, Way]
) -> None:
    trodden[kind].back_up()
    trodden[kind].scene.check_laws()
    assert trodden[kind].scene.staging == []


#: Verb, what it does, what is said of it.
PLAYED = [
    ("list", "closed", f"list on root@127.0.0.1 {SILENT}"),
    ("list", "slow", f"list on root@127.0.0.1 {LONG} {LONGEST_S} s"),
    ("list", "works", f"list on root@127.0.0.1 {LONG} {LONGEST_S} s"),
    ("list", "endless", "list on root@127.0.0.1 wrote more than 67108864 bytes"),
    ("list", "loud", "list on root@127.0.0.1 wrote more than 67108864 bytes to stderr"),
    ("lock", "slow", f"lock on root@127.0.0.1 {LONG}"),
    ("lock", "works", f"lock on root@127.0.0.1 {LONG}"),
    ("lock", "endless", "on root@127.0.0.1"),
]


@pytest.mark.parametrize(("verb", "how", "said"), PLAYED)
def test_an_answer_without_an_end_is_given_up(
    verb: str, how: str, said: str, stage: Stage, trodden: dict[str, Way]
) -> None:
    way = trodden["push"]
    stage.play(verb, how)
    # What is too much takes its time to come.
    done = way.run(longest_s=100 if "more than" in said else LONGEST_S)
    assert stage.was_played
    assert_fails(done, 1, said)
    way.check_free()


def test_reading_files_that_says_nothing_is_given_up(
    stage: Stage, trodden: dict[str, Way]
) -> None:
    way = trodden["push"]
    stage.play("hash", "silent")
    words = ["verify", way.place, "--data", "--source", way.source, *LIMIT]
    done = run_impatient(*words, *way.scene.options[2:])
    assert stage.was_played
    assert f"reading files on root@127.0.0.1 {SILENT}" in done.stdout, done


def test_a_session_that_does_not_open_is_found(
    stage: Stage, trodden: dict[str, Way]
) -> None:
    way = trodden["push"]
    stage.play("wait", "silent")
    done = run_impatient("doctor", way.place, *LIMIT, *way.scene.options[2:])
    assert stage.was_played
    assert f"a session on root@127.0.0.1 {SILENT}" in " ".join(done.stdout.split())


def test_who_waits_for_a_lock_is_not_silent(
    stage: Stage, trodden: dict[str, Way]
) -> None:
    way = trodden["push"]
    state = way.scene.destination / STATE
    with subprocess.Popen(["flock", state, "sh", "-c", "echo; exec sleep 600"],
                          stdout=subprocess.PIPE) as holder:  # fmt: skip
        assert holder.stdout and holder.stdout.readline()
        began = time.monotonic()
        done = way.run("--wait", str(LIMIT_S + 2))
        waited_s = time.monotonic() - began
        processes.kill(processes.children(holder.pid))
    assert waited_s > LIMIT_S + 2
    assert_fails(done, 3, "another run is working on")


def test_a_frozen_session_for_the_lock_does_not_stop_a_run(ssh_scene: Scene) -> None:
    scene = ssh_scene
    scene.write(6 * MIB)
    with scene.start("--rate", "2M") as program:
        scene.wait_for_data(100)
        frozen = [w for w in scene.workers() if {"sh", "lock"} <= set(w.argv)]
        assert frozen
        processes.kill(frozen, signal.SIGSTOP)
        try:
            done = finish(program)
        finally:
            processes.kill(frozen)
    assert done.returncode == 0, done.stderr
    assert len(scene.backups) == 1
    scene.check_laws()


def test_a_child_that_takes_no_sign_of_life_is_not_waited_for() -> None:
    command = Command(("sleep", "600"), "the lock")
    with Child.start(command, stdin=PIPE) as child:
        assert child.stdin
        with beating(child.stdin, "alive") as tell:
            for _ in range(1000):
                tell("x" * 1000)
