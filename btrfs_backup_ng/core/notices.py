"""Which messages about troubles are due, by a run and by the record of earlier ones.

A trouble is told once a day while it lasts, and its end once. What a run did not look
at changes nothing.
"""

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from btrfs_backup_ng.__util__ import Busy, format_age, visible
from btrfs_backup_ng.core.document import Inline, Lines
from btrfs_backup_ng.core.events import Event, Failed, Sent, Snapshotted, UpToDate
from btrfs_backup_ng.core.value import Value, replace

#: Least time between two messages about one trouble: a day, less the AccuracySec= of
#: two runs, see systemd.timer(5). So each run of a daily timer reports it.
AGAIN = timedelta(days=1) - timedelta(minutes=2)
#: How long another run may be at work before that is a trouble.
BUSY = timedelta(days=1)
#: How long a trouble stays on record that no run looks at.
FORGOTTEN = timedelta(days=60)


class NoticeKind(enum.Enum):
    """What a message is about."""

    FAILURE = "failure"
    RECOVERY = "recovery"
    STALE = "stale"


class Affected(Value):
    """A volume, or a volume at a target.

    :ivar volume: its name; "" for the whole run.
    :ivar target: the name of the target; "" for the volume itself.
    :ivar source: the text of its location.
    :ivar destination: the text of its location; "" for the source, and only the scheme
        of a command.
    """

    volume: str
    target: str
    source: str
    destination: str

    def __str__(self) -> str:
        """Return its name in messages."""
        if not self.volume:
            return "the run"
        at = f" at {visible(self.target)}" if self.target else ""
        return f"{visible(self.volume)}{at}"


#: The whole run.
RUN = Affected("", "", "", "")


class TroubleKey(Value):
    """What makes two troubles the same one: they need not have the same reason.

    :ivar kind: a failure, or stale.
    """

    kind: NoticeKind
    source: str
    destination: str


class Trouble(Value):
    """Something that is wrong now.

    :ivar kind: a failure, or stale.
    :ivar text: why, for people.
    :ivar patience: how long it has to last to be told.
    """

    kind: NoticeKind
    subject: Affected
    text: str
    hint: str = ""
    patience: timedelta = timedelta()


class RunSight(Value):
    """What one run saw: the troubles, and which things are good."""

    troubles: tuple[Trouble, ...] = ()
    good: tuple[tuple[NoticeKind, Affected], ...] = ()


class TroubleState(enum.Enum):
    """Whether a trouble on record lasts."""

    TOLD = "told"  # and lasts
    SILENT = "silent"  # it lasts, and was not told since it began
    OVER = "over"


class Known(Value):
    """A trouble on record.

    :ivar since: when it began.
    :ivar told: when the last message about it was sent, be it over since; or None.
    """

    state: TroubleState
    since: datetime
    told: datetime | None = None


class Notice(Value):
    """A message that is due.

    :ivar since: when the trouble began.
    """

    kind: NoticeKind
    subject: Inline[Affected]
    text: str
    hint: Lines
    since: datetime


#: The text about the end of a trouble.
_OVER = {NoticeKind.FAILURE: "good again", NoticeKind.STALE: "up to date again"}
#: What is on record.
Record = Mapping[TroubleKey, Known]


def plan_notices(
    record: Record, sight: RunSight, wanted: Collection[NoticeKind], now: datetime
) -> tuple[dict[TroubleKey, Notice], dict[TroubleKey, Known]]:
    """Return the messages that are due, and the record with them.

    :param wanted: the kinds of messages to send.
    :param now: aware.
    """
    due: dict[TroubleKey, Notice] = {}
    new = {key: known for key, known in record.items() if not _is_old(known, now)}
    for trouble in sight.troubles:
        kind, subject = trouble.kind, trouble.subject
        key = TroubleKey(kind, subject.source, subject.destination)
        known = new.get(key)
        if known is None or known.state is TroubleState.OVER:
            known = Known(TroubleState.SILENT, now, known.told if known else None)
        if _is_due(known, trouble, now) and kind in wanted:
            known = replace(known, state=TroubleState.TOLD, told=now)
            text, hint, since = trouble.text, trouble.hint, known.since
            due[key] = Notice(kind, subject, text, hint, since)
        new[key] = known
    for kind, subject in sight.good:
        key = TroubleKey(kind, subject.source, subject.destination)
        known = new.get(key)
        if known is None or known.state is TroubleState.OVER:
            continue
        if known.state is TroubleState.TOLD and NoticeKind.RECOVERY in wanted:
            over = _OVER[kind]
            due[key] = Notice(NoticeKind.RECOVERY, subject, over, "", known.since)
        new[key] = replace(known, state=TroubleState.OVER)
    return due, new


