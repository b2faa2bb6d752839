"""The options about what is checked, refused, waited for and tried in a dry run."""

import contextlib
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.backup_options import parse_task
from btrfs_backup_ng.cli.commands import VERBS
from tests.conftest import MakesFilesystems
from tests.support.command_line import appears, complaint, covers, must
from tests.support.places import MIB, by_age, fingerprint, ssh_place, ssh_words
from tests.support.processes import wait_until
from tests.support.program import Argument, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs


def _steps(stdout: str) -> list[str]:
    """Return the lines of a run or a dry run in words that both share."""
    text = re.sub(r"would (make|send|delete|release)", r"\1", stdout)
    for past, present in (("made", "make"), ("sent", "send"), ("deleted", "delete")):
        text = re.sub(rf"\b{past} ", f"{present} ", text)
    text = re.sub(r", (about )?[\d.]+ [KMG]?i?B\b", ", SIZE", text)
    text = re.sub(r" in (\d+\.\d s|\d+ s|\d+:\d+)$", "", text, flags=re.MULTILINE)
    names: dict[str, str] = {}
    for name in re.findall(r"\bx-\d{8}-\d{6}(?:_\d+)?", text):
        names.setdefault(name, f"NAME{len(names)}")
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text.splitlines()


@covers("--dry-run")
def test_a_dry_run_changes_nothing_not_even_bookkeeping(scene: Scene):
    scene.add("photo", 3 * MIB)
    before = scene.fingerprint()
    done = scene.back_up("--dry-run", "-N1", "-n1")
    assert scene.fingerprint() == before
    assert "would make snapshot x-" in done.stdout
    assert re.search(r"would send x-\S+, about 3\.\d MiB in full", done.stdout)
    assert not (scene.source / ".btrfs-backup-ng").exists()


@covers("--dry-run")
def test_a_dry_run_says_what_the_run_then_does(scene: Scene):
    for _ in range(3):
        scene.back_up()
        scene.add("photo", MIB)
    before = scene.fingerprint()
    dry = scene.back_up("--dry-run", "-N2", "-n3")
    assert scene.fingerprint() == before
    done = scene.back_up("-N2", "-n3")
    assert _steps(dry.stdout) == _steps(done.stdout)
    assert len(_steps(done.stdout)) == 2 + 2 + 1
    assert re.search(r"about 1\.\d MiB since x-", dry.stdout)


@covers("--dry-run")
def test_a_dry_run_over_ssh_changes_nothing(scene: Scene, sshd: Sshd):
    to = ssh_place(sshd, scene.destination)
    words: list[Argument] = [*ssh_words(sshd), "-p", "x-", scene.source, to]
    before = scene.fingerprint()
    must(run_program("--dry-run", *words))
    assert scene.fingerprint() == before
    must(run_program(*words))
    before = scene.fingerprint()
    done = must(run_program("--dry-run", "-N1", "-n1", *words))
    assert scene.fingerprint() == before
    assert done.stdout.count("would delete") == 2


@covers("--dry-run")
def test_a_dry_run_of_nothing_to_do_says_so(scene: Scene):
    scene.back_up()
    before = scene.fingerprint()
    done = scene.back_up("-S", "--dry-run")
    assert "nothing to send" in done.stdout
    assert scene.fingerprint() == before


@covers("--dry-run")
def test_a_dry_run_fails_where_the_run_would(scene: Scene):
    done = scene.run("--dry-run", "--incremental=required")
    complaint(done, 4, "in full")


@contextlib.contextmanager
def _running(scene: Scene, tmp_path: Path) -> Iterator[Path]:
    """Keep a run at work at the source until the yielded file appears."""
    go, began = tmp_path / "go", tmp_path / "began"
    sink = f"shell://touch {began}; until [ -e {go} ]; do sleep 0.1; done; cat"
    with start_program("-p", "other-", scene.source, f"{sink} >/dev/null") as other:
        try:
            appears(began, other)
            yield go
        finally:
            go.touch()
        assert other.wait() == 0, other.communicate()


