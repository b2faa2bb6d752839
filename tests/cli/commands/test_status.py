"""The ``status`` verb: one word for each place, and nobody is disturbed."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from btrfs_backup_ng.place.locks import parse_holder
from btrfs_backup_ng.session.history import History, Record
from tests.support.command_line import Done, complaint, covers, must, on_terminal
from tests.support.places import MIB, STATE, ssh_place, ssh_words
from tests.support.processes import killed, wait_until
from tests.support.program import Argument, run_program, start_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import (
    ID,
    NAME,
    OLD_ID,
    SEALED,
    both_ways,
    document,
    fill,
    interrupted_transfer,
    locked,
    read_only,
    ssh_way,
)

pytestmark = pytest.mark.btrfs


def status(*words: Argument, **changes: Any) -> Done:
    """Run it."""
    return run_program("status", *words, **changes)


def test_ok_with_the_newest(scene: Scene, sshd: Sshd):
    *_, name = fill(scene, 2)
    read_only(scene.destination / "x-20990101-000000")  # newer, and nobody received it
    there, here = must(status(scene.destination, scene.source)).stdout.splitlines()
    assert re.fullmatch(rf"OK       {scene.destination}: {name}, \d+ days ago", there)
    assert here.startswith(f"OK       {scene.source}: {name}, ")
    words = [*ssh_way(sshd)(scene.destination), ssh_place(sshd, scene.source)]
    for place, kind in zip(
        document(status("--json", *words)), ("backup", "snapshot"), strict=True
    ):
        assert (place["status"], place["newest"]["kind"]) == ("ok", kind)
        assert place["newest"]["name"] == name
        assert (place["waiting"], place["running"], place["reason"]) == ([], None, "")


def test_never_and_nothing_is_made(scene: Scene, sshd: Sshd):
    read_only(scene.destination / "x-20200101-000000")
    before = scene.fingerprint()
    for way in both_ways(sshd):
        words = [*way(scene.destination), way(scene.source)[-1]]
        lines = must(status(*words), 1).stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["NEVER", "NEVER"]
        assert scene.fingerprint() == before
        assert not (scene.destination / STATE).exists()


def test_waiting_with_what_to_do(scene: Scene, sshd: Sshd):
    (name,) = fill(scene)
    interrupted_transfer(scene)
    interrupted_transfer(scene, OLD_ID, sealed_bytes=0)
    before = scene.fingerprint()
    *words, place = ssh_way(sshd)(scene.destination)
    text = must(status(*words, place, env={"TZ": "UTC"}), 1).stdout
    first, second, go_on, drop = text.splitlines()
    assert first.startswith(f"WAITING  {place}: {NAME}, 1.2 GiB safe there, since ")
    assert re.search(r"since 2026-01-02 03:04:05 \+0000 \(\d+ days\)$", first)
    assert "nothing safe there yet" in second
    assert go_on.endswith(f"Resume:  btrfs-backup-ng SOURCE {place}")
    assert drop.endswith(f"btrfs-backup-ng prune --staging {place}")
    (found,) = document(status("--json", scene.destination), 1)
    assert (found["status"], found["newest"]["name"]) == ("waiting", name)
    waiting = [(one["id"], one["size_bytes"]) for one in found["waiting"]]
    assert waiting == [(ID, SEALED), (OLD_ID, 0)]
    assert scene.fingerprint() == before


def _holder(scene: Scene, **changes: Any) -> None:
    facts = {
        "pid": 4711,
        "host": "elsewhere",
        "since": "2026-01-02T03:04:05+00:00",
        "doing": "sending x-1, 62%",
    }
    text = json.dumps({**facts, **changes})
    (scene.destination / STATE / "holder").write_text(text)


def test_running_with_who_and_what(scene: Scene, sshd: Sshd):
    interrupted_transfer(scene)
    _holder(scene)
    with locked(scene.destination / STATE):
        done = must(status(scene.destination, env={"TZ": "UTC"}))
        (place,) = document(status("--json", *ssh_way(sshd)(scene.destination)))
    said = "pid 4711, on elsewhere, since 03:04, sending x-1, 62%"
    assert done.stdout == f"RUNNING  {scene.destination}: {said}\n"
    assert place["status"] == "running"
    running = place["running"]
    since = running.pop("since")
    assert running == {"pid": 4711, "host": "elsewhere", "doing": "sending x-1, 62%"}
    assert since.startswith("2026-01-02T")
    # Whatever it says of itself is only true as long as it is there.
    assert "WAITING" in must(status(scene.destination), 1).stdout


def test_a_transfer_tells_percent_and_time_left_at_each_of_its_places(
    scene: Scene, sshd: Sshd
):
    scene.write(60 * MIB)
    ssh, near = ssh_words(sshd), scene.destination
    far = ssh_place(sshd, scene.other_destination("far"))
    words = [*ssh, "--progress", "--rate", "1M", *scene.words(far)]
    with killed(start_program(*words)):
        for place, target in (
            (near, near),
            (far, far),
            (scene.source, f"{near}|{far}"),
        ):
            shown = wait_until(lambda: _state_of_transfer(place, ssh), 60)
            assert shown and shown.group(1).startswith("sending "), shown
            assert shown.group(1).split(" to ")[1] in str(target).split("|"), shown
            assert 0 <= int(shown.group(2)) < 100


def test_each_of_several_transfers_from_behind_ssh_is_shown_with_its_own_state(
    scene: Scene, sshd: Sshd
):
    scene.write(60 * MIB)
    ssh, source = ssh_words(sshd), ssh_place(sshd, scene.source)
    targets = [scene.destination, *map(scene.other_destination, ("two", "three"))]
    options = ["-p", "x-", *ssh, "--progress", "--rate", "1M"]
    with killed(start_program(*options, source, *targets)) as program:
        for place in targets:
            shown = wait_until(lambda: _state_of_transfer(place, ssh), 60)
            assert shown and shown.group(1).endswith(f" to {place}"), shown
        shown = wait_until(lambda: _state_of_transfer(source, ssh), 60)
        assert shown and shown.group(1).split(" to ")[1] in map(str, targets), shown
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    assert program.returncode == 130 and "Traceback" not in errors, errors


def _state_of_transfer(place: Argument, ssh: list[str]) -> re.Match[str] | None:
    text = status(*ssh, place).stdout
    pattern = r"since \d\d:\d\d, (sending .*), (\d+)%, .* MiB, left [\d:]+$"
    return re.search(pattern, text, re.M)


def test_a_note_opens_nothing_but_a_state_in_memory(scene: Scene, tmp_path: Path):
    """Another user may have written it, and named a pipe that nobody writes to."""
    fill(scene)
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.write_text("secret")
    memory = os.memfd_create("btrfs-backup-ng")
    os.write(memory, b"sending x-2, 7%\x1b[31m")
    opened = [os.open(path, os.O_RDWR) for path in (pipe, file)] + [memory, 12345]
    here, shown = os.uname().nodename, []
    try:
        for descriptor in opened:
            _holder(scene, pid=os.getpid(), host=here, live=descriptor)
            with locked(scene.destination / STATE):
                shown.append(must(status(scene.destination)).stdout)
    finally:
        for descriptor in opened[:-1]:
            os.close(descriptor)
    ends = ["sending x-1, 62%\n"] * 2 + ["7%\\x1b[31m\n", "sending x-1, 62%\n"]
    assert [end for end, text in zip(ends, shown) if not text.endswith(end)] == []


def test_a_holder_that_tells_nothing_runs_all_the_same(scene: Scene):
    fill(scene)
    with locked(scene.destination / STATE):
        (scene.destination / STATE / "holder").write_text("\x1b[31m")
        done = must(status(scene.destination))
    assert done.stdout.endswith(": another run, which left no note\n")
    assert done.stdout.startswith("RUNNING  ")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pid": 1}', "\0", "[" * 99999])
def test_what_no_holder_wrote_is_not_understood(text: str):
    assert parse_holder(text) is None


def test_a_receiver_without_a_lock_runs_too(scene: Scene):
    with locked(interrupted_transfer(scene)):
        done = must(status(scene.destination))
    assert done.stdout.endswith(f": receiving {NAME}\n")
    assert done.stdout.startswith("RUNNING  ")


def test_two_who_look_do_not_take_each_other_for_a_run(scene: Scene, sshd: Sshd):
    fill(scene)
    descriptor = os.open(scene.destination / STATE, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        for way in both_ways(sshd):
            assert must(status(*way(scene.destination))).stdout.startswith("OK ")
    finally:
        os.close(descriptor)


def test_a_host_that_hangs_delays_no_other(scene: Scene, sshd: Sshd):
    (name,) = fill(scene)
    sshd.mark()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        away = f"ssh://127.0.0.1:{silent.getsockname()[1]}/x"
        place = ssh_place(sshd, scene.destination)
        words = [*ssh_words(sshd, without=["Port"]), away, place]
        with start_program("status", *words) as program:
            silent.settimeout(30)
            asked, _ = silent.accept()
            wait_until(lambda: sshd.connections() == 1, 30)
            assert program.poll() is None
            asked.close()
            text, _ = program.communicate()
    first, *_, last = [line for line in text.splitlines() if line[0] != " "]
    assert first.startswith(f"AWAY     {away}: ")
    assert last.startswith(f"OK       {place}: {name}, ")


def test_a_real_run_is_seen_at_both_ends(scene: Scene, sshd: Sshd):
    scene.add("much", MIB)
    words = [str(scene.source), *ssh_way(sshd)(scene.destination)]
    with start_program(*scene.words("--rate", "1M")) as program:
        incoming = scene.destination / STATE / "incoming"
        wait_until(lambda: incoming.exists() and os.listdir(incoming), 30)
        program.send_signal(signal.SIGSTOP)  # it will not be over before that is seen
        try:
            found = document(status("--json", *words))
        finally:
            program.send_signal(signal.SIGCONT)
        program.communicate()
    assert program.returncode == 0
    for place in found:
        assert place["status"] == "running"
        assert place["running"]["pid"] == program.pid
        assert place["running"]["host"] == os.uname().nodename
        assert "sending" in place["running"]["doing"]
    assert [p["status"] for p in document(status("--json", *words))] == ["ok", "ok"]


def test_away_with_the_reason(scene: Scene, tmp_path: Path, sshd: Sshd):
    fill(scene)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        nobody = f"ssh://127.0.0.1:{taken.getsockname()[1]}/x"
        words: list[Argument] = [*ssh_words(sshd, without=["Port"]), nobody]
        words += [scene.destination / "no", tmp_path, scene.destination]
        words += [ssh_place(sshd, scene.destination / "no")]
        (tmp_path / "full").touch()
        done = must(status(*words), 1)
    lines = [line for line in done.stdout.splitlines() if line[0] != " "]
    assert [line.split()[0] for line in lines] == ["AWAY"] * 3 + ["OK", "AWAY"]
    assert "refused" in lines[0]
    assert lines[1] == f"AWAY     {scene.destination}/no: does not exist"
    assert "snapshots are only on btrfs" in lines[2]
    assert done.stderr == ""
    away, ok = document(status("--json", *words[-3:-1]), 1)
    assert (away["status"], ok["status"]) == ("away", "ok")
    assert "snapshots are only on btrfs" in away["reason"]


def test_a_mount_point_without_its_disk_is_away(tmp_path: Path):
    done = must(status(tmp_path), 1)
    assert done.stdout.startswith(f"AWAY     {tmp_path}: ")
    assert "is the backup disk mounted?" in done.stdout


def test_what_is_on_record_is_told_of_a_place_that_is_away(
    scene: Scene, tmp_path: Path
):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path / "state")}
    complaint(status(env=env), 2, "no place given")
    scene.back_up(env=env)
    (name,) = scene.backup_names
    ok = document(status("--json", env=env))
    assert [p["place"] for p in ok] == [str(scene.source), str(scene.destination)]
    assert [p["status"] for p in ok] == ["ok", "ok"]
    assert (ok[1]["last_arrived"]["name"], ok[1]["last_failure"]) == (name, None)
    broken = tmp_path / "bin" / "btrfs"
    broken.parent.mkdir()
    broken.write_text(
        "#!/bin/sh\ncase $* in *receive*) echo ERROR: no luck >&2; exit 1;; esac\n"
        f'exec {shutil.which("btrfs")} "$@"\n'
    )
    broken.chmod(0o755)
    path = {"PATH": f"{broken.parent}:{os.environ['PATH']}"}
    must(scene.run(env={**env, **path}), 1)
    source, *lines = must(status(env=env), 1).stdout.splitlines()
    assert source.startswith("OK ")
    whose = rf"the last run from {scene.source} failed, \d+ s ago: .*no luck"
    assert re.match(rf"FAILED   {scene.destination}: {whose}", lines[0])
    assert lines[1].startswith(f" {' ' * 8}{name}, ")
    os.rename(scene.destination, scene.destination.with_name("gone"))
    _, *lines = must(status(env=env), 1).stdout.splitlines()
    assert lines[0].startswith(f"AWAY     {scene.destination}: does not exist")
    assert re.match(rf" {{9}}last on record: {name}, \d+ s ago", lines[1])
    forget = f"btrfs-backup-ng status --forget {scene.destination}"
    assert lines[-1] == f"{' ' * 9}If it will not come back:  {forget}"
    _, away = document(status("--json", env=env), 1)
    assert away["last_arrived"]["name"] == name
    assert "no luck" in away["last_failure"]["error"]


def test_failed_until_a_run_goes_well(scene: Scene, sshd: Sshd, tmp_path: Path):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path / "state")}
    *words, place = ssh_way(sshd)(scene.destination)
    over_ssh: list[Argument] = [*words, "-p", "x-", scene.source, place]

    def words_of_both(*more: Argument) -> list[str]:
        found = [p["status"] for p in json.loads(_json(*more))["places"]]
        return [
            *found,
            *(p["status"] for p in json.loads(_json(*words, place))["places"]),
        ]

    def _json(*more: Argument) -> str:
        return status("--json", *more, env=env).stdout

    here = [scene.source, scene.destination]
    for run in (scene.words(), over_ssh):
        must(run_program(*run, env=env))
    assert words_of_both(*here) == ["ok", "ok", "ok"]
    with locked(scene.source / STATE):  # refused as a whole: no place got anything
        for run in (scene.words(), over_ssh, scene.words("--dry-run")):
            must(run_program(*run, env=env), 0 if "--dry-run" in run else 3)
    assert words_of_both(*here) == ["failed", "failed", "failed"]
    said = must(status(scene.source, env=env), 1).stdout
    assert re.match(rf"FAILED   {scene.source}: the last run failed, \d+ s ago: ", said)
    must(scene.run("-S", env=env))  # it has nothing to send
    assert words_of_both(*here) == ["ok", "ok", "failed"]
    must(run_program(*over_ssh, env=env))
    assert words_of_both(*here) == ["ok", "ok", "ok"]
    gone = scene.destination.with_name("gone")
    scene.destination.rename(gone)
    must(run_program(*over_ssh, scene.other_destination("other"), env=env), 10)
    gone.rename(scene.destination)
    assert words_of_both(*here) == ["ok", "ok", "failed"]
    with locked(scene.destination / STATE):
        assert words_of_both(*here) == ["ok", "running", "running"]


@covers("--max-age")
def test_stale_by_what_is_not_dated_in_the_future(
    scene: Scene, sshd: Sshd, tmp_path: Path
):
    name = fill(scene)[0]
    for way in both_ways(sshd):
        done = must(status("--max-age", "26h", *way(scene.destination)), 1)
        head, days = done.stdout.split(f": {name}, ")
        assert head.startswith("STALE ") and days.endswith(" days ago\n")
        must(status("--max-age", "5000w", *way(scene.destination)))
    with locked(scene.destination / STATE):
        lines = must(status("--max-age", "2d", scene.destination), 1).stdout
        assert "STALE" in lines and "another run, which left no note" in lines
    ahead = {"BTRFS_BACKUP_NG_CLOCK": str(3600 * 24 * 4000)}
    scene.back_up(env=ahead)
    for way in both_ways(sshd):
        words = way(scene.destination)
        newest, future = must(status(*words)).stdout.splitlines()
        assert f": {name}, " in newest
        assert future.strip().startswith("1 dated in the future do not count, from x-")
        assert must(status("--max-age", "26h", *words), 1).stdout.startswith("STALE")
    scene.back_up()
    assert must(status("--max-age", "26h", scene.destination)).stdout.startswith("OK ")
    (found,) = document(status("--json", scene.destination))
    assert len(found["future"]) == 1 < len(scene.backup_names)
    assert complaint(status("--max-age", "5", scene.destination), 2, "--max-age")


def test_an_error_of_several_lines_has_several_lines(scene: Scene, tmp_path: Path):
    scene.back_up()
    state = tmp_path / "state"
    now = datetime.now(timezone.utc)
    error = "btrfs receive: no luck\n  then btrfs send: \x1b[31mBroken pipe\n"
    place = str(scene.destination)
    History(str(state)).add(Record(now, "/home", "f", place, error=error))
    done = must(status(place, env={"BTRFS_BACKUP_NG_STATE": str(state)}), 1)
    first, second, _ = done.stdout.splitlines()
    assert first.endswith(" ago: btrfs receive: no luck")
    assert second == f"{' ' * 9}then btrfs send: \\x1b[31mBroken pipe"


@covers("--forget")
def test_what_is_gone_for_good_is_forgotten(scene: Scene, tmp_path: Path):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path / "state")}
    other = scene.other_destination("other")
    must(run_program(*scene.words(other), env=env))
    shutil.rmtree(other / STATE)
    hint = complaint(status("--forget", tmp_path, env=env), 2, "nothing about")
    assert str(other) in hint
    assert complaint(status("--forget", env=env), 2, "no place given")
    done = must(status("--forget", other, env=env))
    assert done.stdout == f"{other}: forgotten, with 1 line of the history\n"
    places = [p["place"] for p in document(status("--json", env=env))]
    assert places == [str(scene.source), str(scene.destination)]


def test_a_renamed_source_is_not_missed_and_a_deleted_one_can_be_forgotten(
    scene: Scene, tmp_path: Path
):
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path / "state")}
    scene.back_up(env=env)
    old, new = scene.source, scene.source.with_name("new name")
    old.rename(new)
    forget = f"If it will not come back:  btrfs-backup-ng status --forget {old}"
    for verb, code in (("status", 1), ("list", 10)):  # not seen under its new name
        done = must(run_program(verb, env=env), code)
        assert forget in done.stdout + done.stderr
    must(run_program(*scene.options, new, scene.place, env=env))
    for verb in ("status", "list"):
        done = must(run_program(verb, env=env))
        assert str(new) in done.stdout and f"{old}:" not in done.stdout
        assert done.stderr == ""
    assert f"{old}: does not exist" in must(status(old, env=env), 1).stdout


def test_quiet_tells_only_what_needs_somebody(scene: Scene):
    fill(scene)
    done = must(status("-q", scene.destination))
    assert (done.stdout, done.stderr) == ("", "")
    done = must(status("-q", scene.destination, scene.destination / "no"), 1)
    assert done.stdout.count("\n") == 1
    assert "does not exist" in done.stdout


def test_names_that_could_do_harm_are_shown_safely(scene: Scene):
    name = b"x\n\x1b[31m\xff-20260102-030000"
    interrupted_transfer(scene, name=name)
    done = must(status(scene.destination), 1)
    assert "x\\n\\x1b[31m\\xff-20260102-030000, 1.2 GiB" in done.stdout
    assert not re.search("[\x00-\x09\x0b-\x1f\udcff]", done.stdout)
    _holder(scene, doing="\x1b[31m\n")
    with locked(scene.destination / STATE):
        assert "\\x1b[31m\\n" in must(status(scene.destination)).stdout


def test_60_columns_are_enough(scene: Scene):
    interrupted_transfer(scene)
    env = {"COLUMNS": "60", "TERM": "xterm", "NO_COLOR": None}
    words = [scene.destination, scene.destination / "no"]
    shown = on_terminal("status", *words, env=env).stdout
    lines = shown.replace("\r\n", "\n").splitlines()
    # Words and commands stay whole, so that they can be copied.
    long = [line for line in lines if len(line) > 60 and len(line.split()) > 1]
    assert all(line.split()[0] == "btrfs-backup-ng" for line in long), shown
    assert f"{' ' * 9}Or discard it:" in lines
    away = lines.index("\x1b[31mAWAY\x1b[0m")
    assert lines[0] == "WAITING" and lines[-1].strip() == "does not exist"
    assert all(line.startswith("  ") for line in lines[1:away] + lines[away + 1 :])


def test_what_it_costs_behind_ssh(scene: Scene, sshd: Sshd):
    fill(scene)
    sshd.mark()
    must(status(*ssh_way(sshd)(scene.destination)))
    assert (sshd.connections(), sshd.sessions()) == (1, 1)


def test_what_makes_no_sense_is_a_usage_error(scene: Scene):
    for words in (["shell://cat"], ["--warn", "2d", scene.source]):
        assert complaint(status(*words), 2)
    shown = must(status("--help")).stdout
    for word in (
        "OK",
        "RUNNING",
        "WAITING",
        "NEVER",
        "AWAY",
        "STALE",
        "FAILED",
        "exit status",
    ):
        assert word in shown
