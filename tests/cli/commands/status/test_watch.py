"""``status --watch``: again and again, on a terminal in place."""

import os
import signal
import subprocess

import pytest

from btrfs_backup_ng.cli.commands.status.watch import join_span
from tests.support.command_line import assert_fails, covers
from tests.support.places import ssh_place, ssh_words
from tests.support.processes import wait_until
from tests.support.program import PROGRAM, environment, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import fill


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        ("--watch 5 /x", "--watch --watch-every=5 /x"),
        ("--watch 1min", "--watch --watch-every=1min"),
        ("--watch=5 /x", "--watch --watch-every=5 /x"),
        ("--watch /x 5", "--watch /x 5"),
        ("--watch ./5", "--watch ./5"),
        ("--watch 2020-backups", "--watch 2020-backups"),
        ("-- --watch 5", "-- --watch 5"),
    ],
)
def test_only_a_length_of_time_is_its_value(words: str, joined: str):
    assert join_span(words.split()) == joined.split()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--watch", "0.5"], "once a second"),
        (["--watch=soon"], "soon"),
        (["--watch", "--json"], "leave out --json"),
        (["--watch", "5", "--metrics", "x"], "leave out --metrics"),
        (["--watch", "--html", "x"], "leave out --html"),
    ],
)
def test_what_cannot_be_watched_is_refused(words: list[str], told: str):
    assert_fails(run_program("status", *words, "/"), 2, told)


@pytest.mark.btrfs
@covers("--watch", "--watch-every")
def test_a_stream_gets_block_after_block_over_one_connection(scene: Scene, sshd: Sshd):
    (name,) = fill(scene)
    sshd.mark()
    place = ssh_place(sshd, scene.destination)
    words = [*ssh_words(sshd), "--watch", "1", place]
    with start_program("status", *words) as program:
        assert program.stdout
        for blank in ("", "\n"):
            if blank:
                assert program.stdout.readline() == blank
            assert program.stdout.readline().endswith(", every 1 s until Ctrl-C\n")
            assert program.stdout.readline().startswith(f"OK       {place}: {name}, ")
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate()
    assert (program.returncode, errors) == (0, "")
    assert sshd.connections() == 1


@pytest.mark.btrfs
def test_a_terminal_is_drawn_over_and_what_stood_above_stays(scene: Scene):
    fill(scene)
    ours, theirs = os.openpty()
    words = ["status", "--watch", "1", str(scene.destination)]
    with subprocess.Popen(
        ["setsid", "--ctty", *PROGRAM, *words],
        env=environment({"TERM": "xterm", "COLUMNS": "300"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as program:
        os.close(theirs)
        shown = b""

        def is_drawn_twice() -> bool:
            nonlocal shown
            shown += os.read(ours, 65536)
            return shown.count(b"\x1b[J") == 2

        wait_until(is_drawn_twice, 30)
        os.write(ours, b"\x03")
        assert program.wait(30) == 0
    os.close(ours)
    first, second, _ = shown.decode().split("\x1b[J")
    assert first.count("\n") == second.count("\n") == 2
    assert "\x1b[2J" not in first and not first.startswith("\r")
    assert second.startswith(f"\r\x1b[{first.count(chr(10))}A")
    assert all(line.endswith("\x1b[K\r") for line in second.split("\n")[:-1])
