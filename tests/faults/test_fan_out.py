"""One read for several destinations: each fails, stalls and resumes alone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import MakesFilesystems
from tests.faults import cutting
from tests.faults.conftest import Disks
from tests.faults.cutting import LOCAL_CUTS, RATE, cut_short
from tests.faults.faulty import faulty_btrfs
from tests.support import processes
from tests.support.command_line import covers, must
from tests.support.places import (
    MIB,
    assert_equal,
    by_age,
    ssh_place,
    ssh_words,
    staged,
)
from tests.support.program import PROGRAM, Argument, environment, finish
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


def others_of(scene: Scene, count: int = 3) -> list[Path]:
    return [scene.other_destination(f"other {number}") for number in range(count)]


def check_arrived(scene: Scene, places: Sequence[Path]) -> None:
    """Check that each place has all snapshots, complete, and nothing else."""
    names = scene.snapshot_names
    for place in places:
        assert by_age(place) == names
        for name in names:
            assert_equal(scene.snapshot_folder / name, place / name)
        assert staged(place) == []
    scene.check_laws()
    scene.wait_for_quiet()


def traced(*words: Argument) -> tuple[processes.Trace, int]:
    """Run the program; return also how many times it ran ``btrfs send``."""
    trace = processes.trace(*PROGRAM, *map(os.fsdecode, words), env=environment())
    assert trace.returncode == 0, trace.stderr
    return trace, trace.count("btrfs", "send")


def receiver_at(place: Path) -> processes.Process:
    """Wait for the process that receives at a place."""

    def find() -> processes.Process | None:
        for process in processes.everything():
            if process.argv[:2] == ("btrfs", "receive"):
                if process.works_at(f"{place}/"):
                    return process
        return None

    found = processes.wait_until(find)
    assert found
    return found


@covers("--no-fan-out")
def test_one_read_serves_four_destinations(scene: Scene) -> None:
    others = others_of(scene)
    places = [scene.destination, *others]
    trace, sends = traced(*scene.words(*others))
    assert sends == 1
    told = [line.split(":")[0] for line in trace.stdout.splitlines() if "sent" in line]
    assert told == [f"{scene.source} -> {place}" for place in places]
    check_arrived(scene, places)
    scene.write()
    assert traced(*scene.words(*others))[1] == 1
    check_arrived(scene, places)
    scene.write()
    assert traced(*scene.words(*others, "--no-fan-out"))[1] == 4
    check_arrived(scene, places)


def test_destinations_with_different_needs_share_what_they_can(scene: Scene) -> None:
    near, new, newer = others_of(scene)
    scene.back_up(near)
    scene.write()
    # The second from the first for two; and both, the first in full, for two.
    assert traced(*scene.words(near, new, newer))[1] == 3
    check_arrived(scene, [scene.destination, near, new, newer])


def test_commands_and_directories_share_no_stream_of_another_form(
    scene: Scene, tmp_path: Path
) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    commands = [f"shell://cat >{file}" for file in files]
    other = scene.other_destination("other")
    _, sends = traced(*scene.words(*commands, other))
    assert sends in (1, 2)  # an old kernel knows only one form
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes().startswith(b"btrfs-stream")
    check_arrived(scene, [scene.destination, other])


def test_a_killed_receiver_costs_the_others_nothing(scene: Scene) -> None:
    others = others_of(scene)
    scene.write(16 * MIB)
    with scene.start(*others, *RATE) as program:
        scene.wait_for_data(2 * MIB)
        processes.kill([receiver_at(others[1])])
        done = finish(program)
    assert done.returncode == 10
    assert f"{others[1]}: " in done.stderr and "killed by SIGKILL" in done.stderr
    check_arrived(scene, [scene.destination, others[0], others[2]])
    assert by_age(others[1]) == []
    scene.back_up(*others, "-S")
    check_arrived(scene, [scene.destination, *others])


def test_a_retry_is_made_when_the_others_are_done(scene: Scene) -> None:
    others = others_of(scene, 1)
    scene.write(16 * MIB)
    with scene.start(*others, *RATE, "--retries=1") as program:
        scene.wait_for_data(2 * MIB)
        processes.kill([receiver_at(scene.destination)])
        done = must(finish(program))
    assert "It is tried again when the others are done" in done.stderr
    check_arrived(scene, [scene.destination, *others])


def test_a_receiver_that_stands_still_holds_up_the_others_for_a_while(
    scene: Scene, tmp_path: Path
) -> None:
    others = others_of(scene, 2)
    scene.write(48 * MIB)  # more than what may lie between them
    stopped = tmp_path / "stopped"
    stops = f'echo $$ >{stopped}; kill -STOP $$; exec "$@"'
    env = faulty_btrfs(tmp_path, "receive*other?0*", stops)
    with scene.start(*others, "--stall-timeout=4", env=env) as program:
        processes.wait_until(
            lambda: by_age(scene.destination) and by_age(others[1]), 60
        )
        assert by_age(others[0]) == [] and program.poll() is None
        os.kill(int(stopped.read_text()), signal.SIGCONT)
        done = must(finish(program))
    assert f"{others[0]} held up the other destinations" in done.stderr
    check_arrived(scene, [scene.destination, *others])


def test_a_full_destination_costs_the_others_nothing(
    scene: Scene, btrfs: MakesFilesystems
) -> None:
    disk = btrfs(size="128M", mkfs_options=("--mixed",))
    full = disk.path / scene.name
    full.mkdir()
    disk.fill_up(leave_bytes=8 * MIB)
    (other,) = others_of(scene, 1)
    scene.write(16 * MIB)
    done = must(scene.run(full, other, "--no-check-space"), 10)
    assert f"{full}: the filesystem is full" in done.stderr
    check_arrived(scene, [scene.destination, other])
    assert by_age(full) == []


def test_one_resumes_from_its_checkpoint_beside_the_others(scene: Scene) -> None:
    scene.options += ["--checkpoint-interval", "1M"]
    cutting.plant(scene.source)
    others = others_of(scene, 2)
    safe = cut_short(scene, 4 * MIB, LOCAL_CUTS["the program killed"])
    scene.wait_for_quiet()
    trace, sends = traced(*scene.words(*others, "-S", "--json"))
    assert sends == 1
    resumed = {
        event["destination"]: event["resumed_bytes"]
        for event in json.loads(trace.stdout)["events"]
        if event["event"] == "sent"
    }
    assert resumed.pop(scene.place) >= safe
    assert list(resumed.values()) == [0, 0]
    check_arrived(scene, [scene.destination, *others])


def test_a_remote_source_sends_once(disks: Disks, sshd: Sshd) -> None:
    scene = Scene(*disks)
    (other,) = others_of(scene, 1)
    source = ssh_place(sshd, scene.source, user="root")
    words: list[Argument] = [*scene.options, *ssh_words(sshd), source]
    words += [scene.place, other]
    trace, _ = traced(*words)
    assert sum("bbng2 send " in argv[-1] for argv in trace.execs) == 1
    check_arrived(scene, [scene.destination, other])
