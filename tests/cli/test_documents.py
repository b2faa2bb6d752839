"""Every field that ``--json`` has, of every command: none is ever lost or renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import STATE
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.staged import interrupted_transfer, locked, read_only

pytestmark = pytest.mark.btrfs

#: Command -> fields of its documents: where they are, and their names. ``[]``: a list.
FIELDS = {
    "backup": """
: events exit_status version
events[]: codec destination dry elapsed_s event exit_status hint message name parent
events[]: place present resumed_bytes size_bytes source target why_full
    """,
    "verify": """
: exit_status places version
places[]: error findings foreign level next_backup notes place result snapshots
places[]: source subset time
places[].error: hint message
places[].next_backup: cases certain coming incremental parent
places[].next_backup.cases[]: parent prefix refusals why_full
places[].snapshots[]: compared difference_count differences findings kind name
places[].snapshots[]: received_uuid result uuid
places[].snapshots[].findings[]: check hint result text
    """,
    "list": """
: exit_status places version
places[]: error place snapshots waiting
places[].error: hint message
places[].snapshots[]: age_s being_sent_to common_with complete created held_bytes kind
places[].snapshots[]: name next_parent next_parent_on_record parent_uuid
places[].snapshots[]: perhaps_needed_by perhaps_next_parent received_uuid size_bytes
places[].snapshots[]: source space_bytes state uuid verified why
places[].snapshots[].verified: age_s level result when
places[].waiting[]: age_s id name running size_bytes started
    """,
    "diff": """
: change exit_status link_to old_path path path_base64 replaced shared size touched
: type version written
summary: added changed deleted metadata renamed shared size_added written
    """,
    "versions": """
: exit_status failures path snapshots_looked_into subvolume timeline version
: versions
failures[]: hint message place
timeline[]: id now number places since
timeline[].places[]: place snapshots
versions[]: id kind link_to modified now number readable sha256 size_bytes
versions[].restore: path place snapshot
    """,
    "doctor": """
: exit_status places version
places[]: findings place
places[].findings[]: check found mend status
    """,
    "restore": """
: dry_run error exit_status files from parent resumed_bytes sent_bytes size_bytes
: swap to version writable
error: hint message
next_backup: cases certain coming incremental parent
next_backup.cases[]: parent prefix refusals why_full
snapshot: age_s complete created kind name parent_uuid received_uuid state uuid why
swap: commands notes removal way
    """,
    "log": """
: exit_status records version
records[]: destination elapsed_s error folder name origin parent resumed_bytes
records[]: size_bytes source target time
    """,
    "status": """
: exit_status places version
places[]: complete fine free_bytes future hint last_arrived last_failure last_run
places[]: max_age_s newest place reason running status target used_bytes volume waiting
places[].last_arrived: error name source time
places[].last_run: elapsed_s error sent size_bytes time
places[].newest: age_s complete created kind name parent_uuid received_uuid state
places[].newest: uuid why
places[].running: doing host pid since
places[].waiting[]: age_s id name running size_bytes started
    """,
    "status --forget": """
: exit_status forgotten version
forgotten[]: place records
    """,
    "prune": """
: exit_status places version
places[]: dry_run error place policies snapshots
places[].error: hint message
places[].policies[]: kind policy zone
places[].snapshots[]: age_s created kind name outcome reasons space_bytes uuid
places[].snapshots[]: verdict
    """,
    "prune --one-source": """
: exit_status places version
places[]: backups dry_run error place prefix
places[].error: hint message
    """,
    "prune --simulate": """
: end exit_status kept made policy start version zone
kept[]: reasons time
    """,
    "prune --staging": """
: exit_status places version
places[]: dry_run error place transfers
places[].error: hint message
places[].transfers[]: age_s id name outcome running size_bytes started
    """,
}


def paths(value: object, start: str = "") -> Iterator[str]:
    """Yield the path of each field of a document that has a value, or none below it."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from paths(below, f"{start}.{key}" if start else key)
    elif isinstance(value, list):
        for below in value:
            yield from paths(below, f"{start}[]")
    if start and not isinstance(value, dict) or value == {}:
        yield start


def fields(*words: Argument, **changes: Any) -> set[str]:
    """Run a command with ``--json``, and return the paths of all its fields."""
    done = run_program(*words, "--json", **changes)
    assert done.stdout, f"{words}: {done.stderr}"
    texts = done.stdout.splitlines() if words[0] == "diff" else [done.stdout]
    documents = list(map(json.loads, texts))
    assert documents[-1]["version"] == 1
    assert documents[-1]["exit_status"] == done.returncode
    return {path for document in documents for path in paths(document)}


