"""The exit status: each one provoked for real, and signals and closed outputs."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from btrfs_backup_ng.cli.commands import VERBS
from tests.support.command_line import appears, complaint, must
from tests.support.places import MIB, STATE, ssh_place, ssh_words, tamper
from tests.support.processes import Process, descendants, wait_until
from tests.support.program import (
    CHECKOUT,
    PROGRAM,
    Argument,
    environment,
    run_program,
    start_program,
)
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import locked

pytestmark = pytest.mark.btrfs


def test_all_fine_is_0(scene: Scene):
    must(scene.run(), 0)
    must(scene.run("-S"), 0)


def test_a_failed_transfer_is_1(scene: Scene):
    done = run_program("-p", "x-", scene.source, "shell://exit 42")
    complaint(done, 1, "status 42")


def test_several_failures_are_still_1(scene: Scene):
    sinks = ["shell://exit 42", "shell://exit 43", "shell://exit 44"]
    must(run_program("-p", "x-", scene.source, *sinks), 1)


def test_senseless_words_are_2():
    complaint(run_program("--no-such-option"), 2, "--no-such-option")


def test_another_run_at_work_is_3(scene: Scene, tmp_path: Path):
    with _waiting(scene, tmp_path):
        complaint(scene.run(), 3, "another run")


def test_refused_before_any_change_is_4(scene: Scene):
    complaint(scene.run("--incremental=required"), 4, "required")
    assert scene.snapshot_names == []


def test_some_destinations_failed_is_10(scene: Scene):
    done = scene.run("shell://exit 3")
    complaint(done, 10, "exit 3")
    assert len(scene.backup_names) == 1


def test_one_absent_destination_of_two_is_10(scene: Scene):
    nowhere = scene.destination / "nowhere"
    complaint(scene.run(nowhere), 10, f"{nowhere} does not exist")
    assert len(scene.backup_names) == 1


def test_one_refused_task_of_two_is_10(scene: Scene):
    task: list[Argument] = ["-p", "x-", scene.source, scene.destination]
    done = run_program(*task, "::", "-p", "x-", scene.source / "no such source")
    complaint(done, 10, "no such source does not exist")


def test_the_table_of_the_readme_is_true_for_every_verb(scene: Scene, tmp_path: Path):
    for _ in range(2):
        scene.add("file")
        scene.back_up()
    to, new, gone = scene.destination, scene.source.parent / "new", scene.source / "no"
    one, two = (scene.snapshot_folder / name for name in scene.snapshot_names)
    good, bad, public = (tmp_path / f"{name}.toml" for name in ("a", "b", "c"))
    volume = f"snapshot-prefix = 'x-'\n[volumes.a]\nsource = '{scene.source}'\n"
    good.write_text(f"{volume}to = '{to}'\n")
    bad.write_text(f"{volume}[volumes.bad]\nsource = '{gone}'\n")
    public.write_text(volume)
    public.chmod(0o666)
    keep: list[Argument] = ["prune", "--yes", "--keep-at", "latest=9"]
    cases: list[tuple[int, list[Argument]]] = [
        (0, ["config", "check", "-c", good]),
        (2, ["config", "check", "-c", gone]),
        (4, ["config", "check", "-c", public]),
        (0, ["run", "-c", good]),
        (2, ["run", "-c", gone]),
        (4, ["run", "--dry-run", "-c", bad, "bad"]),
        (10, ["run", "--dry-run", "-c", bad]),
        (4, ["snapshot", "--dry-run", "-c", bad, "bad"]),
        (0, ["send", "-c", good]),
        (0, ["list", to]),
        (1, ["list", gone]),
        (10, ["list", to, gone]),
        (0, ["status", to]),
        (1, ["status", to, gone]),
        (0, ["log"]),
        (2, ["log", gone]),
        (0, ["prune", "--simulate=3d", "--keep=2d"]),
        (0, [*keep, to]),
        (4, [*keep, gone]),
        (10, [*keep, to, gone]),
        (4, ["restore", to, "nothing", "--to", new]),
        (0, ["restore", to, "--to", new]),
        (0, ["diff", one, two]),
        (4, ["diff", one, gone]),
        (0, ["versions", scene.source / "file"]),
        (1, ["versions", gone]),
        (10, ["versions", scene.source / "file", "--at", to, "--at", gone]),
        (0, ["verify", to]),
        (10, ["verify", gone]),
        (0, ["doctor", to]),
        (2, ["doctor", gone]),
    ]
    for verb in VERBS:
        cases.append((2, [verb, "--frobnicate"]))
    table = _table_of_the_readme()
    for status, (name, *_) in cases:
        assert table[str(name)][status], (name, status)
    for status, words in cases:
        must(run_program(*words), status)
    with locked(to / STATE):
        must(run_program("prune", "--staging", "--yes", to), 0)
        must(run_program("prune", "--yes", "--force", "--keep-at=latest", to), 3)
        must(scene.run(), 3)
        must(run_program("status", to), 0)
    tamper(to / scene.backup_names[0])
    must(run_program("verify", to), 1)


def _table_of_the_readme() -> dict[str, dict[int, str]]:
    """Read what README says of each verb and status; "" where there is none."""
    text = (CHECKOUT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    statuses = (0, 1, 2, 3, 4, 10)
    return {
        verb: dict(zip(statuses, map(str.strip, cells.split("|")), strict=True))
        for verb, cells in rows
    }


@contextmanager
def _waiting(
    scene: Scene, tmp_path: Path, sink: str = "exec sleep 300", *words: Argument
) -> Iterator[subprocess.Popen[str]]:
    """Return a run in the middle of a transfer that never ends by itself."""
    began = tmp_path / "began"
    scene.add("large", 4 * MIB)
    place = f"shell://touch {began}; {sink}"
    with start_program("-p", "x-", *words, scene.source, place) as program:
        try:
            appears(began, program)
            yield program
        finally:
            if program.poll() is None:
                program.terminate()


def _gone(family: list[Process]) -> None:
    assert family
    wait_until(lambda: not any(process.alive() for process in family))


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGHUP, 129),
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
    ],
)
def test_a_signal_ends_the_run_and_its_children(
    scene: Scene, tmp_path: Path, number: signal.Signals, status: int
):
    with _waiting(scene, tmp_path) as program:
        family = descendants(program.pid)
        program.send_signal(number)
        _, said = program.communicate()
        assert program.returncode == status
    assert said.startswith(f"btrfs-backup-ng: interrupted by {number.name}.")
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    _gone(family)
    assert len(scene.snapshot_names) == 1
    scene.back_up()  # the next plain run completes
    assert scene.backup_names == scene.snapshot_names


def test_a_signal_ends_what_runs_over_ssh(scene: Scene, sshd: Sshd, tmp_path: Path):
    source = ssh_place(sshd, scene.source)
    began = tmp_path / "began"
    scene.add("large", 4 * MIB)
    words: list[Argument] = ["-p", "x-", *ssh_words(sshd), source]
    sink = f"shell://touch {began}; exec sleep 300"
    with start_program(*words, sink) as program:
        appears(began, program)
        family = descendants(program.pid)
        program.terminate()
        _, said = program.communicate()
        assert program.returncode == 143, said
    _gone(family)
    wait_until(lambda: not descendants(sshd.pid))
    must(run_program(*words, scene.destination))
    assert len(scene.backup_names) == 2


def test_a_second_interrupt_ends_at_once(scene: Scene, tmp_path: Path):
    # The command does not end when asked to, so an orderly end has to wait for it.
    asked = tmp_path / "asked"
    stubborn = f"trap 'touch {asked}' TERM INT; while :; do sleep 0.1; done"
    with _waiting(scene, tmp_path, stubborn) as program:
        family = descendants(program.pid)
        program.send_signal(signal.SIGINT)
        appears(asked, program)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate()
        assert program.returncode == 130
    assert "interrupted by" not in said  # which is how an orderly end closes
    assert "Traceback" not in said
    _gone(family)


def test_an_interrupt_is_no_failure_of_a_destination(scene: Scene, tmp_path: Path):
    with _waiting(scene, tmp_path, "exec sleep 300", "-N1") as program:
        program.send_signal(signal.SIGINT)
        out, said = program.communicate()
        assert program.returncode == 130
    assert "failed" not in said
    assert "sent" not in out


def test_a_signal_ends_the_wait_for_a_lock(scene: Scene, tmp_path: Path):
    with _waiting(scene, tmp_path):
        with start_program(*scene.words("--wait", "300", "-v")) as second:
            wait_until(lambda: _has_begun_to_wait(second.pid))
            second.send_signal(signal.SIGTERM)
            second.communicate()
            assert second.returncode == 143
    assert scene.backup_names == []


def _has_begun_to_wait(pid: int) -> bool:
    """Tell whether the program has the directory of its lock open."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return any(link.endswith("/.btrfs-backup-ng") for link in links)


