"""What the words of the classic form mean: every option, and what contradicts."""

import itertools
import socket
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import GIB, KIB, MIB, UsageError
from btrfs_backup_ng.cli.backup_options import parse_task, read_job
from btrfs_backup_ng.cli.call import display_level
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.model import (
    Checks,
    Destination,
    Incremental,
    Job,
    SshOptions,
    TransferOptions,
)
from btrfs_backup_ng.core.naming import Naming
from btrfs_backup_ng.core.policy import Policy, Unit


def job(*words: str) -> Job:
    return read_job(parse_task(words))


def place(text):
    return parse_location(text, working_directory="/")


DEFAULT = Job(
    source=place("/a"),
    destinations=(Destination(place("/b")),),
    naming=Naming(f"{socket.gethostname()}-"),
    snapshot_folder=".btrfs-backup-ng/snapshots",
)

#: words -> the fields of the job, of its ssh or transfer options, that they set
OPTIONS = [
    ("-N 3", {"keep_source": Policy(latest=3)}),
    ("--num-snapshots=3", {"keep_source": Policy(latest=3)}),
    ("-n 4", {"keep": Policy(latest=4)}),
    ("--num-backups 4", {"keep": Policy(latest=4)}),
    ("--keep=2d --keep-zone UTC", {"keep_source": Policy(counts=((Unit.DAY, 2),))}),
    (
        "--keep=2d -n 4 --keep-zone Asia/Tokyo",
        {
            "keep_source": Policy(counts=((Unit.DAY, 2),), zone=ZoneInfo("Asia/Tokyo")),
            "keep": Policy(latest=4),
        },
    ),
    ("--keep-at=all", {"keep": Policy(everything=True)}),
    ("-S", {"take_snapshot": False}),
    ("--no-snapshot", {"take_snapshot": False}),
    ("-T", {"transfer": False}),
    ("--no-prune", {"prune": False}),
    ("--no-transfer", {"transfer": False}),
    ("-f .snap", {"snapshot_folder": ".snap"}),
    ("--snapshot-folder /x/y", {"snapshot_folder": "/x/y"}),
    ("-p pc-", {"naming": Naming("pc-")}),
    ("--snapshot-prefix=", {"naming": Naming("")}),
    ("-s", {"sync": True}),
    ("--sync", {"sync": True}),
    ("-w", {"convert_rw": True}),
    ("--convert-rw", {"convert_rw": True}),
    ("--locked-destinations", {"recorded": True}),
    ("--remove-locks", {"remove_locks": True}),
    ("--remove-locks --disk 1", {"remove_locks": True, "disk": "1"}),
    ("--fs-checks strict", {"checks": Checks.STRICT}),
    ("--fs-checks skip", {"checks": Checks.SKIP}),
    ("--fs-checks auto", {}),
    ("--skip-fs-checks", {"checks": Checks.SKIP}),
    ("--wait 60", {"wait_s": 60.0}),
    ("--wait=0.5", {"wait_s": 0.5}),
    ("--dry-run", {"dry_run": True}),
    ("--ssh-opt Port=2 --ssh-opt=User=x", {"options": ("Port=2", "User=x")}),
    ("--ssh-sudo", {"sudo": True}),
    ("--ssh-identity-file /k", {"identity_file": "/k"}),
    ("--ssh-username me", {"username": "me"}),
    ("--no-password-auth", {"password_login": False}),
    ("--ssh-password-file /p", {"password_file": "/p"}),
    ("--sudo-password-file=/p", {"sudo_password_file": "/p"}),
    ("--ssh-auth-sock /s", {"auth_sock": "/s"}),
    ("--ssh-host-key-policy strict", {"strict_host_keys": True}),
    ("--ssh-host-key-policy=accept-new", {}),
    ("--compress zstd", {"compress": "zstd:3"}),
    ("--compress=zstd:19", {"compress": "zstd:19"}),
    ("--compress lz4", {"compress": "lz4"}),
    ("--compress auto", {"compress": "auto"}),
    ("--compress none", {}),
    ("--sudo", {}),
    ("-I", {"incremental": Incremental.NEVER}),
    ("--no-incremental", {"incremental": Incremental.NEVER}),
    ("--incremental=required", {"incremental": Incremental.REQUIRED}),
    ("--incremental auto", {}),
    ("--use-mbuffer", {"mbuffer": True}),
    ("--no-mbuffer", {"mbuffer": False}),
    ("--use-mbuffer --no-mbuffer", {"mbuffer": False}),
    ("--rate 10M", {"rate": 10 * MIB}),
    ("--rate=1.5k", {"rate": KIB * 3 // 2}),
    ("--stall-timeout 7", {"stall_timeout_s": 7.0, "silence_s": 7.0}),
    ("--stall-timeout 0", {"stall_timeout_s": 0.0, "silence_s": 0.0}),
    ("--max-size 500G", {"max_size": 500 * GIB}),
    ("--max-size=1.5k", {"max_size": KIB * 3 // 2}),
    ("--retries 3", {"retries": 3, "reopenings": None}),
    ("--checkpoint-interval 64M", {"checkpoint_interval": 64 * MIB}),
    ("--no-checkpoints", {"checkpoint_interval": 0}),
    ("--staging-max-age 36h", {"staging_max_age": timedelta(hours=36)}),
    ("--staging-max-age=2w", {"staging_max_age": timedelta(weeks=2)}),
    ("--no-verify-transfer", {"verify": False}),
    ("--no-verify-transfer --verify-transfer", {}),
    ("--no-check-space", {"check_space": False}),
    ("--safety-margin 25", {"safety_margin_percent": 25.0}),
    ("--safety-margin 0", {"safety_margin_percent": 0.0}),
    ("--force", {"force": True}),
    ("--backfill", {"backfill": True}),
    ("--no-fan-out", {"fan_out": False}),
    ("--jobs 3", {}),
    ("-q -v --debug --progress --json", {}),
]


def fields(value):
    """Return the fields of a job, of its only destination and their options, flat."""
    found: dict[str, object] = {}
    for name, part in vars(value).items():
        if isinstance(part, (SshOptions, TransferOptions)):
            found |= fields(part)
        elif name == "destinations":
            (destination,) = part
            found |= fields(destination)
        elif name == "recorded":
            found[name] = part is not None
        else:
            found[name] = part
    return found


@pytest.mark.parametrize("options", OPTIONS, ids=lambda option: option[0])
@pytest.mark.parametrize("where", ["before", "between", "behind"])
def test_an_option_sets_its_field_and_no_other_wherever_it_stands(options, where):
    text, changes = options
    words = text.split()
    made = {
        "before": job(*words, "/a", "/b"),
        "between": job("/a", *words, "/b"),
        "behind": job("/a", "/b", *words),
    }[where]
    assert fields(made) == {**fields(DEFAULT), **changes}


def test_every_option_of_the_help_is_in_the_table_of_these_tests(capsys):
    with pytest.raises(SystemExit):
        parse_task(["--help-all"])
    help_text = capsys.readouterr().out
    shown = {
        word.strip("[],=:;")
        for word in help_text.split()
        if word.startswith("-") and word.strip("-[],=:")
    }
    shown = {
        word.split("=")[0] for word in shown if word[1:2].isalpha() or "--" in word
    }
    tested = {word.split("=")[0] for text, _ in OPTIONS for word in text.split()}
    display = {
        "-h",
        "--help",
        "--help-all",
        "--version",
        "--quiet",
        "--verbose",
        "-d",
        "-vv",
    }
    display |= {"--no-progress", "-v", "-o"}
    assert shown - tested - display == set()


@given(st.permutations(["/a", "/b", "-S", "--num-snapshots=5", "-n4", "--rate=1M"]))
def test_the_order_of_options_and_places_is_irrelevant(words):
    expected = {
        "keep_source": Policy(latest=5),
        "keep": Policy(latest=4),
        "rate": MIB,
    }
    made = fields(job(*words))
    source, destination = made["source"], made["location"]
    assert [source.path, destination.path] == [w for w in words if w[0] == "/"]
    assert {key: made[key] for key in expected} == expected
    assert made["take_snapshot"] is False


def test_a_place_may_begin_with_a_dash_behind_two_dashes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["--", "-a", "/b"], ["-N", "3", "--", "-a", "/b"]):
        made = job(*words)
        assert made.source == place(f"{tmp_path}/-a")
        assert [one.location for one in made.destinations] == [place("/b")]
    made = job("/a", "--", "-b", "--force")
    assert [one.location.path for one in made.destinations] == [
        f"{tmp_path}/-b",
        f"{tmp_path}/--force",
    ]


@pytest.mark.parametrize(
    "path", ["/a b", "/a\nb", "/a::b", "/'\"$(x)", "/\udcff", "/*"]
)
def test_a_place_is_never_cut(path):
    made = job(path, "/b", f"ssh://nas{path}", "-p", path.replace("/", ""))
    assert made.source.path == path
    assert made.destinations[1].location.path == path
    assert made.naming.prefix == path[1:]


def test_no_destination_is_fine_and_many_are():
    assert job("/a").destinations == ()
    assert len(job("/a", "/b", "ssh://nas/c", "shell://cat").destinations) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no source given"),
        (["-N", "3"], "no source given"),
        (["shell://x", "/b"], "cannot be a source"),
        (["/a", "/b", "/b/"], "/b is given twice"),
        (["/a", "ssh://n/b", "ssh://n/b"], "given twice"),
        (["/a", "/a"], "at once"),
        (["/a", "--remove-locks"], "--remove-locks"),
        (["/a", "/b", "-I", "--incremental=required"], "-I"),
        (["/a", "/b", "-p", "x/y"], "slash"),
        (["-n", "/home", "/mnt"], "-n takes a number here"),
        (["/a", "-N", "0"], "'0' is not a number of snapshots"),
        (["/a", "-N", "-1"], "-1"),
        (["/a", "-N", "x\x1b"], "x1b"),
        (["/a", "-n", "0"], "-n takes a number"),
        (["/a", "--rate", "fast"], "--rate"),
        (["/a", "--rate", "0"], "--rate"),
        (["/a", "--stall-timeout", "-1"], "seconds"),
        (["/a", "--max-size", "0"], "--max-size"),
        (["/a", "--max-size", "much"], "--max-size"),
        (["/a", "--stall-timeout", "nan"], "seconds"),
        (["/a", "--wait", "inf"], "seconds"),
        (["/a", "--safety-margin", "x"], "percent"),
        (["/a", "--fs-checks", "never"], "never"),
        (["/a", "--ssh-opt", "Port"], "ssh option"),
        (["/a", "--ssh-opt", "=x"], "ssh option"),
        (["/a", "--unknown"], "--unknown"),
        (["/a", "--num", "3"], "--num"),
        (["/a", "-N"], "-N"),
        (["/a", "--no-such\n"], "--no-such\\n"),
        (["nas:/x", "/b"], "path or a host"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(words, message):
    with pytest.raises(UsageError) as caught:
        job(*words)
    assert message in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("tasks", "level"),
    [
        (["/a"], "warning"),
        (["-q /a"], "error"),
        (["-v /a"], "info"),
        (["-v -v /a"], "debug"),
        (["-vv /a"], "debug"),
        (["-d /a"], "debug"),
        (["--debug /a"], "debug"),
        (["-v debug /a"], "debug"),
        (["-v error /a"], "error"),
        (["-v warning /a"], "warning"),
        (["--verbose info /a"], "info"),
        (["/a", "-v /b"], "info"),
        (["-v error /a", "-v info /b"], "info"),
    ],
)
def test_the_loudest_task_decides_what_is_logged(tasks, level):
    namespaces = [parse_task(task.split()) for task in tasks]
    assert display_level(namespaces) == level


def test_options_that_exclude_each_other_are_found_in_any_order():
    words = ["/a", "/b", "-I", "--incremental=required"]
    for order in itertools.permutations(words):
        with pytest.raises(UsageError):
            job(*order)