def all_fields(scene: Scene, directory: Path) -> dict[str, set[str]]:
    """Run all commands so that each field of a document has a value at least once."""
    env = {"BTRFS_BACKUP_NG_STATE": str(directory / "state")}
    found: dict[str, set[str]] = {}
    source, place = scene.source, scene.destination

    def see(command: str, *words: Argument) -> None:
        found.setdefault(command, set()).update(fields(*words, env=env))

    policies = ["--keep", "latest=3", "--keep-at", "latest=3"]
    see("backup", *scene.words("--dry-run", *policies), directory / "missing")
    for number in range(6):
        scene.add(f"file {number}")
        (source / "versions").write_text(f"version {number}\n")
        see("backup", *scene.words("-N", "3", "-n", "3"))
    see("backup", *scene.words("-S"))
    see("backup", *scene.words("--remove-locks"))
    see("backup", *scene.words())
    (source / "odd \udcff name").write_text("odd")
    (source / "link").symlink_to("versions")
    see("backup", *scene.words())
    (source / "more \udcff names").hardlink_to(source / "versions")
    (source / "file 1").rename(source / "renamed \udcff")
    see("backup", *scene.words())
    backups = [place / name for name in scene.backup_names]

    see("verify", "verify", place, "--source", source, "--data", "-p", "x-")
    see("verify", "verify", place, "--source", source)
    see("verify", "verify", place, "--subset", "1/1")
    see("verify", "verify", directory / "missing")
    see("list", "list", source, place, directory / "missing")
    see("diff", "diff", backups[-2], backups[-1])
    see("diff", "diff", backups[-3], backups[-1])
    see("versions", "versions", source / "versions", "--at", place)
    see("versions", "versions", source / "link", "--at", directory / "missing")
    see("doctor", "doctor", source, place, directory / "missing")

    to = place.parent / "restored"
    see("restore", "restore", place, "--to", to, "--dry-run")
    see("restore", "restore", place, "--to", to)
    see("restore", "restore", place, "--to", to)
    writable = source.parent / "writable"
    see("restore", "restore", place, "--to", writable, "--writable")
    see("restore", "restore", place, "--to", directory, "--file", "versions")

    (writable / "file 0").write_text("changed")
    bad = read_only(place / "x-20300101-000000", content="damaged")
    see("list", "list", place)
    see("verify", "verify", place, "--source", source, "--data")
    see("status", "status", place, directory / "missing")
    assert bad.exists()
    see("status", "status", source)
    see("prune", "prune", place, "--keep-at", "latest=3", "--dry-run")
    see("prune", "prune", place, "--keep-at", "latest=2", "--yes", "--force")
    see("prune", "prune", directory / "missing", "--keep-at", "latest=2", "--yes")
    see("prune --one-source", "prune", "--one-source", "-p", "x-", place)
    see("prune --one-source", "prune", "--one-source", "-p", "x-", directory)
    see("prune --simulate", "prune", "--simulate", "3d", "--keep", "2d")

    interrupted_transfer(scene)
    see("list", "list", place)
    see("status", "status", place)
    holder = {"pid": 1, "host": "h", "since": "2026-01-02T03:04:05+00:00", "doing": "x"}
    (place / STATE / "holder").write_text(json.dumps(holder))
    with locked(place / STATE):
        see("status", "status", place)
        see("prune --staging", "prune", "--staging", place, "--yes")
    see("prune --staging", "prune", "--staging", place, "--yes")
    shutil.rmtree(place / STATE / "incoming")
    see("status", "status")
    see("log", "log")
    see("status --forget", "status", "--forget", place)
    return found


def named(text: str) -> set[str]:
    """Return the paths of all fields that a text of :data:`FIELDS` names."""
    lines = [line.split() for line in text.strip().splitlines()]
    return {f"{at[:-1]}.{name}".lstrip(".") for at, *names in lines for name in names}


def test_no_field_is_lost(scene: Scene, tmp_path: Path):
    found = all_fields(scene, tmp_path)
    assert found.keys() == FIELDS.keys()
    for command, text in FIELDS.items():
        assert named(text) - found[command] == set(), command


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["restroe", "--json"], 2),
        (["--json"], 2),
        (["--json", "--frobnicate", "/a"], 2),
        (["-n", "x", "--json", "/a"], 2),
        (["@missing", "--json"], 2),
        (["@asks"], 2),
        (["--json", "list", "shell://cat"], 2),
        (["status", "--json", "--frobnicate"], 2),
        (["diff", "--json", "/a"], 2),
        (["diff", "--json", "/a", "/b"], 4),
        (["doctor", "--json"], 2),
        (["doctor", "--sudoers", "/a", "--json"], 2),
        (["log", "--json", "/a"], 2),
        (["prune", "--json", "/a"], 2),
        (["prune", "--json", "--keep=latest", "-y", "/a"], 4),
        (["restore", "--json", "/a"], 2),
        (["verify", "--json"], 2),
        (["versions", "--json", "--diff", "1234", "now", "/a"], 2),
        (["versions", "--json", "/proc/a"], 4),
        (["demo", "--json"], 2),
    ],
)
def test_what_fails_as_a_whole_has_a_document_too(
    tmp_path: Path, words: list[str], status: int
):
    (tmp_path / "asks").write_text("--json\n--frobnicate\n/a\n")
    done = run_program(*words, cwd=tmp_path)
    document = json.loads(done.stdout)
    error = document.pop("error")
    assert document == {"version": 1, "exit_status": status}
    assert error.keys() == {"message", "hint"}
    assert done.stderr.startswith(f"btrfs-backup-ng: {error['message']}")
    assert done.stderr.splitlines()[1:] == [f"  {line}" for line in error["hint"]]
    assert done.returncode == status


def test_behind_two_dashes_no_document_is_asked_for(tmp_path: Path):
    done = run_program("--frobnicate", "--", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