def test_nohup_is_respected(scene: Scene, tmp_path: Path):
    began, go = tmp_path / "began", tmp_path / "go"
    sink = f"shell://touch {began}; until [ -e {go} ]; do sleep 0.1; done; cat"
    words: list[Argument] = ["-p", "x-", scene.source, f"{sink} >/dev/null"]
    with subprocess.Popen(
        ["nohup", *PROGRAM, *map(str, words)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as program:
        appears(began, program)
        program.send_signal(signal.SIGHUP)
        go.touch()
        assert program.wait() == 0


def _run_with(redirections: str, *words: Argument) -> int:
    line = f'exec "$@" {redirections}'
    argv = ["sh", "-c", line, "sh", *PROGRAM, *map(os.fsdecode, words)]
    quiet = subprocess.DEVNULL
    return subprocess.run(
        argv, env=environment(), stdin=quiet, stdout=quiet, stderr=quiet, timeout=120
    ).returncode


@pytest.mark.parametrize(
    "redirections",
    [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"]
    + [">/dev/full 2>/dev/full"],
)
def test_closed_or_full_outputs_do_not_break_a_backup(scene: Scene, redirections: str):
    for options in (["-vv", "--progress"], ["--json"]):
        words: list[Argument] = ["-p", "x-", *options, scene.source, scene.destination]
        assert _run_with(redirections, *words) == 0
    assert len(scene.backup_names) == 2
    assert _run_with(redirections, scene.source, scene.destination / "none") == 4


def test_closed_outputs_do_not_break_a_backup_over_ssh(scene: Scene, sshd: Sshd):
    to = ssh_place(sshd, scene.destination)
    words: list[Argument] = ["-p", "x-", *ssh_words(sshd), scene.source, to]
    assert _run_with("<&- >&- 2>&-", *words) == 0
    assert len(scene.backup_names) == 1


def test_a_reader_that_went_away_does_not_break_a_backup(scene: Scene):
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        for options in ([], ["--json"], ["-vv", "--progress"]):
            with start_program(
                *scene.words(*options), stdout=write_end, stderr=write_end
            ) as program:
                assert program.wait() == 0
    finally:
        os.close(write_end)
    assert len(scene.backup_names) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["-v", "--version"],
    ],
)
def test_a_reader_that_went_away_gets_no_traceback(words: list[str]):
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        with start_program(*words, stdout=write_end) as program:
            _, said = program.communicate()
    finally:
        os.close(write_end)
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert "a bug" not in said


def test_quiet_says_nothing_on_success_and_everything_on_failure(scene: Scene):
    done = scene.back_up("-q")
    assert (done.stdout, done.stderr) == ("", "")
    loud = complaint(scene.run("--incremental=required", "-I"), 2)
    assert complaint(scene.run("-q", "--incremental=required", "-I"), 2) == loud
    nowhere = scene.destination / "nowhere"
    loud = complaint(scene.run("-S", nowhere), 10)
    assert complaint(scene.run("-q", "-S", nowhere), 10) == loud
