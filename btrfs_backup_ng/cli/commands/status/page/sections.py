"""The sections of the page, in the order in which a person asks."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from btrfs_backup_ng.__util__ import format_age, format_size
from btrfs_backup_ng.actions.status import Word
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.commands.status.page import charts
from btrfs_backup_ng.cli.commands.status.page.html import Html, clipped, joined, tag
from btrfs_backup_ng.cli.commands.status.page.view import (
    Checked,
    Disk,
    PageView,
    Problem,
    Restorable,
)
from btrfs_backup_ng.cli.commands.status.view import StatusEntry

_FEWEST_POSITIONS = 20
_POSITIONS = 200


def verdict(entries: Sequence[StatusEntry], now: datetime) -> str:
    """Return the state of everything in one sentence."""
    bad = [entry for entry in entries if not entry.is_fine(now)]
    count = len(entries)
    ages = [age for entry in entries if (age := entry.age(now)) is not None]
    if not entries:
        return "Nothing has been backed up yet."
    if not bad:
        oldest = f"; the oldest backup is {format_age(max(ages))} old" if ages else ""
        if count == 1:
            return f"All is well{oldest.replace('oldest', 'newest')}."
        return f"All {count} are well{oldest}."
    first, *others = bad
    title = clipped(first.title, 60)
    more = f", and {len(others)} more" if others else ""
    if count == 1:
        return f"{title} {_trouble(first, now)}."
    start = f"{len(bad)} of {count} need" + ("s you" if len(bad) == 1 else " you")
    return f"{start}: {title} {_trouble(first, now)}{more}."


def _trouble(entry: StatusEntry, now: datetime) -> str:
    """Return what is wrong, behind the name of the entry."""
    age = entry.age(now)
    old = format_age(age) if age is not None else ""
    match entry.word:
        case Word.AWAY:
            return f"is away; its last backup is {old} old" if old else "is away"
        case Word.NEVER:
            return "has no backup yet"
        case Word.FAILED:
            return "failed in its last run"
        case Word.WAITING:
            return "has an interrupted transfer"
        case _:
            return f"has had no new backup for {old or 'a long time'}"


def freshness(view: PageView) -> Html:
    """Return the table of the volumes and their targets."""
    volumes = list(dict.fromkeys(entry.volume for entry in view.entries))
    targets = list(dict.fromkeys(entry.target for entry in view.entries))
    if volumes == [""]:
        rows = [
            tag("tr", tag("th", entry.place, scope="row"), _cell([entry], view))
            for entry in view.entries
        ]
        return _section("Freshness", "", _table(["Place", "State"], rows))
    rows = []
    for volume in volumes:
        cells = []
        for target in targets:
            at = [e for e in view.entries if (e.volume, e.target) == (volume, target)]
            cells.append(_cell(at, view))
        rows.append(tag("tr", tag("th", volume, scope="row"), *cells))
    heads = ["Volume", *(target or "only snapshots" for target in targets)]
    note = "The newest complete backup of each volume, as found at each target."
    return _section("Freshness", note, _table(heads, rows))


def _cell(entries: Sequence[StatusEntry], view: PageView) -> Html:
    """Return the cell of a volume at a target, to which it may not go."""
    if not entries:
        return tag("td", tag("span", "–", class_="small"))
    parts: list[Html] = []
    for entry in entries:
        is_fine, age = entry.is_fine(view.now), entry.age(view.now)
        kind = "" if entry.word not in (Word.AWAY, Word.RUNNING) else " calm"
        state = "state" + (kind if is_fine else " bad")
        old = "no backup" if age is None else f"{format_age(age)} old"
        parts.append(tag("span", entry.word.value, class_=state))
        limit = entry.max_age
        old += f", {format_age(limit)} allowed" if limit else ""
        parts.append(tag("span", old, class_="small"))
        if age is not None and limit:
            parts.append(charts.fresh(age / limit, is_fine))
    return tag("td", *parts)


def retention(view: PageView) -> Html:
    """Return the timelines, with a legend."""
    scale = charts.scale_of(view.lanes, view.now)
    most = max(charts.DOTS // max(len(view.lanes), 1), _FEWEST_POSITIONS)
    rows: list[Html] = []
    for lane in view.lanes:
        about = (
            f"{len(lane.dots)}, {lane.policy}" if lane.policy else f"{len(lane.dots)}"
        )
        name = tag("h3", clipped(lane.title, 60))
        more = tag("span", lane.trouble or about, class_="small")
        rows.append(tag("div", name, more))
        drawn = charts.timeline(lane, scale, view.now, min(most, _POSITIONS))
        rows.append(tag("div", drawn))
    rows += [tag("span"), charts.axis(scale)]
    legend = tag("ul", *map(_legend, charts.KINDS), class_="legend")
    note = (
        "Each dot is a snapshot, the newest at the right; point at it for the reason."
    )
    grid = tag("div", *rows, class_="lanes")
    return _section("What stays, and what goes", note, _card(grid, legend))


def _legend(kind: str) -> Html:
    marks = [tag("circle", class_=kind, cx=8, cy=8, r=6 if kind == "needed" else 4)]
    if kind == "needed":
        marks.append(tag("circle", class_="kept", cx=8, cy=8, r=3))
    sign = tag("svg", *marks, width=16, height=16, aria_hidden="true")
    return tag("li", sign, charts.KINDS[kind])


def transfers(view: PageView) -> Html:
    """Return the drawing of the last runs."""
    runs = list(view.runs)
    if not runs:
        return _section("Transfers", "No run is on record on this machine.", Html())
    failed = sum(bool(run.errors) for run in runs)
    sent = format_size(sum(run.size_bytes or 0 for run in runs))
    note = f"The last {len(runs)} runs: {sent} sent, {failed} failed (✕)."
    note += " Bars are bytes and dots below them seconds, both on a logarithmic scale."
    first, last = (wording.exact(run.time) for run in (runs[0], runs[-1]))
    ends = tag("div", tag("span", first), tag("span", last), class_="ends")
    return _section("Transfers", note, _card(charts.transfers(runs), ends))


def space(view: PageView) -> Html:
    """Return the disks, and the forecasts of the next backups."""
    parts = [_disk(disk) for disk in view.disks]
    card = _card(tag("div", *parts, class_="disks")) if parts else Html()
    rows = [
        tag("tr", tag("th", title, scope="row"), tag("td", clipped(text, 300)))
        for title, text in view.next_backups.items()
    ]
    following = _table(["Next backup", "Forecast"], rows) if rows else Html()
    return _section("Space", "", card, following)


def _disk(disk: Disk) -> Html:
    size = disk.size_free + disk.size_used
    text = f"{format_size(disk.size_free)} free of {format_size(size)}"
    if disk.daily_bytes is not None:
        text += f"; {format_size(disk.daily_bytes)} a day arrive"
        if disk.lasts:
            text += f", so it is full in {_long(disk.lasts)} if nothing is deleted"
    names = ", ".join(clipped(place, 60) for place in disk.places[:6])
    more = f" and {len(disk.places) - 6} more" if len(disk.places) > 6 else ""
    return tag("div", tag("h3", names + more), charts.disk(disk), tag("p", text))


def _long(span: timedelta) -> str:
    """Return a span of the future, which is not known to the day."""
    days = span.days
    if days < 60:
        return f"about {max(days, 1)} days"
    return (
        f"about {days / 30.4:.0f} months" if days < 1000 else f"{days / 365:.0f} years"
    )


def checks(view: PageView) -> Html:
    """Return the table of verifications."""
    rows = [_checked(one, view.now) for one in view.checks]
    heads = ["", "Identity", "Contents", "Restored for a test", "Bad"]
    return _section("Verified", "", _table(heads, rows))


def _checked(one: Checked, now: datetime) -> Html:
    cells = []
    for level in ("identity", "data", "restore-test"):
        if level in one.good:
            count, when = one.good[level]
            text = f"{count} of {one.count}"
            ago = tag("span", wording.ago(when, now), class_="small")
            cells.append(tag("td", text, ago))
        else:
            cells.append(tag("td", tag("span", "never", class_="small")))
    bad = ", ".join(clipped(name, 60) for name in one.bad[:5])
    bad += f" and {len(one.bad) - 5} more" if len(one.bad) > 5 else ""
    state = tag("span", bad, class_="state bad") if bad else tag("span", "none")
    return tag("tr", tag("th", one.title, scope="row"), *cells, tag("td", state))


def problems(view: PageView) -> Html:
    """Return what is wrong, each with the commands that fix it."""
    if not view.problems:
        return _section("Problems", "None.", Html())
    return _section("Problems", "", *map(_problem, view.problems))


def _problem(problem: Problem) -> Html:
    lines = [tag("p", clipped(text, 600)) for text in problem.texts]
    commands = [_command(line) for line in problem.commands]
    return _card(tag("h3", problem.title), *lines, *commands, kind=" problem")


def _command(line: str) -> Html:
    """Return a line, in front of the command of which there may be words."""
    words, colon, command = line.partition(":  ")
    if not colon:
        return tag("pre", line)
    return Html(tag("p", f"{words}:") + tag("pre", command))


def restoring(view: PageView) -> Html:
    """Return the commands that restore backups."""
    parts = [_restorable(one) for one in view.restorable]
    note = "A click marks a command. It restores into the current directory, which must"
    note += " be on btrfs; with --file NAME only one file."
    return _section("Restore", note, _card(*parts) if parts else Html())


def _restorable(one: Restorable) -> Html:
    items: list[Html] = []
    for name, moment, line in one.commands:
        items.append(tag("dt", f"{clipped(name)}, {wording.exact(moment)}"))
        items.append(tag("dd", tag("pre", line)))
    rest = one.count - len(one.commands)
    if rest:
        items.append(tag("dt", f"{rest} more are listed by"))
        items.append(tag("dd", tag("pre", one.list_line)))
    count = tag("span", f" {one.count} backups" if one.count != 1 else " 1 backup")
    return tag("details", tag("summary", one.title, count), tag("dl", *items))


def _section(title: str, note: str, *content: Html) -> Html:
    remark = [tag("p", note, class_="note")] if note else []
    return tag("section", tag("h2", title), *remark, joined(content))


def _card(*content: Html, kind: str = "") -> Html:
    return tag("div", *content, class_=f"card{kind}")


def _table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    head = tag("thead", tag("tr", *(tag("th", each, scope="col") for each in heads)))
    inside = tag("table", head, tag("tbody", *rows))
    return _card(inside, kind=" scroll")
