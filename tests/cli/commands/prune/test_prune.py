"""``prune`` by policy: what goes, what never goes, and what is refused."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.actions.prune.place import (
    Needs,
    PruneRequest,
    carry_out,
    course_of,
    judge_seen,
    look,
)
from btrfs_backup_ng.cli.commands.prune import command as verb
from btrfs_backup_ng.core.judgement import Clock
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.policy import parse_policy
from btrfs_backup_ng.endpoint.ssh import Connections
from btrfs_backup_ng.host.entry import SOURCES
from btrfs_backup_ng.place.holds import HOLDS, HeldPlace, base_hold, format_holds
from btrfs_backup_ng.place.sources import Series, format_sources
from btrfs_backup_ng.session.progress import Progress
from btrfs_backup_ng.session.session import Session
from btrfs_backup_ng.session.turns import Turns
from tests.support.command_line import (
    Done,
    complaint,
    covers,
    in_conversation,
    logging_path,
    must,
    script,
)
from tests.support.many import make_named
from tests.support.places import STATE, by_age, is_subvolume
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import both_ways, document, locked, read_only, ssh_way

pytestmark = pytest.mark.btrfs

NOW = datetime.now().astimezone()
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def prune(*words: Argument, **changes: Any) -> Done:
    """Run it."""
    return run_program("prune", *words, **changes)


def named(*ages: timedelta, prefix: str = "x-") -> list[str]:
    """Return the names of snapshots that were made so long ago."""
    return [f"{prefix}{NOW - age:%Y%m%d-%H%M%S%z}" for age in ages]


#: One each twelve hours; the latest ten seconds old.
AGES = [timedelta(seconds=10) + n * DAY / 2 for n in reversed(range(20))]
NAMES = named(*AGES)


def folder_of(scene: Scene) -> Path:
    """Make the folder for the snapshots of a source, and the records of both places."""
    folder = scene.source / STATE / "snapshots"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / HOLDS).write_bytes(format_holds({}))
    state = scene.destination / STATE
    state.mkdir(exist_ok=True)
    (state / SOURCES).write_bytes(format_sources({"x-": Series()}))
    return folder


def firsts_of_days(names: Iterable[str], days: int) -> set[str]:
    """Say, slowly and plainly, what ``<days>d`` keeps in UTC."""
    first: dict[object, tuple[datetime, str]] = {}
    for name in names:
        moment = datetime.strptime(name[-20:], "%Y%m%d-%H%M%S%z")
        day = moment.astimezone(timezone.utc).date()
        first[day] = min(first.get(day, (moment, name)), (moment, name))
    oldest = NOW.astimezone(timezone.utc).date() - timedelta(days=days)
    return {name for day, (_, name) in first.items() if str(day) >= str(oldest)}


def verdicts(place: dict[str, Any]) -> dict[str, list[str]]:
    """Return the reasons for each name; none for what is to go."""
    for one in place["snapshots"]:
        assert bool(one["reasons"]) == (one["verdict"] == "keep")
    return {one["name"]: one["reasons"] for one in place["snapshots"]}


@covers("--keep", "--keep-zone", "--force", "-p", "--snapshot-prefix")
def test_a_source_is_thinned_out_and_nothing_else_is_touched(scene: Scene):
    folder = folder_of(scene)
    make_named(folder, None, NAMES)
    for foreign in ("by hand", "x-20200101", "x-20200101-000000.old"):
        read_only(folder / foreign)
    subprocess.run(["btrfs", "-q", "sub", "create", folder / "x-20200101-000000"])
    make_named(folder, None, other := named(40 * DAY, DAY / 9, prefix="y-"))
    words: list[Argument] = ["--yes", "--keep", "4d", "-p", "x-", scene.source]
    complaint(prune(*words), 4, "more than half", "--force", "Nothing was deleted")
    assert len(os.listdir(folder)) == 26
    done = must(prune("--force", *words))
    expected = firsts_of_days(NAMES, 4) | {NAMES[-1]}
    left = set(os.listdir(folder))
    assert left & set(NAMES) == expected
    assert left >= {"by hand", "x-20200101", "x-20200101-000000.old", *other}
    assert is_subvolume(folder / "x-20200101-000000")
    gone = 20 - len(expected)
    assert f"25 snapshots, {gone} to delete (policy: latest 4d; UTC)" in done.stdout
    assert f"deleted {gone} of {gone}, which frees an unknown amount" in done.stdout
    lines = done.stdout.splitlines()
    (newest,) = [line for line in lines if f" {NAMES[-1]} " in line]
    assert re.match(r"  keep +\S+ +\d+ \w+ +latest", newest), newest
    assert re.search(
        rf"  delete  {re.escape(NAMES[0])} +\d+ \w+ +space unk", done.stdout
    )
    for name in ("by hand", *other):
        assert re.search(
            rf"  keep +{re.escape(name)} .* not named by this program", done.stdout
        )
    # Again there is nothing to do, also with another prefix among what is ours.
    again = must(prune("-y", "--keep", "4d", "--force", "--snapshot-prefix=x-",
                       scene.source))  # fmt: skip
    assert " 0 to delete" in again.stdout and "deleted" not in again.stdout
    done = must(prune("-y", "--keep", "latest=2", "--keep-zone=Asia/Tokyo", "--force",
                      "-q", scene.source))  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")
    left = {*NAMES, *other} & set(os.listdir(folder))
    assert left == {*sorted(expected)[-2:], *other}, "each prefix for itself"


@covers("--keep-zone")
def test_a_day_begins_where_the_zone_says(scene: Scene):
    folder = folder_of(scene)
    make_named(folder, None, NAMES)
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        done = prune("-n", "--json", "--keep=*d", "--keep-zone", zone, scene.source)
        (place,) = document(done)
        assert place["policies"][0]["zone"] == zone
        daily = {n for n, why in verdicts(place).items() if "daily" in str(why)}
        moments = [NOW - age for age in AGES]
        days = [moment.astimezone(ZoneInfo(zone)).date() for moment in moments]
        expected = {NAMES[days.index(day)] for day in days}
        assert daily == expected
    complaint(prune("-n", "--keep=1d", "--keep-zone=Mars/Base", "/x"), 2, "Mars/Base")


@covers("--keep-at", "-n", "--dry-run")
def test_backups_go_by_name_and_by_arrival_here_and_through_ssh(
    scene: Scene, sshd: Sshd
):
    for _ in range(4):
        scene.back_up()
    first, second, third, last = (
        scene.destination / name for name in scene.backup_names
    )
    years_ago = [f"x-2020010{day}-000000" for day in (1, 2, 3)]
    for path, name in zip((first, second, third), years_ago, strict=True):
        path.rename(scene.destination / name)
    read_only(scene.destination / "x-20200104-000000")
    before = scene.fingerprint()
    for way in both_ways(sshd):
        place = way(scene.destination)
        # All of them came a moment ago, whatever their names say.
        (told,) = document(prune("-n", "--json", "--keep-at", "min=1d", *place))
        found = verdicts(told)
        assert all(found.values())
        assert "min 1d by arrival" in found[years_ago[1]]
        assert found["x-20200104-000000"] == ["not received"]
        done = prune("--dry-run", "--json", "--keep-at", "3d", "--force", *place)
        (told,) = document(done)
        found = verdicts(told)
        day = f"{NOW.astimezone(timezone.utc):%Y-%m}"
        assert found[years_ago[0]][0].startswith(f"daily {day}-")
        assert found[years_ago[0]][0].endswith(" by arrival")
        assert found[years_ago[1]] == found[years_ago[2]] == []
        assert {"latest", "arrived last"} < set(found[last.name])
        outcomes = {one["name"]: one["outcome"] for one in told["snapshots"]}
        assert outcomes[years_ago[2]] == "would delete"
        assert all(one["space_bytes"] is None or one["space_bytes"] >= 0
                   for one in told["snapshots"])  # fmt: skip
    assert scene.fingerprint() == before
    done = must(prune("--yes", "--keep-at", "3d", *ssh_way(sshd)(scene.destination)))
    assert "deleted 2 of 2" in done.stdout
    assert set(scene.backup_names) == {years_ago[0], "x-20200104-000000", last.name}
    sent = scene.back_up()
    assert f"since {last.name}" in sent.stdout, "the chain is broken"


def test_what_two_places_have_last_in_common_stays_at_both(scene: Scene, sshd: Sshd):
    scene.back_up()
    (common,) = scene.backup_names
    scene.back_up("-T")
    # What came later than that is of another source, with the same prefix.
    make_named(None, scene.destination, named(DAY, 2 * DAY))
    words = ["-y", "--force", "--keep=latest=1", "--keep-at=latest=1"]
    (here, there) = document(prune(*words, "--json", scene.source,
                                   *ssh_way(sshd)(scene.destination)))  # fmt: skip
    for place, kind in ((here, "snapshot"), (there, "backup")):
        reason = str(verdicts(place)[common])
        to = f"{scene.source}, ssh://" if kind == "backup" else str(scene.destination)
        assert f"last common: {to}" in reason
        assert {one["kind"] for one in place["snapshots"]} == {kind}
    assert len(scene.snapshot_names) == 2 and common in scene.backup_names
    assert scene.back_up("-S").stdout.count(f"since {common}") == 1


def test_what_an_absent_destination_needs_stays(scene: Scene):
    away = scene.other_destination("away")
    scene.back_up(away)
    (base,) = scene.snapshot_names
    away.rename(away.with_name("gone"))
    for _ in range(2):
        scene.back_up()
    words: list[Argument] = ["--yes", "--force", "--keep", "latest", "--json"]
    (place,) = document(prune(*words, scene.source))
    assert verdicts(place)[base] == [f"last common: {away}"]
    assert [one["outcome"] for one in place["snapshots"]] == [
        "kept",
        "deleted",
        "kept",
    ]
    holds = scene.source / STATE / "holds.json"
    holds.write_text("{")
    before = scene.fingerprint()
    done = prune("--yes", "--force", "--keep", "latest", scene.source)
    complaint(done, 4, "cannot be read", "nothing is deleted")
    assert scene.fingerprint() == before


def test_where_backups_of_two_sources_look_alike_nothing_is_deleted(scene: Scene):
    other = scene.subvolume("other")
    for source in (scene.source, other) * 2:
        must(run_program("-p", "x-", source, scene.destination))
    before = scene.fingerprint()
    done = prune("-y", "--keep-at=latest", "--force", scene.destination)
    complaint(done, 4, str(scene.source), str(other), "nothing is deleted")
    assert scene.fingerprint() == before


@covers("--one-source", "-p", "-n", "--wait")
def test_a_person_settles_that_backups_are_of_one_source(scene: Scene, sshd: Sshd):
    other = scene.subvolume("other")
    record = scene.destination / STATE / SOURCES
    for way in both_ways(sshd):
        for source in (scene.source, other):
            must(run_program("-p", "x-", source, scene.destination))
        before = scene.fingerprint()
        settle: list[Argument] = ["--one-source", "-p=x-", *way(scene.destination)]
        done = must(prune(*settle, "--dry-run"))
        count = len(scene.backup_names)
        words = "recorded: one source for all that begin with 'x-'"
        assert f"would be {words}, {count} backups now" in done.stdout
        with locked(record.parent):
            complaint(prune(*settle), 3, "another run")
        assert scene.fingerprint() == before
        (place,) = document(prune(*settle, "--json"))
        assert (place["prefix"], place["backups"]) == ("x-", count)
        done = must(prune("-y", "--keep-at=latest", "--force", scene.destination))
        assert f"deleted {count - 1} of {count - 1}" in done.stdout
    record.write_text("{")
    done = must(prune("--one-source", "-p=x-", scene.destination))
    assert "cannot be read, and is moved to sources.json.unreadable-" in done.stdout
    scene.back_up("-n1")
    assert len(scene.backup_names) == 1


@covers("--force")
def test_what_looks_dangerous_is_refused(scene: Scene, sshd: Sshd):
    folder = folder_of(scene)
    make_named(folder, scene.destination, NAMES)
    make_named(folder, None, future := named(-DAY))
    before = scene.fingerprint()
    done = prune("-n", "--keep=latest=1", scene.source)
    complaint(done, 4, "only the newest", "--force")
    for way in both_ways(sshd):
        done = prune("-y", "-p", "x-", "--keep-at=latest=9", *way(scene.destination))
        complaint(done, 4, "11 of 20 backups", "more than half")
        assert "11 to delete" in done.stdout, "the plan is not shown"
    done = prune("-n", "--keep=latest=15", "--json", scene.source)
    assert f"{future[0]} at" in done.stderr and "dated later than" in done.stderr
    assert "--force" in done.stderr
    (place,) = document(done)
    assert verdicts(place)[future[0]][0] == "dated in the future"
    assert sum(not why for why in verdicts(place).values()) == 5, "the future counts"
    assert scene.fingerprint() == before


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("y", 0),
        ("n", 1),
    ],
)
def test_it_asks_at_a_terminal(scene: Scene, answer: str, code: int):
    folder = folder_of(scene)
    make_named(folder, None, NAMES)
    words = ["prune", "--keep", "latest=18", str(scene.source)]
    done = in_conversation(*words, answers={"Delete these 2? [y/N]: ": answer})
    assert done.returncode == code, done.stdout
    shown, asked, after = done.stdout.partition("Delete these 2?")
    assert asked and NAMES[0] in shown and "at least 0 B" in shown
    assert ("nothing was deleted at" in after) == bool(code)
    assert len(os.listdir(folder)) == (20 if code else 18)


@covers("--wait", "--json")
def test_a_place_at_which_somebody_works_is_left_alone(scene: Scene, sshd: Sshd):
    make_named(folder_of(scene), scene.destination, NAMES)
    with locked(scene.destination / STATE), locked(scene.source / STATE):
        for way in both_ways(sshd):
            words = ["-y", "-p", "x-", "--keep=latest=18", "--keep-at=latest=18"]
            places = [*way(scene.destination), *way(scene.source)]
            done = prune(*words, *places)
            assert complaint(done, 3, "another run").count("another run") == 2
        done = prune(*words, "--wait=0.3", "--json", scene.source)
        (place,) = document(done, 3)
        assert "another run" in place["error"]["message"]
        assert {one["outcome"] for one in place["snapshots"]} == {"kept", "stays"}
    assert len(scene.snapshot_names) == len(scene.backup_names) == 20


def test_what_comes_back_is_told(scene: Scene, tmp_path: Path):
    """The btrfs command says that it deleted, and did not, or not all."""
    folder = folder_of(scene)
    make_named(folder, None, NAMES)
    real = "/usr/bin/btrfs" if os.path.exists("/usr/bin/btrfs") else "/sbin/btrfs"
    wrappers = tmp_path / "bin"
    wrappers.mkdir()
    lie = script(wrappers / "btrfs", f'[ "$2" = delete ] || exec {real} "$@"')
    env = {"PATH": f"{wrappers}:{os.environ['PATH']}"}
    words: list[Argument] = ["--yes", "--keep=latest=18", scene.source]
    done = prune(*words, env=env)
    complaint(done, 1, f"{NAMES[0]} and 1 more reappeared after the deletion")
    assert "deleted" not in done.stdout
    half = f'[ "$2" = delete ] || exec {real} "$@"; shift 4; {real} subvolume delete'
    script(lie, f'{half} "$1"; echo no such luck >&2; exit 1')
    done = prune(*words, env=env)
    assert "no such luck" in must(done, 10).stderr
    assert "deleted 1 of 2" in done.stdout
    assert by_age(folder) == NAMES[1:]


@covers("-v", "--verbose", "-f", "--snapshot-folder")
def test_space_is_what_quota_or_du_tell(scene: Scene, tmp_path: Path, sshd: Sshd):
    scene.back_up("-f", "kept", "-T")
    scene.add("first", 3 << 20)
    scene.back_up("-f", "kept", "-T")
    scene.add("first", 5 << 20)
    scene.back_up("-f", "kept", "-T")
    scene.source_disk.sync()
    second = sorted(os.listdir(scene.source / "kept"))[1]
    path, log = logging_path(tmp_path, "btrfs")

    def sizes(*words: Argument, place: Iterable[Argument] = (scene.source,)) -> Any:
        words = ("-n", "-p", "x-", "--keep=latest", "--force", "-f", "kept", *words)
        (told,) = document(prune(*words, "--json", *place, env={"PATH": path}))
        return {one["name"]: one["space_bytes"] for one in told["snapshots"]}

    for place in (way(scene.source) for way in both_ways(sshd)):
        assert sizes(place=place)[second] == 3 << 20
    # Without a question du is too slow, unless somebody wants to know more.
    log.write_text("")
    assert set(sizes("--yes").values()) == {None}
    assert "filesystem du" not in log.read_text()
    assert sizes("--yes", "-v")[second] == 3 << 20
    assert "filesystem du" in log.read_text()
    quota = ["btrfs", "quota"]
    subprocess.run([*quota, "enable", scene.source], check=True)
    try:
        subprocess.run([*quota, "rescan", "-w", scene.source], check=True)
        log.write_text("")
        found = sizes()[second]
        assert 3 << 20 <= found < 4 << 20
        assert "filesystem du" not in log.read_text()
    finally:
        subprocess.run([*quota, "disable", scene.source], check=True)
    done = prune("-n", "--keep=latest", "--force", "-f", "kept", "-p=x-", scene.source)
    assert re.search(rf"delete  {second} .* frees 3.0 MiB", must(done).stdout)
    assert "to delete: 2, which frees at least 3.0 MiB" in done.stdout


def test_what_is_needed_since_it_was_judged_stays(scene: Scene):
    """While somebody thinks about the answer, a backup may run."""
    folder = folder_of(scene)
    make_named(folder, None, NAMES)
    request = PruneRequest(
        parse_policy("latest=15", timezone.utc), None, None, "h-", Clock(NOW)
    )
    location = parse_location(str(scene.source), working_directory="/")
    with Connections() as connections:
        way = Session(
            now=NOW,
            connections=connections,
            sudo_line="",
            progress=Progress(enabled_line=False),
            turns=Turns(),
            folder=f"{STATE}/snapshots",
        )
        (part,) = look(location, way, request)
        needs = Needs({}, course_of([part], request))
        judged = judge_seen(part, request, needs)
        assert [s.name for s in judged.to_delete] == NAMES[:5]
        hold = base_hold(judged.to_delete[2])
        needed = {HeldPlace("/away", "1"): frozenset({hold})}
        (scene.source / STATE / HOLDS).write_bytes(format_holds(needed))
        make_named(folder, None, [f"{NAMES[0]}_1", f"{NAMES[0]}_2"])
        outcome = carry_out([judged], request, needs, 0)
    assert outcome.error is None and len(outcome.gone) == 4
    assert (folder / f"{NAMES[0]}_1").exists(), "nobody was shown that this goes"
    assert set(NAMES) - set(os.listdir(folder)) == {*NAMES[:2], *NAMES[3:5]}


def test_one_command_deletes_all_and_one_lists_them(scene: Scene, tmp_path: Path):
    names = [f"x-20200101-000000_{n}" for n in range(600)] + NAMES
    make_named(folder_of(scene), None, names)
    path, log = logging_path(tmp_path, "btrfs")
    words: list[Argument] = ["-y", "-q", "--force", "--keep=9d", scene.source]
    must(prune(*words, env={"PATH": path}))
    commands = [line for line in log.read_text().splitlines() if "delete" in line]
    assert len(commands) == 1
    assert "-c -- ./x-20200101-000000_0 ./x-20200101-000000_1 ./" in commands[0]
    assert all(name in NAMES for name in scene.snapshot_names)


def test_names_that_could_do_harm_are_deleted_and_shown_safely(
    scene: Scene, sshd: Sshd
):
    prefix = os.fsdecode(b"-x\n\x1b[31m\xff $(id) ")
    names = named(*AGES, prefix=prefix)
    for way in both_ways(sshd):
        folder = folder_of(scene)
        make_named(folder, None, names)
        done = must(prune("-y", "--keep=latest=15", *way(scene.source)))
        assert by_age(folder) == names[-15:]
        assert "\x1b" not in done.stdout and "\\x1b[31m\\xff $(id)" in done.stdout
        subprocess.run(["btrfs", "-q", "subvolume", "delete", "--", *folder.iterdir()])


@pytest.mark.parametrize(
    "words",
    """
    -n --keep=1d
    -n --keep= /x
    -n --keep=0d /x
    -n --keep-at=10 /x
    -n --keep=1d --staging /x
    -n --force --staging /x
    --one-source /x
    --one-source -p=x-
    --one-source -p=x- --keep=1d /x
    --one-source -p=x- --force /x
    --one-source -p=x- --staging /x
    --one-source -p=x- --simulate=1d --keep=1d
    -n -p=x- --staging /x
    -n --keep=1d --id=1 /x
    -n --keep=1d --every=1h /x
    -n --staging --every=1h /x
    -n --keep=1d shell://cat
    --simulate=1d --keep=1d /x
    --simulate=1d --keep=1d --force
    --simulate=1d --keep=1d --staging
    --simulate=1d
    --simulate=1d --keep=1d --keep-at=1d
    --simulate=1h --every=1d --keep=1d
    --simulate=1 --keep=1d
    --simulate=999999w --every=1s --keep=1d
    --simulate=999999w --every=10w --keep=1d
    """.strip().splitlines(),
)
def test_what_makes_no_sense_is_a_usage_error(words: str):
    with pytest.raises(UsageError):
        verb.main(words.split())


def test_nobody_to_ask_is_a_usage_error():
    complaint(prune("--keep=1d", "/x"), 2, "--dry-run", "--yes", "deleted")


def test_a_place_without_a_policy_of_its_own_is_refused(scene: Scene):
    make_named(folder_of(scene), scene.destination, NAMES)
    done = prune("-n", "--keep-at=1d", scene.source)
    complaint(done, 4, "for the snapshots at", "--keep")
    done = prune("-n", "--keep=1d", scene.destination)
    complaint(done, 4, "for the backups at", "--keep-at")
    # Of what is there nobody knows that it is ours: no backup ever signed in.
    (scene.destination / STATE / SOURCES).unlink()
    done = must(prune("-n", "--keep-at=1d", scene.destination))
    assert "20 backups, 0 to delete" in done.stdout
    assert (
        "that begin with 'x-' are not on record as made by this program" in done.stdout
    )
    done = prune("-n", "--keep-at=1d", "-p=x-", scene.destination)
    complaint(done, 4, "is missing", "nothing is deleted", "--one-source -p x- /")


@covers("--simulate", "--every", "-v")
def test_a_simulation_shows_what_would_be_there():
    done = must(prune("--simulate=400d", "--keep", "24h 7d 12m"))
    head, policy, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d \+0000: \d\d of 9601 .*", head)
    assert policy == "policy: latest 24h 7d 12m, UTC"
    assert "legend: a line for each month, a column for each day" in lines
    assert "  1-9  so many are left;  +  more than nine" in lines
    months = [line for line in lines if re.match(r"\d{4}-\d\d  ", line)]
    assert len(months) in (13, 14, 15)
    end = datetime.now(timezone.utc) + 400 * DAY
    digits = [c for c in months[-1] + months[-2] if c in "+123456789"]
    assert months[-1].startswith(f"{end:%Y-%m}  ") and len(digits) > 7
    done = must(prune("--simulate", "2d", "--every=30m", "--keep-at=3h", "--json"))
    told = json.loads(done.stdout)
    assert (told["made"], len(told["kept"]), told["zone"]) == (97, 4 + 0, "UTC") or (
        len(told["kept"]) == 5  # the latest is not the first of its hour
    )
    done = must(prune("--simulate", "2d", "--keep=3h", "-v", "--keep-zone=Asia/Tokyo"))
    assert "legend: a line for each day, a column for each hour\n" in done.stdout
    assert done.stdout.count("hourly ") == 5 and " +0900 " in done.stdout


@covers("--keep", "--keep-at", "--keep-zone")
def test_a_backup_keeps_by_policy_at_both_places(scene: Scene, sshd: Sshd):
    folder = folder_of(scene)
    make_named(folder, scene.destination, NAMES)
    before = scene.fingerprint()
    for number, policy in (("-N", "--keep"), ("-n", "--keep-at")):
        done = scene.run(f"{number}3", policy, "2d")
        complaint(done, 2, number, policy, "latest=3")
    complaint(scene.run("--keep=2x"), 2, "2x", "--keep")
    complaint(scene.run("--keep=2d", "--keep-zone=Nowhere"), 2, "Nowhere")
    assert scene.fingerprint() == before
    words = ["-p", "x-", "--keep=2d", "--keep-at=5d", *ssh_way(sshd)(scene.source)]
    done = must(run_program(*words, *ssh_way(sshd)(scene.destination)))
    (new,) = set(scene.snapshot_names) - set(NAMES)
    # That is more than half, which is done once by hand.
    assert set(scene.snapshot_names) == set(scene.backup_names) == {*NAMES, new}
    words_of_both = r"the policy latest [25]d in UTC is new for the \w+ at .* more than"
    assert len(re.findall(words_of_both, done.stderr)) == 2
    assert done.stderr.count("more than half; nothing is deleted there") == 2
    lines = re.findall("at once:  btrfs-backup-ng (prune .*)", done.stderr)
    for line in lines:
        must(run_program(*shlex.split(line), "-y", *ssh_way(sshd)(scene.source)[:-1]))
    expected = firsts_of_days([*NAMES], 2) | {new}
    assert set(scene.snapshot_names) == expected
    # All of them arrived in this minute: the first of them stands for today.
    assert set(scene.backup_names) == firsts_of_days(NAMES, 5) | {new}
    again = must(run_program(*words, *ssh_way(sshd)(scene.destination)))
    assert again.stdout.count("sent") == 1, "what was deleted was sent again"


def test_what_the_policy_there_would_delete_is_not_sent(scene: Scene):
    make_named(folder_of(scene), None, NAMES)
    scene.back_up("-S", "--keep-at=3d")
    assert set(scene.backup_names) == firsts_of_days(NAMES, 3) | {NAMES[-1]}
    done = scene.back_up("-S", "--keep-at=3d")
    assert "nothing to send" in done.stdout and "delete" not in done.stdout