@covers("--wait")
def test_a_second_run_waits_for_the_first_if_told_to(scene: Scene, tmp_path: Path):
    with _running(scene, tmp_path) as go:
        with start_program(*scene.words("--wait", "100")) as waiting:
            with pytest.raises(AssertionError):
                wait_until(lambda: waiting.poll() is not None, 1.5)
            assert scene.backup_names == []
            go.touch()
            assert waiting.wait() == 0, waiting.communicate()
    assert len(scene.backup_names) == 1


@covers("--wait")
def test_waiting_is_over_when_the_time_is(scene: Scene, tmp_path: Path):
    with _running(scene, tmp_path):
        complaint(scene.run("--wait", "0.5"), 3, "another run is working")
    assert scene.backup_names == []


@covers("--wait")
@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("0.5", 0.5), ("1h", 3600), ("1h 30 min", 5400)]
)
def test_a_wait_is_a_span_or_a_number_of_seconds(text: str, seconds: float):
    for verb in ("prune", "restore"):
        tree = import_module(VERBS[verb]).build_parser()
        assert tree.parse_args([f"--wait={text}"]).wait == seconds
    assert parse_task([f"--wait={text}", "/a"]).wait == seconds
    stalled = parse_task([f"--stall-timeout={text}", "/a"])
    assert vars(stalled)["SshOptions.silence_s"] == seconds


@covers("--wait")
@pytest.mark.parametrize("number", ["long", "-5", "nan", ""])
def test_a_wait_that_is_no_time_is_refused(number: str):
    with pytest.raises(UsageError, match="seconds"):
        parse_task([f"--wait={number}", "/a"])


@covers("--locked-destinations")
def test_destinations_that_snapshots_are_held_for_are_added(scene: Scene):
    other = scene.other_destination("other")
    scene.back_up(other)
    scene.back_up()
    assert len(os.listdir(other)) == 1 + 1
    scene.back_up("--locked-destinations")
    assert len(os.listdir(other)) == 1 + 3
    must(run_program("-p", "x-", "--locked-destinations", scene.source))
    assert len(os.listdir(other)) == 1 + 4
    assert len(scene.backup_names) == 4


@covers("--remove-locks")
def test_a_retired_destination_is_forgotten(scene: Scene):
    other = scene.other_destination("other")
    scene.back_up(other)
    scene.back_up("-N1")
    base, _ = scene.snapshot_names
    before = fingerprint(scene.destination.parent)
    done = must(run_program("-p", "x-", "--remove-locks", scene.source, other))
    assert f"released {base}" in done.stdout
    assert str(other) in done.stdout
    assert fingerprint(scene.destination.parent) == before
    assert len(scene.snapshot_names) == 2
    scene.back_up("-S", "-N1")
    assert base not in scene.snapshot_names
    must(run_program("-p", "x-", "--locked-destinations", scene.source))
    assert len(os.listdir(other)) == 1 + 1


@covers("--remove-locks", "--dry-run")
def test_forgetting_has_a_dry_run(scene: Scene):
    scene.back_up()
    before = scene.fingerprint()
    done = scene.back_up("--remove-locks", "--dry-run")
    assert "would release" in done.stdout
    assert scene.fingerprint() == before


@covers("--remove-locks")
def test_forgetting_needs_to_know_whom(scene: Scene):
    complaint(run_program("--remove-locks", scene.source), 2, "--remove-locks")
    complaint(scene.run("--disk", "1"), 2, "--remove-locks")


@covers("--remove-locks", "--disk")
def test_of_two_disks_at_one_place_the_one_that_is_meant_is_forgotten(scene: Scene):
    scene.back_up()
    record = json.loads(scene.holds.read_text())
    (entry,) = record["destinations"]
    other = {**entry, "filesystem": "0123456789abcdef"}
    record["destinations"].append(other)
    scene.holds.write_text(json.dumps(record))
    mine, name = entry["filesystem"][:8], entry["holds"][0]["name"]
    before = scene.holds.read_text()
    told = complaint(scene.run("--remove-locks"), 4, "2 disks", "--disk", mine)
    assert f"01234567 (for {name})" in told
    assert scene.holds.read_text() == before
    scene.back_up("--remove-locks", "--disk", "01234567")
    assert json.loads(scene.holds.read_text())["destinations"] == [entry]
    scene.holds.write_text(before)
    scene.back_up("--remove-locks", "--disk", "all")
    assert json.loads(scene.holds.read_text())["destinations"] == []


