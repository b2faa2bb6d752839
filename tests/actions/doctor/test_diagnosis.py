"""What facts about a place mean to ``doctor``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import GIB, MIB
from btrfs_backup_ng.actions.doctor import diagnosis
from btrfs_backup_ng.actions.doctor.diagnosis import Diagnosis, Grade, Subject
from btrfs_backup_ng.core.model import Facts, Privilege
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.host.ssh import privilege_rule, sudoers_rule

OK, WARN, FAIL, UNKNOWN = Grade.OK, Grade.WARN, Grade.FAIL, Grade.UNKNOWN

GOOD = Facts(
    privilege=Privilege.SUDO,
    btrfs_version=(6, 2),
    send_protocol=2,
    is_directory=True,
    exists=True,
    is_btrfs=True,
    filesystem_type="btrfs",
    is_empty=True,
    is_writable=True,
    size_used=GIB,
    size_free=GIB,
    containing="/srv",
)


def subject(path="/srv/b", machine="nas", is_subvolume=False, is_root=False, **changes):
    facts = replace(GOOD, **changes)
    return Subject(path, machine, "backup", facts, is_subvolume, is_root)


def judged(*args, **changes):
    """Judge a place; give its findings by check."""
    findings = diagnosis.judge_place(subject(*args, **changes))
    assert tuple(finding.check for finding in findings) == tuple(diagnosis.OF_A_PLACE)
    return {finding.check: finding for finding in findings}


CHECKS = (
    *("connect", "login", "shell", "btrfs", "version", "stream", "flock", "privilege"),
    *("directory", "mounted", "filesystem", "writable", "use", "space"),
    *("clock", "sessions", "programs"),
)


@pytest.mark.parametrize("checks", [diagnosis.HERE, diagnosis.THERE])
def test_the_checks_keep_their_names_and_their_order(checks):
    """Scripts read them in --json. There may be further ones."""
    only_there = {"connect", "login", "shell", "flock", "clock", "sessions"}
    known = [c for c in CHECKS if checks is diagnosis.THERE or c not in only_there]
    assert [check for check in checks if check in known] == known


def made(*grades):
    return [Diagnosis(str(number), grade, "") for number, grade in enumerate(grades)]


@pytest.mark.parametrize(
    ("grades", "status"),
    [
        ((), 0),
        ((OK,), 0),
        ((OK, WARN), 1),
        ((OK, UNKNOWN), 1),
        ((UNKNOWN, FAIL, OK), 2),
        ((WARN, FAIL), 2),
    ],
)
def test_the_worst_finding_decides_the_exit_status(grades, status):
    assert diagnosis.exit_status(made(*grades)) == status


@given(st.sets(st.sampled_from(diagnosis.THERE)))
def test_every_check_is_told_and_what_was_not_made_is_not_good(checks):
    findings = [Diagnosis(check, OK, "") for check in checks]
    told = diagnosis.completed(diagnosis.THERE, findings, "it rained")
    assert [finding.check for finding in told] == list(diagnosis.THERE)
    for finding in told:
        good = finding.check in checks
        assert finding.grade is (OK if good else UNKNOWN)
        assert good or finding.found == "not checked: it rained"
    assert diagnosis.exit_status(told) == (len(checks) < len(told))


def test_all_is_good_where_all_is_good():
    assert {f.grade for f in judged().values()} == {OK}
    assert {f.grade for f in judged(is_subvolume=True).values()} == {OK}


@pytest.mark.parametrize(
    ("version", "grade"),
    [
        ((4, 15), WARN),
        ((5, 4), WARN),
        ((5, 10), OK),
        ((6, 2), OK),
        ((10, 0), OK),
        (None, UNKNOWN),
    ],
)
def test_old_versions_warn(version, grade):
    finding = diagnosis.judge_version(version, has_btrfs=True)
    assert finding.grade is grade
    assert bool(finding.fix) is (grade is WARN)
    assert diagnosis.judge_version(version, has_btrfs=False).grade is UNKNOWN


@pytest.mark.parametrize(
    ("protocol", "version", "known"),
    [
        (2, (6, 0), "protocol 2"),
        (3, (6, 2), "protocol 2"),
        (2, (5, 19), "protocol 1"),
        (1, (6, 2), "protocol 1"),
    ],
)
def test_the_send_stream_is_that_of_kernel_and_programs(protocol, version, known):
    finding = diagnosis.judge_stream(protocol, version)
    assert finding.grade is OK
    assert finding.found.startswith(known)
    assert diagnosis.judge_stream(protocol, None).grade is UNKNOWN


NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("there", "began", "ended", "grade", "part"),
    [
        (NOW, NOW, NOW, OK, "same"),
        (NOW, NOW + 0.9, NOW + 0.95, OK, "same"),  # date cuts the fraction off
        (NOW, NOW + 5.9, NOW + 6.0, OK, "same"),
        (NOW, NOW + 6.2, NOW + 6.3, WARN, "5.2 s behind"),
        (NOW, NOW - 5.3, NOW - 5.1, WARN, "5.1 s ahead"),
        (NOW, NOW - 30, NOW + 30, OK, "same"),  # a slow answer proves nothing
        (NOW, NOW - 30, NOW - 10, WARN, "10 s ahead"),
        (NOW, NOW + 3601, NOW + 3602, WARN, "1:00:00 behind"),
        (NOW, NOW + 86401, NOW + 86402, WARN, "24:00:00 behind"),
        (NOW, NOW + 86402, NOW + 86402, FAIL, "24:00:01 behind"),
        (NOW, NOW - 86402, NOW - 86401, FAIL, "24:00:01 ahead"),
    ],
)
def test_a_clock_is_wrong_by_what_the_way_does_not_explain(
    there, began, ended, grade, part
):
    finding = diagnosis.judge_clock(str(there), began, ended)
    assert (finding.grade, part in finding.found) == (grade, True), finding
    assert ("timedatectl" in finding.fix) is (grade is not OK)


@pytest.mark.parametrize("there", ["", "+%s", "12 34", "-5"])
def test_a_clock_that_is_not_understood_is_unknown(there):
    assert diagnosis.judge_clock(there, NOW, NOW).grade is UNKNOWN


@pytest.mark.parametrize(
    ("opened", "grade"),
    [
        (8, OK),
        (7, WARN),
        (4, WARN),
        (3, FAIL),
        (0, FAIL),
    ],
)
def test_few_sessions_are_enough_for_one_task(opened, grade):
    finding = diagnosis.judge_sessions(opened, "" if opened == 8 else "refused")
    assert finding.grade is grade
    assert ("\n  MaxSessions 10" in finding.fix) is (opened < 8)
    assert ("refused" in finding.found) is (opened < 8)


@pytest.mark.parametrize(
    ("here", "there", "grade", "fix"),
    [
        ("pv mbuffer zstd lz4", "zstd lz4", OK, ""),
        ("pv zstd", "zstd", OK, ""),
        ("mbuffer lz4", "lz4 zstd", OK, ""),
        ("pv", None, OK, ""),
        ("zstd", None, WARN, "Install here:  pv"),
        ("", None, WARN, "Install here:  pv"),
        ("pv zstd", "", WARN, "Install there:  zstd"),
        ("pv zstd", "lz4", WARN, "Install there:  zstd"),
        ("pv", "zstd", WARN, "Install here:  zstd"),
        ("", "", WARN, "Install here:  pv\nInstall here and there:  zstd"),
    ],
)
def test_a_program_is_missed_where_an_option_needs_it(here, there, grade, fix):
    ends = [None if t is None else frozenset(t.split()) for t in (here, there)]
    finding = diagnosis.judge_programs(ends[0] or frozenset(), ends[1])
    assert (finding.grade, finding.fix) == (grade, fix)


@pytest.mark.parametrize(
    ("free", "used", "grade"),
    [
        (GIB, GIB, OK),
        (256 * MIB, 0, OK),
        (255 * MIB, 0, WARN),
        (100 * MIB, GIB, WARN),
        (99 * MIB, GIB, FAIL),
        (0, GIB, FAIL),
        (5 * GIB, 95 * GIB, OK),
        (4 * GIB, 96 * GIB, WARN),
    ],
)
def test_little_space_warns_and_none_fails(free, used, grade):
    finding = judged(size_free=free, size_used=used, path="/a b")["space"]
    assert finding.grade is grade
    assert ("filesystem usage '/a b'" in finding.fix) is (grade is not OK)


@pytest.mark.parametrize("changes", [{"exists": False}, {"is_directory": False}])
def test_nothing_is_known_of_what_is_not_there(changes):
    found = judged(**{"is_directory": False, **changes})
    assert found.pop("directory").grade is FAIL
    assert {finding.grade for finding in found.values()} == {UNKNOWN}


def test_who_may_not_look_does_not_know_whether_it_is_there():
    absent = {"exists": False, "is_directory": False}
    assert "backup may not look there" in judged(**absent)["directory"].found
    found = judged(is_root=True, **absent)["directory"]
    assert "may not" not in found.found
    assert found.fix.endswith("As root there:  mkdir -p /srv/b")


def test_an_empty_directory_on_the_system_disk_fails_and_may_be_meant():
    found = judged(on_system_disk=True)["mounted"]
    assert found.grade is FAIL
    assert "As root there:  mount /srv/b" in found.fix
    assert "--fs-checks skip" in found.fix
    assert judged(on_system_disk=True, is_empty=False)["mounted"].grade is OK
    # A new subvolume may be a source.
    assert judged(on_system_disk=True, is_subvolume=True)["mounted"].grade is WARN


@pytest.mark.parametrize("machine", ["nas", ""])
def test_what_is_not_btrfs_is_named(machine):
    found = judged(is_btrfs=False, filesystem_type="ex\x1bfat", machine=machine)
    assert found["filesystem"].grade is FAIL
    assert "ex\\x1bfat" in found["filesystem"].found
    assert ("shell://" in found["filesystem"].fix) is (machine == "")
    assert found["use"].grade is UNKNOWN


def test_a_bind_mount_of_a_folder_is_a_destination_where_all_can_be_mounted():
    mount = {
        "mount_point": "/mnt",
        "mount_root": "/a b",
        "mount_options": ("subvol=/",),
    }
    found = judged(**mount, can_mount=True)["use"]
    assert (found.grade, "bind mount of the folder /a b" in found.found) == (OK, True)
    found = judged(**mount, whole_path="/top/a b")["use"]
    assert (found.grade, "finds no parents" in found.found) == (FAIL, True)
    assert found.fix.endswith("  /top/a b")
    assert "-o subvolid=5" in judged(**mount)["use"].fix
    mount["mount_options"] = ("subvol=/a b",)
    assert judged(**mount)["use"].grade is OK


def test_who_cannot_write_is_told_why():
    mount = {"mount_point": "/srv disk", "mount_options": ("ro", "rw")}
    found = judged(is_writable=False, **mount)["writable"]
    assert (found.grade, "read-only" in found.found) == (FAIL, True)
    assert found.fix == "As root there:  mount -o remount,rw '/srv disk'"
    found = judged(is_writable=False, path="/a b")["writable"]
    assert found.grade is FAIL
    assert found.fix == "As root there:  chown backup '/a b'"
    found = judged(is_writable=False, is_root=True)["writable"]
    assert (found.grade, "snapshot" in found.found) == (FAIL, True)
    # Here, root would do the writing: nobody else can tell.
    assert judged(is_writable=False, machine="")["writable"].grade is UNKNOWN


def test_a_directory_is_no_source():
    found = judged()["use"]
    assert (found.grade, "destination" in found.found) == (OK, True)
    assert "only all of /srv could be a source" in found.found
    assert "source or destination" in judged(is_subvolume=True)["use"].found


def test_a_btrfs_that_only_sudo_finds_is_there():
    assert diagnosis.judge_btrfs("", "btrfs-progs v6.2", is_here=False).grade is OK
    assert diagnosis.judge_btrfs("", "", is_here=False).fix.endswith("there.")
    assert diagnosis.judge_btrfs("", "", is_here=True).fix.endswith("here.")


def test_a_rule_names_what_sudo_finds():
    said = {"user": "backup", "program": "/opt/btrfs", "granted": "/usr/bin/btrfs"}
    assert sudoers_rule(said) == "backup ALL=(root) NOPASSWD: /usr/bin/btrfs"
    del said["granted"]
    assert sudoers_rule(said) == "backup ALL=(root) NOPASSWD: /opt/btrfs"


def test_a_rule_holds_nothing_that_sudoers_gives_a_meaning():
    said = {"user": "DOM\\u=s,r:x ALL", "program": "/a b,c/btrfs", "uid": "1001"}
    assert (
        sudoers_rule(said)
        == r"DOM\\u\=s\,r\:x\ ALL ALL=(root) NOPASSWD: /a\ b\,c/btrfs"
    )
    assert sudoers_rule({**said, "user": ""}).startswith("#1001 ALL=")


def test_where_there_is_only_doas_the_rule_is_for_doas():
    said = {"user": "backup", "program": "/sbin/btrfs", "doas": "/usr/bin/doas"}
    line = "permit nopass backup as root cmd btrfs"
    assert privilege_rule(said) == ("/etc/doas.conf", line)
    both = privilege_rule({**said, "sudo": "/usr/bin/sudo"})
    assert both == ("/etc/sudoers.d/btrfs-backup-ng", sudoers_rule(said))
