"""A btrbk.conf, whatever it says, is a configuration or is left out by line."""

from __future__ import annotations

from datetime import timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.cli.config.jobs import Options, plan_volumes
from btrfs_backup_ng.cli.config.keys import configuration_keys
from btrfs_backup_ng.core.btrbk.carry import Carried, carry
from btrfs_backup_ng.core.btrbk.policy import carry_policy
from btrfs_backup_ng.core.btrbk.reader import parse_btrbk
from btrfs_backup_ng.core.btrbk.writer import write_configuration
from btrfs_backup_ng.core.configuration import Configuration, parse_configuration
from btrfs_backup_ng.core.policy import parse_policy

KEYS = configuration_keys()
MATCHING = ["/pool/vm/a", "/pool/vm/b"]


def carried(text: str, zone: str = "Europe/Berlin") -> Carried:
    return carry(parse_btrbk(text), zone=zone, find=lambda pattern: MATCHING)


def written(found: Carried) -> Configuration:
    return parse_configuration(write_configuration(found, "b.conf"), "/c.toml", KEYS)


def effective(text: str) -> dict[str, dict[str, str]]:
    """Return what counts for each volume and for each of its targets."""
    found = {}
    for plan in plan_volumes(written(carried(text))):
        found[plan.name] = _texts(plan.options) | {"source": str(plan.job.source)}
        if plan.conditions.only_if_changed:
            found[plan.name]["only-if-changed"] = "true"
        for target, destination in zip(plan.targets, plan.job.destinations):
            place = {"place": str(destination.location)}
            found[f"{plan.name} {target.name}"] = _texts(target.options) | place
    return found


def _texts(options: Options) -> dict[str, str]:
    return {each.key: each.text for each in options.values()}


def reasons(text: str) -> dict[int, str]:
    """Return the reason of each line that is not carried over exactly."""
    return {remark.line: remark.reason for remark in carried(text).remarks}


LEVELS = """\
timestamp_format long-iso
snapshot_preserve_min 2d
snapshot_preserve     24h 7d
target_preserve_min   no
target_preserve       7d 4w *m
preserve_day_of_week  monday
ssh_identity /etc/key
target /mnt/all
volume /pool
  snapshot_dir .snapshots
  target send-receive /mnt/pool/
    target_preserve 30d
  subvolume home
    snapshot_name me
    snapshot_preserve no
    target nas:/srv/b
      ssh_user backup
      backend_remote btrfs-progs-sudo
      rate_limit 10m
    target /mnt/all
      target_preserve_min all
  subvolume  "web server" # quoted
    snapshot_create onchange
    incremental strict
volume ssh://host.example:2222/data
  ssh_user no
  snapshot_dir /data/snaps
  subvolume db
    stream_compress lz4
    preserve_hour_of_day 4
subvolume /
  snapshot_dir /snaps
  snapshot_create no
  incremental no
"""


def test_three_levels_of_sections_count_as_they_do_for_btrbk():
    found = effective(LEVELS)
    assert list(found) == [
        *("me", "me pool", "me nas", "me all"),
        *("web-server", "web-server all", "web-server pool"),
        *("db", "db all", "ROOT", "ROOT all"),
    ]
    usual = {"snapshot-folder": "/pool/.snapshots", "keep-zone": "Europe/Berlin"}
    for name, expected in {
        "me": {"keep": "min=2d", "snapshot-prefix": "me.", "source": "/pool/home"}
        | usual,
        "me pool": {"keep-at": "30d", "place": "/mnt/pool"},
        "me nas": {
            "place": "ssh://backup@nas/srv/b",
            "keep-at": "7d 4w *m whole-weeks",
            "rate": "10M",
            "ssh-sudo": "true",
            "ssh-identity-file": "/etc/key",
        },
        "me all": {"keep-at": "all", "place": "/mnt/all"},
        "web-server": {
            "keep": "min=2d 24h 7d",
            "only-if-changed": "true",
            "source": "/pool/web server",
            "snapshot-prefix": "web server.",
        }
        | usual,
        "web-server pool": {"incremental": "required", "keep-at": "30d"},
        "db": {
            "source": "ssh://host.example:2222/data/db",
            "snapshot-folder": "/data/snaps",
            "ssh-identity-file": "/etc/key",
            "keep": "min=2d 24h 7d day=4h",
        },
        "db all": {"compress": "lz4", "keep-at": "7d 4w *m whole-weeks day=4h"},
        "ROOT": {"source": "/", "snapshot-folder": "snaps", "no-snapshot": "true"},
        "ROOT all": {"no-incremental": "true", "keep-at": "7d 4w *m whole-weeks"},
    }.items():
        missing = expected.items() - found[name].items()
        assert not missing, (name, found[name])
    assert "rate" not in found["me pool"] | found["me all"]
    for name in ("me all", "db all", "web-server", "me pool"):
        assert "no-snapshot" not in found[name] and "no-incremental" not in found[name]
    assert carried(LEVELS).remarks == ()