@covers("--fs-checks", "--skip-fs-checks")
@pytest.mark.parametrize(
    ("options", "status", "warns"),
    [
        ((), 0, True),
        (("--fs-checks", "auto"), 0, True),
        (("--fs-checks=strict",), 4, True),
        (("--fs-checks", "skip"), 0, False),
        (("--skip-fs-checks",), 0, False),
    ],
)
def test_a_destination_on_the_same_filesystem_is_a_doubt(
    scene: Scene, options: tuple[str, ...], status: int, warns: bool
):
    beside = scene.source.parent / "beside"
    beside.mkdir()
    done = run_program("-p", "x-", *options, scene.source, beside)
    must(done, status)
    assert ("is on the same filesystem as" in done.stderr) is warns
    assert (status == 0) is bool(os.listdir(beside))
    if status:
        assert scene.snapshot_names == []


@covers("--fs-checks", "--skip-fs-checks")
@pytest.mark.parametrize("option", ["--fs-checks=auto", "--fs-checks=strict"])
def test_an_empty_directory_on_the_system_disk_is_a_doubt(scene: Scene, option: str):
    with _on_the_system_disk() as path:
        done = run_program("--dry-run", "-p", "x-", option, scene.source, path)
        complaint(done, 4, path, "empty directory on the system disk")
        done = run_program("--dry-run", "--skip-fs-checks", scene.source, path)
        assert "empty directory" not in done.stderr
        (Path(path) / "file").touch()
        done = run_program("--dry-run", option, scene.source, path)
        assert "empty directory" not in done.stderr


@contextlib.contextmanager
def _on_the_system_disk() -> Iterator[str]:
    here = os.stat("/").st_dev
    place = next(p for p in ("/var/tmp", "/root", "/") if os.stat(p).st_dev == here)
    with tempfile.TemporaryDirectory(prefix="bbng-empty-", dir=place) as path:
        yield path


@covers("--fs-checks")
def test_an_unknown_kind_of_check_is_refused(scene: Scene):
    complaint(scene.run("--fs-checks", "lax"), 2, "--fs-checks", "strict")


@covers("--no-check-space", "--force", "--safety-margin")
def test_a_destination_that_is_too_small_is_refused_before_any_change(
    scene: Scene, btrfs: MakesFilesystems
):
    small = btrfs(size="200M").path / "backups"
    small.mkdir()
    scene.add("photo", 70 * MIB)
    words: list[Argument] = ["-p", "x-", scene.source, small]
    for options in ((), ("--safety-margin", "0")):
        done = run_program(*options, *words)
        complaint(
            done,
            4,
            f"{small} has ",
            " free; sending x-",
            "needs about 70.0 MiB",
            "Nothing was sent",
            "--force",
        )
        assert scene.snapshot_names == []
        assert set(os.listdir(small)) <= {".btrfs-backup-ng"}
    forced = must(run_program("--force", *words))
    assert "warning: " in forced.stderr
    assert "because of --force" in forced.stderr
    unchecked = must(run_program("--no-check-space", "-I", "-S", *words))
    assert unchecked.stderr == ""
    assert len(os.listdir(small)) == 1 + 1


