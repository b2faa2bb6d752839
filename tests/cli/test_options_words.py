"""The words of the command line: order, files, tasks, dashes, mistakes."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from btrfs_backup_ng.cli.backup_options import parse_task
from btrfs_backup_ng.session.turns import SMALL
from tests.support.command_line import complaint, covers, must
from tests.support.places import STATE, by_age
from tests.support.processes import wait_until
from tests.support.program import Argument, finish, run_program, start_program
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs


def test_options_stand_before_between_and_behind_the_places(scene: Scene):
    source, to = scene.source, scene.destination
    orders: list[list[Argument]] = [
        ["-I", "-p", "x-", source, to],
        [source, "-p", "x-", "-I", to],
        [source, to, "-I", "-p", "x-"],
    ]
    for words in orders:
        done = must(run_program(*words))
        assert "in full" in done.stdout
    assert len(scene.backup_names) == 3


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("-N3", "--num-snapshots=3"),
        ("-n3", "--num-backups=3"),
        ("-S", "--no-snapshot"),
        ("-T", "--no-transfer"),
        ("-fdir", "--snapshot-folder=dir"),
        ("-px", "--snapshot-prefix=x"),
        ("-s", "--sync"),
        ("-w", "--convert-rw"),
        ("-I", "--no-incremental"),
        ("-q", "--quiet"),
        ("-v", "--verbose"),
        ("-d", "--debug"),
    ],
)
def test_a_short_option_means_the_long_one(short: str, long: str):
    assert parse_task([short, "/a"]) == parse_task(["/a", long])
    assert parse_task([short, "/a"]) != parse_task(["/a"])


def test_an_option_is_never_guessed_from_its_beginning(scene: Scene):
    complaint(scene.run("--num-snap", "3"), 2, "--num-snap")
    assert scene.snapshot_names == []


def test_paths_may_begin_with_a_dash(scene: Scene):
    top = scene.source.parent
    scene.source.rename(top / "-source")
    (top / "-to").mkdir()
    must(run_program("-p", "x-", "--skip-fs-checks", "--", "-source", "-to", cwd=top))
    assert len(by_age(top / "-to")) == 1
    must(run_program("-S", "-px-", "--skip-fs-checks", "./-source", "./-to", cwd=top))
    must(run_program("-Spx-", "--skip-fs-checks", "./-source", "--", "-to", cwd=top))
    assert len(by_age(top / "-to")) == 1


def test_words_behind_two_dashes_are_places_whatever_they_look_like(scene: Scene):
    top = scene.source.parent
    for name in ("--dry-run", "@file", "-v"):
        (top / name).mkdir()
    words: list[Argument] = ["-p", "x-", "--skip-fs-checks", "--", scene.source]
    must(run_program(*words, "--dry-run", "@file", "-v", cwd=top))
    assert [len(by_age(top / n)) for n in ("--dry-run", "@file", "-v")] == [1, 1, 1]


def test_hostile_paths_survive(scene: Scene):
    top = scene.source.parent
    name = os.fsdecode(b"a :: 'b' \"c\"\n$(touch pwned) \xff;#@")
    to = scene.destination / name
    to.mkdir()
    scene.source.rename(top / name)
    must(run_program("-p", name.replace("/", ""), top / name, to, cwd=top))
    (backup,) = by_age(to)
    assert backup.startswith(name)
    assert not (top / "pwned").exists()


def test_arguments_come_from_a_file(scene: Scene, tmp_path: Path):
    for _ in range(3):
        scene.back_up()
    deep = tmp_path / "deeper"
    deep.mkdir()
    (tmp_path / "job").write_text(
        "# how the backups are named\n\n"
        "-p x-\n"
        "   # indented\n"
        "\t-N 2\n"
        "@deeper/places\n"
        "--num-backups\n"
        "3\r\n"
        "--json"
    )
    (deep / "places").write_text(f"{scene.source}\n@to")
    (deep / "to").write_text(f"{scene.destination}\n")
    done = must(run_program(f"@{tmp_path}/job"))
    assert done.stdout.startswith("{")
    assert len(scene.snapshot_names) == 2
    assert len(scene.backup_names) == 3


def test_a_value_in_a_file_may_hold_spaces(scene: Scene, tmp_path: Path):
    (tmp_path / "options").write_text("-p of mine and \n--snapshot-folder  a  b\n")
    must(run_program(f"@{tmp_path}/options", scene.source, scene.destination))
    assert by_age(scene.source / "a  b") == scene.backup_names
    assert scene.backup_names[0].startswith("of mine and2")


def test_places_in_a_file_may_hold_spaces(scene: Scene, tmp_path: Path):
    to = scene.other_destination("with  two spaces")
    (tmp_path / "places").write_text(f"{scene.source}\n{to}\n")
    must(run_program("-p", "x-", f"@{tmp_path}/places"))
    assert len(by_age(to)) == 1


def test_a_file_may_hold_several_tasks(scene: Scene, tmp_path: Path):
    other = scene.other_destination("other")
    (tmp_path / "job").write_text(
        f"-p x-\n{scene.source}\n{scene.destination}\n::\n"
        f"-p y-\n{scene.source}\n{other}\n"
    )
    must(run_program(f"@{tmp_path}/job"))
    assert by_age(scene.destination)[0].startswith("x-")
    assert by_age(other)[0].startswith("y-")


@pytest.mark.parametrize(
    "words",
    [
        ["@loop"],
        ["@one"],
        ["@missing"],
        ["@."],
    ],
)
def test_a_file_that_is_missing_or_names_itself_is_an_error(
    scene: Scene, tmp_path: Path, words: list[str]
):
    (tmp_path / "loop").write_text("@loop\n")
    (tmp_path / "one").write_text("@two\n")
    (tmp_path / "two").write_text("@./one\n")
    done = run_program(*words, scene.source, scene.destination, cwd=tmp_path)
    complaint(done, 2, "@")
    assert scene.snapshot_names == []


def meeting(mine: Path, his: Path) -> str:
    """Return a command that waits for the other: one by one they would fail."""
    return f"shell://touch {mine}; {until_exists(his)}; cat >/dev/null"


def until_exists(path: Path) -> str:
    return (
        f"n=0; until [ -e {path} ]; do sleep 0.1; n=$((n+1));"
        " [ $n -lt 600 ] || exit 9; done"
    )


def tasks(*each: tuple[str, Path, str]) -> list[Argument]:
    """Return the words of tasks, each of a prefix, a source and a destination."""
    words: list[Argument] = []
    for prefix, source, sink in each:
        words += ["::", "-p", prefix, source, sink]
    return words[1:]


def test_tasks_run_side_by_side_and_each_report_is_in_one_piece(
    scene: Scene, tmp_path: Path
):
    other = scene.destination_disk.subvolume(f"{scene.name}/other")
    here, there, over = (tmp_path / name for name in ("here", "there", "over"))
    first, second = meeting(here, there), meeting(there, here)
    # The third begins once the second is over, as it has the same source.
    third = f"shell://touch {over}; cat >/dev/null"
    words = tasks(
        ("x-", scene.source, f"{first}; {until_exists(over)}"),
        ("y-", other, second),
        ("z-", other, third),
    )
    lines = must(run_program(*words)).stdout.splitlines()
    told = [line for line in lines if ": made" in line or ": sent" in line]
    assert [re.findall(r": (\w+) (?:snapshot )?(.-)", line) for line in told] == [
        [(word, prefix)] for prefix in ("x-", "y-", "z-") for word in ("made", "sent")
    ]


def test_streams_that_share_a_disk_take_turns(scene: Scene, tmp_path: Path):
    lock = tmp_path / "lock"
    sink = f"shell://mkdir {lock} || exit 9; cat >/dev/null; sleep 0.3; rmdir {lock}"
    other = scene.subvolume("other")
    for source in (scene.source, other):
        (source / "large").write_bytes(bytes(2 * SMALL))
    must(run_program(*tasks(("x-", scene.source, sink), ("y-", other, f"{sink}; :"))))


@covers("--jobs")
def test_a_number_of_tasks_may_run_at_once_whatever_their_disks(
    scene: Scene, tmp_path: Path
):
    other = scene.subvolume("other")
    here, there = tmp_path / "here", tmp_path / "there"
    one = ("x-", scene.source, meeting(here, there))
    words = tasks(one, ("y-", other, meeting(there, here)))
    done = must(run_program(*words, "--jobs", "2"))
    assert done.stdout.count("sent x-") == done.stdout.count("sent y-") == 1
    third = scene.destination_disk.subvolume(f"{scene.name}/third")
    is_first = f"shell://cat >/dev/null; [ ! -e {third / STATE} ]"
    words = tasks(("x-", other, is_first), ("y-", third, "shell://cat >/dev/null"))
    must(run_program("--jobs=1", *words))


def test_a_signal_ends_all_tasks_and_starts_no_other(scene: Scene, tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    other = scene.subvolume("other")
    words = tasks(
        ("x-", scene.source, f"shell://touch {here}; exec sleep 300"),
        ("y-", other, f"shell://touch {there}; exec sleep 300"),
        ("z-", other, "shell://cat >/dev/null"),
    )
    with start_program(*words, "--jobs=2") as program:
        wait_until(lambda: here.exists() and there.exists())
        program.send_signal(signal.SIGINT)
        done = finish(program)
    assert done.returncode == 130
    assert re.findall("made snapshot (.-)", done.stdout) == ["x-", "y-"]
    scene.wait_for_quiet()


def test_each_task_has_options_of_its_own(scene: Scene):
    other = scene.other_destination("other")
    for _ in range(4):
        scene.back_up(other)
    one: list[Argument] = ["-p", "x-", "-S", scene.source, scene.destination]
    must(run_program(*one, "-n", "2", "::", *one[:-1], "-n3", other))
    assert len(scene.backup_names) == 2
    assert len(by_age(other)) == 3


def test_a_task_that_fails_does_not_end_the_other(scene: Scene):
    one: list[Argument] = ["-p", "x-", scene.source]
    done = must(run_program(*one, scene.destination, "::", *one, "shell://exit 3"), 10)
    assert len(scene.backup_names) >= 1
    assert "exit 3" in done.stderr


def test_what_is_shown_counts_for_all_tasks(scene: Scene):
    one: list[Argument] = ["-p", "x-", scene.source, scene.destination]
    done = must(run_program(*one, "::", *one, "-q"))
    assert (done.stdout, done.stderr) == ("", "")
    assert len(scene.backup_names) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["::"],
        ["::", "/a"],
        ["/a", "::"],
    ],
)
def test_a_task_without_words_is_an_error(words: list[str]):
    complaint(run_program(*words), 2, "::")


def test_the_number_of_backups_is_not_mistaken_for_a_dry_run():
    done = run_program("-n", "/home", "/mnt")
    said = "takes a number here (backups to keep); for a dry run use --dry-run"
    complaint(done, 2, f"-n {said}")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--frobnicate", "/a"], ["--frobnicate", "--help"]),
        (["-z", "/a"], ["-z", "--help"]),
        ([], ["source", "--help"]),
        (["-S"], ["source"]),
        (["/a", "/a"], ["/a", "source and destination"]),
        (["/a", "/./a/"], ["/a", "source and destination"]),
        (["/a", "/b", "/b/"], ["/b", "twice"]),
        (["/a", "ssh://h/b", "ssh://h//b"], ["ssh://h/b", "twice"]),
        (["shell://cat"], ["shell://", "source"]),
        (["/a", "shell://"], ["shell://", "command"]),
        (["/a", "ftp://h/b"], ["ftp://", "ssh://"]),
        (["/a", "ssh://h"], ["ssh://h", "absolute"]),
        (["/a", "ssh://h:path"], ["path"]),
        (["/a", "ssh://-oProxyCommand=x/b"], ["host"]),
        (["/a", "host:path"], ["host:path", "./host:path", "ssh://host/path"]),
        (["/a", ""], ["empty"]),
        (["--rate"], ["--rate"]),
        (["/a", "--dry-run=yes"], ["--dry-run"]),
        (["/a", "--jobs=0"], ["'0'", "number of tasks"]),
    ],
)
def test_words_without_sense_are_usage_errors(words: list[str], parts: list[str]):
    done = run_program(*words)
    complaint(done, 2, *parts)
    assert done.stdout == ""


def test_a_secret_in_a_place_is_refused_and_not_repeated():
    done = run_program("/a", "ssh://me:s3cret@host/b")
    assert "s3cret" not in complaint(done, 2, "password", "--ssh-identity-file")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["restroe"],
            [
                "restroe is neither a command nor",
                "Did you mean:  btrfs-backup-ng restore",
            ],
        ),
        (["lst", "/mnt"], ["lst is neither", "Did you mean:  btrfs-backup-ng list"]),
        (["lst", "--data"], ["lst is neither", "btrfs-backup-ng list"]),
        (["-v", "lst", "/mnt"], ["lst is neither", "btrfs-backup-ng list"]),
        (["/a", "::", "prnue"], ["prnue is neither", "btrfs-backup-ng prune"]),
        (["help", "lst"], ["lst is neither", "btrfs-backup-ng list"]),
        (["backup", "A", "B"], ["backup is neither", "[options] SOURCE [DESTINATION"]),
        (
            ["frobnicate"],
            ["frobnicate is neither", "commands are config, demo, ", "help"],
        ),
        (["-S", "list", "/mnt"], ["list is a command", "help list", "./list"]),
        ([], ["no source given", "[options] SOURCE [DESTINATION ...]", "COMMAND"]),
        (["--dryrun", "/a"], ["--dryrun", "Did you mean:  --dry-run"]),
        (["--num-snap=3", "/a"], ["--num-snap=3", "--num-snapshots"]),
        (["list", "--progres"], ["--progres", "Did you mean:  --progress"]),
        (["--jsn", "list"], ["--jsn", "Did you mean:  --json"]),
    ],
)
def test_a_slip_of_the_keyboard_gets_a_suggestion(
    tmp_path: Path, words: list[str], parts: list[str]
):
    done = run_program(*words, cwd=tmp_path)
    complaint(done, 2, *parts)
    assert done.stdout == ""


def test_options_of_a_verb_may_stand_before_it(scene: Scene):
    scene.back_up()
    to = scene.destination
    for before, verb in (
        ([], ["list", "-v", "--json"]),
        (["-v", "--json"], ["list"]),
        (["-v", "debug", "--json", "-f", "list"], ["list"]),
        (["--json", "--subset", "1/1"], ["verify"]),
    ):
        done = must(run_program(*before, *verb, to))
        assert scene.backup_names[0] in done.stdout
        assert json.loads(done.stdout)["exit_status"] == 0
    assert len(scene.backup_names) == 1


def test_a_value_is_no_verb_and_a_path_is_none(scene: Scene):
    must(run_program("-p", "list", scene.source, scene.destination))
    assert scene.backup_names[0].startswith("list2")
    top = scene.source.parent
    scene.source.rename(top / "list")
    for source in ("./list", "list/", top / "list"):
        must(run_program("-p", "x-", source, scene.destination, cwd=top))
    must(run_program("-p", "x-", "--", "list", scene.destination, cwd=top))
    (top / "list").rename(top / "backup")
    must(run_program("-p", "x-", "backup", scene.destination, cwd=top))
    assert len(scene.backup_names) == 6


@pytest.mark.parametrize("verb", ["", "list", "prune", "demo"])
def test_help_is_a_verb_too(verb: str):
    asked = must(run_program(*["help", verb][: 1 + bool(verb)]))
    assert asked.stdout == must(run_program(*[verb, "--help"][not verb :])).stdout
    assert f"usage: btrfs-backup-ng {verb}" in asked.stdout