def _is_old(known: Known, now: datetime) -> bool:
    return now - (known.told or known.since) > FORGOTTEN


def _is_due(known: Known, trouble: Trouble, now: datetime) -> bool:
    """Return whether a trouble is to be told now. A clock may have gone wrong."""
    if abs(now - known.since) < trouble.patience:
        return False
    return known.told is None or abs(now - known.told) >= AGAIN


class Outcome(Value):
    """What a run did for a volume.

    :ivar targets: each subject with the place as events name it.
    :ivar events: in their order.
    """

    subject: Affected
    targets: tuple[tuple[Affected, str], ...]
    events: tuple[Event, ...]


def find_failures(outcomes: Iterable[Outcome], run: Iterable[Failed]) -> RunSight:
    """Return which volumes and targets failed, and which are good.

    What was left out, say because it is away, is neither. Where another run is at work,
    this one failed only if that lasts.

    :param run: the failures of the whole run.
    """
    troubles = [Trouble(NoticeKind.FAILURE, RUN, e.message, e.hint) for e in run][:1]
    good = [] if troubles else [(NoticeKind.FAILURE, RUN)]
    for outcome in outcomes:
        places = dict((place, subject) for subject, place in outcome.targets)
        failed: dict[Affected, Trouble] = {}
        done: set[Affected] = set()
        for event in outcome.events:
            match event:
                case Failed():
                    subject = places.get(event.place, outcome.subject)
                    text = event.message
                    if subject.destination:  # of a command only the scheme
                        secret = visible(event.place)
                        text = text.replace(secret, visible(subject.destination))
                    is_busy = event.exit_status == Busy.exit_status
                    trouble = Trouble(
                        NoticeKind.FAILURE,
                        subject,
                        text,
                        event.hint,
                        BUSY if is_busy else timedelta(),
                    )
                    if subject not in failed or failed[subject].patience:
                        failed[subject] = trouble
                case Sent() | UpToDate():
                    done.add(places.get(event.destination, outcome.subject))
                    done.add(outcome.subject)
                case Snapshotted():
                    done.add(outcome.subject)
        troubles += failed.values()
        good += [(NoticeKind.FAILURE, each) for each in done if each not in failed]
    return RunSight(tuple(troubles), tuple(good))


class Age(Value):
    """The newest backup of a volume at a target.

    :ivar made: its time; None if no backup is known.
    :ivar limit: the age that it may have.
    """

    subject: Affected
    made: datetime | None
    limit: timedelta


def find_stale(ages: Iterable[Age], now: datetime) -> RunSight:
    """Return which targets have no backup that is young enough.

    A target without any has all the time that a backup may be old.
    """
    troubles, good = [], []
    for one in ages:
        if one.made is None:
            text, patience = "no backup is known", one.limit
        elif now - one.made > one.limit:
            age, limit = format_age(now - one.made), format_age(one.limit)
            text, patience = f"the newest backup is {age} old, not {limit}", timedelta()
        else:
            good.append((NoticeKind.STALE, one.subject))
            continue
        trouble = Trouble(NoticeKind.STALE, one.subject, text, patience=patience)
        troubles.append(trouble)
    return RunSight(tuple(troubles), tuple(good))


class Message(Value):
    """One message with all that is due.

    :ivar title: one line.
    :ivar text: the lines below it.
    """

    title: str
    text: str
    notices: tuple[Notice, ...]


def compose(notices: Sequence[Notice], host: str, now: datetime) -> Message:
    """Return the message about troubles.

    :param now: aware.
    """
    about_each = {(_WORDS[notice.kind], notice.subject) for notice in notices}
    if len(about_each) == 1:
        about = " ".join(f"{subject} {word}" for word, subject in about_each)
    else:
        counts = {
            word: sum(w == word for w, _ in about_each) for word in _WORDS.values()
        }
        about = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    lines = [line for notice in notices for line in _lines(notice, now)]
    return Message(
        f"btrfs-backup-ng on {visible(host)}: {about}",
        "\n".join([*lines, "", "More:  btrfs-backup-ng log --since 1d", ""]),
        tuple(notices),
    )


_WORDS = {
    NoticeKind.FAILURE: "failed",
    NoticeKind.RECOVERY: "recovered",
    NoticeKind.STALE: "stale",
}


def _lines(notice: Notice, now: datetime) -> Iterator[str]:
    lasts = now - notice.since
    if notice.kind is NoticeKind.RECOVERY:
        yield f"{notice.subject}: {notice.text}, after {format_age(lasts)}"
        return
    since = f", for {format_age(lasts)}" if lasts >= timedelta(minutes=1) else ""
    yield f"{notice.subject}: {_WORDS[notice.kind]}{since}"
    for line in (*notice.text.splitlines(), *notice.hint.splitlines()):
        yield f"  {visible(line.strip())}"