@pytest.mark.parametrize(
    ("lines", "number", "reason"),
    [
        ("group a b", 1, "--only"),
        ("archive_preserve 3d", 1, "btrbk archive"),
        ("transaction_log /var/log/x", 1, "log"),
        ("backend_remote btrfs-progs-btrbk", 1, "by its own name"),
        ("snapshot_preserve_daily 3", 1, "all is kept"),
        ("snapshot_presreve 3d", 1, "no such option"),
        ("stream_buffer 1g", 1, "no size"),
        ("rate_limit 3x", 1, "value is not known"),
        ("no!", 1, "understands"),
        ("timestamp_format short", 1, "none is deleted"),
        ("noauto yes", 1, "comment"),
        ("snapshot_create ondemand", 1, "away"),
        ("target_preserve_min 0h", 1, "'min=1h'"),
        ("target_preserve_min 3", 1, "all is kept"),
        ("target raw /mnt/raw", 1, "raw streams"),
        ("target foo /mnt/raw", 1, "type foo"),
        ("target ../x", 1, "no absolute path"),
        ("target /mnt/{host}", 1, "cannot be that of a target"),
        ("target /home", 1, "cannot be that of a target"),
        ("target /mnt/off\nnoauto yes", 1, "only if it is named"),
        ("target ssh://h/mnt\nstream_compress xz", 2, "auto"),
        ("volume relative", 1, "no absolute path"),
        ("volume /pool\nsubvolume vm/*", 2, "several match now"),
        ("volume ssh://h/pool\nsubvolume vm/*", 2, "another machine"),
        ("volume /pool\nsubvolume ../x", 2, "no path"),
        ("volume /pool\nsubvolume w?w", 2, "pattern here"),
        ("volume /pool\nsubvolume a\nsnapshot_name a/b", 2, "slash"),
        ("subvolume /srv", 1, "no snapshot_dir"),
        ("target ssh://h/t\nssh_port 99999", 1, "not a port"),
    ],
)
def test_what_is_not_carried_over_is_named_by_its_line(lines, number, reason):
    text = f"{lines}\nvolume /\nsubvolume home\ntarget /mnt/usb\n"
    found = reasons(text)
    assert reason in found[number] and len(found) == 1, found
    comment = f"#   line {number}: {lines.splitlines()[number - 1].split()[0]}"
    assert comment in write_configuration(carried(text), "b.conf")


def test_what_btrbk_runs_only_if_it_is_named_is_a_comment():
    text = "volume /\nsubvolume home\nnoauto\nsubvolume srv\n"
    shown = write_configuration(carried(text), "b.conf")
    assert '# [volumes.home]\n# source = "/home"\n' in shown
    assert list(written(carried(text)).volumes) == ["srv"]


def test_a_pattern_is_the_subvolumes_that_match_now():
    found = effective("volume /pool\nsubvolume vm/*\ntarget /mnt/usb\n")
    assert [*found] == ["a", "a usb", "b", "b usb"]
    assert found["b"]["source"] == "/pool/vm/b"
    assert found["b"]["snapshot-prefix"] == "b."


def test_two_sections_with_the_same_names_at_one_place_are_not_mixed():
    text = "target /mnt/usb\nvolume /a\nsubvolume home\nvolume /b\nsubvolume home\n"
    found = effective(text)
    assert [*found] == ["home", "home usb", "home-2"]
    assert "another section" in reasons(text)[1]
    text = "volume /a\nsubvolume home\nsubvolume home\n"
    assert len(carried(text).volumes) == 1 and "another section" in reasons(text)[3]


def test_sections_that_btrbk_runs_only_if_they_are_named_take_no_names():
    text = "volume /a\nsubvolume home\ntarget /mnt/usb\n"
    found = carried(f"{text}noauto no\n{text}subvolume home\nnoauto\ntarget /mnt/usb")
    assert [volume.is_off for volume in found.volumes] == [False, True]
    assert [*found.volumes[1].at] == ["usb"]


