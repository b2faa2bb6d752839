"""The options about what is shown, and where."""

import json
import platform
import re
import subprocess
from pathlib import Path

import pytest

from btrfs_backup_ng import __version__
from tests.support.command_line import complaint, covers, must, on_terminal
from tests.support.places import MIB
from tests.support.program import PROGRAM, Argument, environment, run_program
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs

_COMMAND = re.compile(r"^\S+ \S+ btrfs-backup-ng: \+ .*btrfs", re.MULTILINE)


_SLOW = "shell://head -c 2000000 >/dev/null; sleep 1.2; cat >/dev/null"


def _with_a_warning(scene: Scene) -> Scene:
    scene.subvolume("home/nested")
    return scene


@covers("-q", "--quiet")
def test_quiet_is_quiet_on_success(scene: Scene):
    for options in ((), ("-N1", "-n1"), ("-S", "--dry-run")):
        done = scene.back_up("-q", *options)
        assert (done.stdout, done.stderr) == ("", "")


@covers("-q")
def test_quiet_tells_everything_about_a_failure(scene: Scene):
    _with_a_warning(scene)
    sink = "shell://echo what went wrong >&2; exit 3"
    done = run_program("-q", "-p", "x-", scene.source, sink)
    complaint(done, 1, "exit 3", "status 3", "what went wrong")
    assert done.stdout == ""


def test_results_are_lines_on_stdout_and_nothing_on_stderr(scene: Scene):
    done = scene.back_up("-v", "warning")
    assert done.stderr == ""
    (name,) = scene.backup_names
    made, sent = done.stdout.splitlines()
    assert made == f"{scene.source}: made snapshot {name}"
    assert sent.startswith(f"{scene.source} -> {scene.destination}: sent {name}, ")


@covers("-v", "--verbose")
@pytest.mark.parametrize(
    "words",
    [
        ["-v"],
        ["--verbose", "info"],
    ],
)
def test_verbose_says_more_and_no_commands(scene: Scene, words: list[str]):
    done = scene.back_up(*words)
    assert "btrfs-backup-ng: " in done.stderr
    assert not _COMMAND.search(done.stderr)
    assert done.stdout.count("\n") == 2


@covers("-v", "-d", "--debug")
@pytest.mark.parametrize(
    "words",
    [
        ["-vv"],
        ["-v", "debug"],
        ["-d"],
    ],
)
def test_debugging_shows_every_command(scene: Scene, words: list[str]):
    done = scene.back_up(*words)
    assert _COMMAND.search(done.stderr)
    assert " btrfs subvolume snapshot " in done.stderr or "snapshot" in done.stderr
    assert len(scene.backup_names) == 1


@covers("-v")
def test_the_level_of_errors_hides_warnings(scene: Scene):
    _with_a_warning(scene)
    for level in ("warning", "info", "debug"):
        assert "warning: " in scene.back_up("-v", level).stderr
    assert "nested" in scene.back_up().stderr
    assert scene.back_up("-v", "error").stderr == ""


@covers("-v")
def test_a_source_behind_the_option_is_not_taken_as_a_level(scene: Scene):
    must(run_program("-p", "x-", "-v", scene.source, scene.destination))
    assert len(scene.backup_names) == 1


@covers("-v")
def test_levels_may_be_written_as_their_hidden_option(scene: Scene):
    done = scene.back_up("--verbosity=debug")
    assert _COMMAND.search(done.stderr)


@covers("--verbosity")
def test_an_unknown_level_is_refused(scene: Scene):
    complaint(scene.run("--verbosity", "loud"), 2, "loud")


@covers("--progress", "--no-progress")
def test_progress_is_one_line_on_stderr(scene: Scene):
    scene.add("large", 4 * MIB)
    sink = _SLOW
    words: list[Argument] = ["-p", "x-", "--progress", scene.source, sink]
    shown = subprocess.run([*PROGRAM, *words], env=environment(), capture_output=True)
    assert shown.returncode == 0
    assert re.search(rb"\rx-\S+ .*  \d+%  .*MiB", shown.stderr)
    assert b"\r" not in shown.stdout
    assert shown.stderr.endswith(b"\r")  # it goes away
    hidden = must(run_program("-p", "x-", "--no-progress", scene.source, sink))
    assert hidden.stderr == ""


