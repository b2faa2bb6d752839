"""Which messages about troubles are due: never twice a day, and each recovery once."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import Busy
from btrfs_backup_ng.core.events import Failed, Sent, Snapshotted, UpToDate
from btrfs_backup_ng.core.notices import (
    AGAIN,
    FORGOTTEN,
    RUN,
    Affected,
    Age,
    Known,
    Notice,
    NoticeKind,
    Outcome,
    RunSight,
    Trouble,
    TroubleKey,
    TroubleState,
    compose,
    find_failures,
    find_stale,
    plan_notices,
)

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
HOME = Affected("home", "", "/home", "")
AT_USB = Affected("home", "usb", "/home", "/mnt/usb")
AT_NAS = Affected("home", "nas", "/home", "ssh://nas/b")
COMMAND = Affected("home", "shell://", "/home", "shell://")
FAILURE = NoticeKind.FAILURE


def bad(
    subject: Affected = AT_USB,
    kind: NoticeKind = FAILURE,
    patience: timedelta = timedelta(),
) -> RunSight:
    trouble = Trouble(kind, subject, "no luck", patience=patience)
    return RunSight(troubles=(trouble,))


def good(subject: Affected = AT_USB) -> RunSight:
    return RunSight(good=((FAILURE, subject),))


def told(*runs: tuple[timedelta, RunSight], wanted=frozenset(NoticeKind)) -> list[str]:
    """Return the messages of runs after each other: their hours and kinds."""
    record: dict[TroubleKey, Known] = {}
    found = []
    for after, sight in runs:
        due, record = plan_notices(record, sight, wanted, NOW + after)
        hours = after // HOUR
        found += [f"{hours} {each.kind.value}" for each in due.values()]
    return found


def test_a_trouble_is_told_once_a_day_and_its_end_once():
    runs = [(HOUR * n, bad()) for n in range(50)]
    runs += [(HOUR * n, good()) for n in range(50, 60)]
    assert told(*runs) == ["0 failure", "24 failure", "48 failure", "50 recovery"]


def test_each_run_of_a_daily_timer_tells_a_trouble_that_lasts():
    runs = [(24 * HOUR * day - MINUTE * (day % 2), bad()) for day in range(4)]
    assert len(told(*runs)) == 4


def test_what_fails_again_within_a_day_is_not_told_again():
    runs = [(HOUR * n, bad() if n % 2 else good()) for n in range(1, 60)]
    assert told(*runs) == [
        *("1 failure", "2 recovery", "25 failure", "26 recovery"),
        *("49 failure", "50 recovery"),
    ]


def test_what_was_not_looked_at_is_neither_told_nor_over():
    assert told((HOUR, bad()), (2 * HOUR, RunSight()), (3 * HOUR, good(AT_NAS))) == [
        "1 failure"
    ]
    assert told((HOUR, bad()), (2 * HOUR, bad(AT_NAS)), (3 * HOUR, good())) == [
        *("1 failure", "2 failure", "3 recovery")
    ]


def test_only_the_wanted_kinds_are_told():
    runs = [(HOUR, bad()), (2 * HOUR, bad(kind=NoticeKind.STALE)), (3 * HOUR, good())]
    assert told(*runs, wanted={NoticeKind.FAILURE}) == ["1 failure"]
    assert told(*runs, wanted={NoticeKind.STALE}) == ["2 stale"]
    assert told(*runs, wanted={NoticeKind.RECOVERY}) == []


def test_a_trouble_is_told_when_it_lasts_longer_than_its_patience():
    runs = [(HOUR * n, bad(patience=3 * HOUR)) for n in range(5)]
    assert told(*runs) == ["3 failure"]
    assert told(*runs[:3], (HOUR * 3, good()), *runs[4:]) == []


def test_a_clock_that_was_wrong_silences_nothing_for_long():
    far = timedelta(days=3650)
    assert told((far, bad()), (HOUR, bad()), (2 * HOUR, bad())) == [
        *(f"{far // HOUR} failure", "1 failure")
    ]
    assert told((HOUR, bad()), (timedelta(), bad())) == ["1 failure"]


def test_a_record_that_no_run_looks_at_is_forgotten():
    key = TroubleKey(FAILURE, "/home", "/mnt/usb")
    record = {key: Known(TroubleState.TOLD, NOW, NOW)}
    for age, left in ((FORGOTTEN, 1), (FORGOTTEN + HOUR, 0)):
        _, new = plan_notices(record, RunSight(), frozenset(NoticeKind), NOW + age)
        assert len(new) == left


@given(
    st.lists(
        st.tuples(st.integers(1, 2000), st.sampled_from(["bad", "good", "away"])),
        max_size=40,
    )
)
def test_no_trouble_is_told_twice_a_day_and_each_recovery_follows_one(steps):
    record: dict[TroubleKey, Known] = {}
    now, open_since = NOW, None
    failures: list[datetime] = []
    for minutes, word in steps:
        now += MINUTE * minutes
        sight = {"bad": bad(), "good": good(), "away": RunSight()}[word]
        due, record = plan_notices(record, sight, frozenset(NoticeKind), now)
        kinds = [notice.kind for notice in due.values()]
        if word == "bad":
            is_late = not failures or now - failures[-1] >= AGAIN
            assert kinds == ([NoticeKind.FAILURE] if is_late else [])
            failures += [now] if is_late else []
            open_since = now if is_late else open_since
        elif word == "good":
            assert kinds == ([NoticeKind.RECOVERY] if open_since else [])
            open_since = None
        else:
            assert not kinds


@pytest.mark.parametrize(
    ("events", "failed", "fine"),
    [
        ([Snapshotted("/home", "x", False)], [], [HOME]),
        ([Snapshotted("/home", "x", False), Failed("/mnt/usb", "m", "", 1)],
         [AT_USB], [HOME]),
        ([UpToDate("/home", "ssh://nas/b", 1, False), Failed("/mnt/usb", "m", "", 4)],
         [AT_USB], [AT_NAS, HOME]),
        ([Sent("/home", "/mnt/usb", "x", "x", None, None, 1, 1.0, False),
          Failed("/mnt/usb", "later", "", 1)], [AT_USB], [HOME]),
        ([Failed("/home", "m", "", 1)], [HOME], []),
        ([Failed("/home", "m", "", 1), UpToDate("/home", "/mnt/usb", 1, False)],
         [HOME], [AT_USB]),
        ([Failed("shell://x SECRET", "shell://x SECRET: m", "", 1)], [COMMAND], []),
        ([], [], []),
    ],
)  # fmt: skip
def test_failures_and_what_is_good_follow_from_the_events(events, failed, fine):
    command = (COMMAND, "shell://x SECRET")
    targets = ((AT_USB, "/mnt/usb"), (AT_NAS, "ssh://nas/b"), command)
    sight = find_failures([Outcome(HOME, targets, tuple(events))], [])
    assert [trouble.subject for trouble in sight.troubles] == failed
    assert {subject for _, subject in sight.good} == {RUN, *fine}
    assert not any("SECRET" in trouble.text for trouble in sight.troubles)
    sight = find_failures([], [Failed("", "hook", "", 1), Failed("", "other", "", 1)])
    assert [trouble.subject for trouble in sight.troubles] == [RUN] and not sight.good


def test_another_run_at_work_is_a_trouble_only_if_that_lasts_a_day():
    def sight(*statuses: int) -> RunSight:
        events = tuple(Failed("/home", f"status {n}", "", n) for n in statuses)
        return find_failures([Outcome(HOME, (), events)], [])

    busy = Busy.exit_status
    runs = [(HOUR * n, sight(busy)) for n in range(50)]
    assert told(*runs) == ["24 failure", "48 failure"]
    assert told(*runs[:20], (20 * HOUR, good(HOME)), *runs[21:40]) == []
    for statuses in ((busy, 1), (1, busy)):
        (trouble,) = sight(*statuses).troubles
        assert (trouble.text, trouble.patience) == ("status 1", timedelta())


def test_a_target_is_stale_if_its_newest_backup_is_too_old_or_never_came():
    def sight(made: datetime | None, after: timedelta) -> RunSight:
        return find_stale([Age(AT_USB, made, 24 * HOUR)], NOW + after)

    assert sight(NOW, 24 * HOUR).good == ((NoticeKind.STALE, AT_USB),)
    (trouble,) = sight(NOW, 36 * HOUR).troubles
    assert trouble.text == "the newest backup is 36 h old, not 24 h"
    runs = [(HOUR * n, sight(None, HOUR * n)) for n in range(0, 30, 6)]
    assert told(*runs) == ["24 stale"]
    runs = [(HOUR * n, sight(NOW, HOUR * n)) for n in range(0, 60, 6)]
    runs.append((HOUR * 61, sight(NOW + HOUR * 60, HOUR * 61)))
    assert told(*runs) == ["30 stale", "54 stale", "61 recovery"]


def test_a_message_names_what_is_wrong_since_when_and_why():
    def notice(
        kind: NoticeKind, subject: Affected, text: str = "", hint: str = ""
    ) -> Notice:
        return Notice(kind, subject, text, hint, NOW - 30 * HOUR)

    one = notice(FAILURE, AT_NAS, "it broke\nReply-To: x\x1b[31m", "Run: this")
    message = compose([one], "laptop", NOW)
    assert message.title == "btrfs-backup-ng on laptop: home at nas failed"
    assert message.text.splitlines()[:4] == [
        "home at nas: failed, for 30 h",
        *("  it broke", "  Reply-To: x\\x1b[31m", "  Run: this"),
    ]
    over = notice(NoticeKind.RECOVERY, AT_USB, "good again")
    new = Notice(FAILURE, HOME, "it broke", "", NOW)
    message = compose([one, over, new], "laptop", NOW)
    assert message.title.endswith("laptop: 2 failed, 1 recovered")
    assert "home at usb: good again, after 30 h\nhome: failed\n" in message.text


def test_the_ends_of_two_troubles_of_a_target_are_one_recovery_with_two_lines():
    kinds = (FAILURE, NoticeKind.STALE)
    troubles = [Trouble(kind, AT_USB, "no luck") for kind in kinds]
    _, record = plan_notices({}, RunSight(tuple(troubles)), {*NoticeKind}, NOW)
    over = RunSight(good=tuple((kind, AT_USB) for kind in kinds))
    due, _ = plan_notices(record, over, {*NoticeKind}, NOW + HOUR)
    message = compose([*due.values()], "laptop", NOW + HOUR)
    assert message.title.endswith("laptop: home at usb recovered")
    assert message.text.splitlines()[:2] == [
        "home at usb: good again, after 60 min",
        "home at usb: up to date again, after 60 min",
    ]