def test_an_option_that_others_overrule_everywhere_is_not_named():
    text = "target_preserve 3x\nsubvolume /a\nsnapshot_dir /s\n"
    own = "target /mnt/{}\ntarget_preserve no\ntarget_preserve_min latest\n"
    assert not reasons(text + own.format("a") + own.format("b"))
    other = "target /mnt/c\ntarget_preserve_min latest\n"
    assert "all is kept" in reasons(text + own.format("a") + other)[1]


def test_a_key_of_the_source_that_counts_at_a_target_is_remarked():
    text = """\
volume ssh://web/data
  ssh_identity /key
  snapshot_dir snaps
  subvolume db
    target ssh://nas/srv
      ssh_identity no
"""
    assert "ssh-identity-file of the source" in reasons(text)[5]
    assert not reasons(text.replace("/key", "no"))


def test_a_zone_without_a_name_is_remarked_only_if_it_matters():
    text = "snapshot_preserve_min latest\nsubvolume /home\nsnapshot_dir /snaps\n"
    assert not carried(text, zone="").remarks and not carried(text).zone
    text = text.replace("latest", "2d")
    assert carried(text).zone == "Europe/Berlin"
    (remark,) = carried(text, zone="").remarks
    assert (remark.line, remark.text) == (0, "keep-zone")


WORDS = st.sampled_from(
    """volume subvolume target snapshot_dir snapshot_name snapshot_preserve noauto
    group snapshot_preserve_min target_preserve target_preserve_min ssh_user
    ssh_identity ssh_port backend stream_compress stream_compress_level
    rate_limit incremental preserve_hour_of_day preserve_day_of_week
    timestamp_format snapshot_create raw yes no send-receive all latest 3d 0d
    7w *m 24h 000 99999999999d sunday 23 -1 btrfs-progs-sudo / /mnt /mnt/*
    /mnt/.. ssh://h/x ssh://h:99999/x h:/x [::1]:/x ssh://[::1]:22/y . .. *
    "/a b" 'x #' long short zstd 3 10m {volume} /mnt/{host} \u00e4 \x7f
    \x1b[0m""".split()
)
LINES = st.lists(WORDS, max_size=3).map(" ".join) | st.text(max_size=12)


@given(st.lists(LINES, max_size=12).map("\n".join))
def test_no_text_whatever_ends_in_a_traceback_or_in_no_configuration(text):
    found = carried(text)
    shown = write_configuration(found, text)
    configuration = parse_configuration(shown, "/c.toml", KEYS)
    if configuration.volumes:
        plan_volumes(configuration)
    assert all(line == visible(line) for line in shown.split("\n"))


NUMBERS = st.sampled_from(["0", "1", "007", "42", "1000000", "9" * 5000])
COUNTS = st.lists(
    st.tuples(st.sampled_from(["*"]) | NUMBERS, st.sampled_from("hdwmy")).map("".join),
    unique_by=lambda word: word[-1],
).map(" ".join)
MINIMA = st.sampled_from(["all", "latest", "no"]) | st.tuples(
    NUMBERS, st.sampled_from("hdwmy")
).map("".join)


@given(
    MINIMA | st.text(max_size=4),
    COUNTS | st.text(max_size=6),
    st.sampled_from(["monday", "sunday", "someday"]),
    st.sampled_from(["0", "5", "23", "24", "x"]),
)
def test_each_retention_is_a_policy(minimum, preserve, day, hour):
    policy, why = carry_policy(minimum, preserve, day, hour)
    parse_policy(policy, timezone.utc)
    if "x" in hour + preserve or day == "someday" or hour == "24":
        assert policy == "all" and (why or minimum == "all")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("all", "3d", "sunday", "0"), "all"),
        (("latest", "no", "sunday", "5"), "latest"),
        (("no", "no", "sunday", "5"), "latest"),
        (("latest", "24h 7d", "sunday", "0"), "24h 7d"),
        (("2d", "4W", "sunday", "0"), "min=2d 4w week=sunday"),
        (("no", "12m", "monday", "0"), "12m whole-weeks"),
        (("1y", "0d *m", "friday", "7"), "min=1y *m whole-weeks week=friday day=7h"),
        (("0w", "no", "monday", "0"), "min=1w"),
        (("2d", "3d 4d", "monday", "0"), "all"),
    ],
)
def test_a_retention_in_the_words_of_a_policy(words, expected):
    assert carry_policy(*words)[0] == expected