@covers("--num-backups")
def test_a_full_destination_names_the_backups_that_the_policy_would_delete(
    scene: Scene, btrfs: MakesFilesystems
):
    small = btrfs(size="200M").path / "backups"
    small.mkdir()
    words: list[Argument] = ["-p", "x-", scene.source, small]
    for number in range(4):
        scene.add(f"small {number}")
        must(run_program(*words))
    oldest, second, *_ = by_age(small)
    scene.add("photo", 120 * MIB)
    for options in ((), ("-n4",)):  # nothing would go by it
        done = run_program("--dry-run", *options, *words)
        assert "prune" not in complaint(done, 4, "Make room, or:  --safety-margin")
    for option, count in (("-n2", 2), ("-n1", 3)):
        refused = complaint(
            run_program(option, *words), 4, f"{count} of its 4 backups are not kept"
        )
        (line,) = re.findall(r"now:  btrfs-backup-ng (.*)", refused)
        shown = must(run_program(*shlex.split(line), "--dry-run")).stdout
        assert all(f"delete  {name}" in shown for name in (oldest, second)), shown
        assert ("--force" in line) == (count > 2)  # more than half goes


@covers("--force")
@pytest.mark.parametrize("over_ssh", [False, True])
def test_a_place_that_keeps_backups_is_no_source_without_force(
    scene: Scene, sshd: Sshd, over_ssh: bool
):
    scene.back_up()
    (inside,) = scene.destination.glob("x-*")
    scene.destination_disk.subvolume(f"{scene.name}/backups/inside")
    words = ["-p", "x-", *ssh_words(sshd)] if over_ssh else ["-p", "x-"]

    def named(path: Path) -> str:
        return ssh_place(sshd, path) if over_ssh else str(path)

    to, before = named(scene.destination), scene.fingerprint()
    refused = "keeps backups, and is used as a source with --force only"
    swapped: list[Argument] = [*words, to, scene.source]
    for more in ([], ["--dry-run"], ["-N1", "-n1"]):
        said = complaint(run_program(*swapped, *more), 4, f"{to} {refused}")
        assert said.endswith(f":  btrfs-backup-ng {scene.source} {to}\n")
    forgotten = complaint(run_program(*words, to), 4, f"{to} {refused}")
    assert f"btrfs-backup-ng list {to} " in forgotten
    for path in (inside, scene.destination / "inside"):
        done = run_program(*words, named(path), scene.source)
        complaint(done, 4, f"{named(path)} lies in {to}, which {refused}")
    assert scene.fingerprint() == before
    assert refused not in run_program("log", "--since", "1h").stdout
    scene.back_up("-S")
    must(run_program(*words, "--force", named(scene.destination / "inside")))
    must(run_program(*words, named(scene.destination / "inside")))  # a source by now


def test_a_source_may_lie_in_the_place_of_its_backups(scene: Scene):
    place = scene.source_disk.path / scene.name
    words: list[Argument] = ["-p", "x-", "--skip-fs-checks", scene.source, place]
    must(run_program(*words))
    must(run_program(*words))
    other = scene.subvolume("other")
    must(run_program("-p", "y-", "--skip-fs-checks", other, place))
    assert len(by_age(place)) == 2 + 1 + 2


@covers("--no-check-space")
def test_without_the_space_check_a_small_destination_gets_what_fits(
    scene: Scene, btrfs: MakesFilesystems
):
    small = btrfs(size="200M").path / "backups"
    small.mkdir()
    scene.add("photo", 40 * MIB)
    done = must(run_program("-p", "x-", "--no-check-space", scene.source, small))
    assert done.stderr == ""
    assert len(os.listdir(small)) == 1 + 1


@covers("--safety-margin")
def test_a_larger_margin_refuses_more(scene: Scene):
    scene.add("photo", 60 * MIB)
    scene.back_up("--dry-run", "--safety-margin", "100")
    done = scene.run("--safety-margin", "10000")
    complaint(done, 4, "a margin of 5.9 GiB", "Nothing was sent")
    assert scene.snapshot_names == scene.backup_names == []
    scene.back_up("--safety-margin", "0")


@covers("--safety-margin")
@pytest.mark.parametrize("margin", ["much", "-1", "nan", ""])
def test_a_margin_that_is_no_number_is_refused(margin: str):
    with pytest.raises(UsageError, match="percent"):
        parse_task([f"--safety-margin={margin}", "/a"])