@covers("--no-progress", "-q")
@pytest.mark.parametrize(
    ("options", "shows"),
    [
        ((), True),
        (("--no-progress",), False),
        (("-q",), False),
    ],
)
def test_a_terminal_shows_progress_unless_forbidden(
    scene: Scene, options: tuple[str, ...], shows: bool
):
    scene.add("large", 4 * MIB)
    sink = _SLOW
    done = on_terminal("-p", "x-", *options, scene.source, sink)
    assert done.returncode == 0, done.stdout
    assert bool(re.search(r"\rx-\S+ .*%", done.stdout)) is shows
    assert ("made snapshot" in done.stdout) is ("-q" not in options)
    for line in re.split(r"[\r\n]+|\x1b\[J", done.stdout):  # no word is cut
        assert len(line) <= 80 or " " not in line.strip(), line


@covers("--json")
def test_json_is_one_document_with_documented_fields(scene: Scene):
    scene.back_up()
    done = scene.back_up("--json", "-N1", "-n1")
    document = json.loads(done.stdout)
    assert document["version"] == 1
    assert document["exit_status"] == 0
    snapshot, sent, *deleted = document["events"]
    (name,) = scene.backup_names
    assert snapshot == {
        "event": "snapshot",
        "source": str(scene.source),
        "name": name,
        "dry": False,
    }
    assert sent.pop("size_bytes") > 0
    assert sent.pop("elapsed_s") > 0
    parent = sent.pop("parent")
    assert sent == {
        "event": "sent",
        "source": str(scene.source),
        "destination": str(scene.destination),
        "name": name,
        "target": name,
        "why_full": None,
        "dry": False,
        "codec": "",
        "resumed_bytes": 0,
    }
    assert deleted == [
        {"event": "deleted", "place": str(place), "name": parent, "dry": False}
        for place in (scene.destination, scene.source)
    ]


@covers("--json")
def test_json_tells_of_failures_and_notes(scene: Scene):
    _with_a_warning(scene)
    done = run_program("--json", "-p", "x-", scene.source, "shell://exit 5")
    must(done, 1)
    document = json.loads(done.stdout)
    assert document["exit_status"] == 1
    events = {event["event"]: event for event in document["events"]}
    assert set(events) == {"note", "snapshot", "failed"}
    assert events["note"]["level"] == "warning"
    assert "nested" in events["note"]["text"]
    assert events["failed"]["place"] == "shell://exit 5"
    assert events["failed"]["exit_status"] == 1
    assert "exit 5" in done.stderr


@covers("--json", "-q")
def test_json_is_what_was_asked_for_even_if_quiet(scene: Scene):
    done = scene.back_up("--json", "-q")
    assert json.loads(done.stdout)["exit_status"] == 0
    assert done.stderr == ""


@covers("--json")
def test_names_that_are_no_text_still_make_a_valid_document(scene: Scene):
    done = must(run_program(b"--json", b"-p", b"\xff\n\x1b", scene.source))
    (event,) = json.loads(done.stdout)["events"]
    assert event["name"].startswith("\udcff\n\x1b")
    assert "\x1b" not in done.stdout


@covers("--version")
def test_the_version_is_told():
    done = must(run_program("--version"))
    assert done.stdout == f"btrfs-backup-ng {__version__}\n"


@covers("--version", "-v")
@pytest.mark.parametrize(
    "words",
    [
        ["--version", "-v"],
        ["-v", "--version"],
    ],
)
def test_the_detailed_version_tells_what_we_stand_on(words: list[str]):
    lines = must(run_program(*words)).stdout.splitlines()
    assert lines[0] == f"btrfs-backup-ng {__version__}"
    assert lines[1] == f"python {platform.python_version()}"
    assert lines[2] == f"kernel {platform.release()}"
    assert re.match(r"btrfs-progs v\d+\.", lines[3])
    assert lines[4].startswith("OpenSSH_")


@covers("--version")
def test_the_version_needs_nothing_else(tmp_path: Path):
    done = must(run_program("--version", "-v", env={"PATH": str(tmp_path)}))
    assert "btrfs is not installed" in done.stdout
    assert "ssh is not installed" in done.stdout


@covers("-h", "--help")
def test_help_names_places_and_commands():
    done = must(run_program("--help"))
    assert must(run_program("-h")).stdout == done.stdout
    assert done.stderr == ""
    for word in ("SOURCE", "ssh://", "shell://", "demo", "--help-all"):
        assert word in done.stdout


def test_the_journal_gets_priorities_and_no_times(scene: Scene):
    _with_a_warning(scene)
    env = {"JOURNAL_STREAM": "8:12345"}
    done = scene.back_up("-vv", env=env)
    assert all(re.match(r"<[3-7]>", line) for line in done.stderr.splitlines())
    assert re.search(r"^<4>btrfs-backup-ng: warning: ", done.stderr, re.MULTILINE)
    assert re.search(r"^<7>btrfs-backup-ng: \+ ", done.stderr, re.MULTILINE)
