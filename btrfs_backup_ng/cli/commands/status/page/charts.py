"""The drawings of the page: timelines, bars of transfers, bars of disks.

Horizontal positions are percentages and vertical ones pixels, so a drawing has any
width and its text, dots and lines keep their size.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from btrfs_backup_ng.__util__ import format_age, format_size, format_span
from btrfs_backup_ng.cli import wording
from btrfs_backup_ng.cli.commands.status.page.html import Html, clipped, tag
from btrfs_backup_ng.cli.commands.status.page.view import Disk, Dot, Lane
from btrfs_backup_ng.session.history import PastRun

#: Dots on a page at most, so that it stays small; nearer ones are drawn as one.
DOTS = 600
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_TICKS = (
    ("1 h", _HOUR),
    ("1 day", _DAY),
    ("1 week", 7 * _DAY),
    ("1 month", 30 * _DAY),
    ("1 year", 365 * _DAY),
    ("10 years", 3650 * _DAY),
)
#: Those without a name on a narrow screen.
_MINOR = ("1 week", "10 years")
#: Kinds of dots in the order in which they are drawn, and their words.
KINDS = {
    "gone": "to be deleted",
    "kept": "kept",
    "needed": "needed as parent",
}
_LANE_HEIGHT = 34
#: Left and right of the first and the last dot, in percent.
_MARGIN = 1.5
#: Where there is room for a tick beside that of the oldest snapshot.
_FIRST_TICK = 16


class Scale:
    """Ages as percentages of the width: the present is right, and old is near."""

    def __init__(self, oldest: timedelta) -> None:
        self.oldest = max(oldest, _DAY)

    def at(self, age: timedelta) -> float:
        """Return the position of an age."""
        part = self._log(age) / self._log(self.oldest)
        return 100 - _MARGIN - min(max(part, 0.0), 1.0) * (100 - 2 * _MARGIN)

    @staticmethod
    def _log(age: timedelta) -> float:
        return math.log1p(max(age / _HOUR, 0.0))


def scale_of(lanes: Iterable[Lane], now: datetime) -> Scale:
    """Return the scale on which all dots fit."""
    every = [dot.snapshot.created for lane in lanes for dot in lane.dots]
    return Scale(max((now - made for made in every if made), default=_DAY))


def axis(scale: Scale) -> Html:
    """Return the axis of the timelines."""
    marks = [_tick("now", 100 - _MARGIN, "end")]
    marks += [
        _tick(text, x, "middle", "minor" if text in _MINOR else "")
        for text, age in _TICKS
        if age > _HOUR and (x := scale.at(age)) > _FIRST_TICK
    ]
    marks.append(_tick(format_age(scale.oldest), _MARGIN, "start"))
    return tag(
        "svg", *marks, class_="axis", width="100%", height=18, aria_hidden="true"
    )


def _tick(text: str, x: float, anchor: str, kind: str = "") -> Html:
    return tag("text", text, class_=kind, x=f"{x:.1f}%", y=12, text_anchor=anchor)


def timeline(lane: Lane, scale: Scale, now: datetime, most: int) -> Html:
    """Return the drawing of a lane.

    :param most: number of positions; dots at the same one are drawn as one.
    """
    y = _LANE_HEIGHT // 2
    lines = [
        tag("line", x1=f"{x:.1f}%", x2=f"{x:.1f}%", y1=4, y2=_LANE_HEIGHT - 4)
        for _, age in _TICKS
        if age > _HOUR and (x := scale.at(age)) > _MARGIN
    ]
    lines.append(tag("line", x1="0", x2="100%", y1=y, y2=y))
    marks = [_mark(*each, now) for each in _places(lane, scale, now, most)]
    counts = Counter(dot.kind for dot in lane.dots)
    words = ", ".join(f"{counts[kind]} {KINDS[kind]}" for kind in KINDS if counts[kind])
    return tag(
        "svg",
        *lines,
        *marks,
        class_="lane",
        width="100%",
        height=_LANE_HEIGHT,
        role="img",
        aria_label=f"{lane.title}: {words or 'nothing'}",
    )


def _places(
    lane: Lane, scale: Scale, now: datetime, most: int
) -> Iterator[tuple[str, float, list[Dot]]]:
    """Yield each kind, position, and the dots that are drawn there."""
    found: dict[tuple[str, int], list[Dot]] = {}
    for dot in lane.dots:
        if dot.snapshot.created is not None:
            x = scale.at(now - dot.snapshot.created)
            found.setdefault((dot.kind, round(x / 100 * most)), []).append(dot)
    order = [*KINDS]
    for (kind, step), dots in sorted(found.items(), key=lambda i: order.index(i[0][0])):
        yield kind, step / most * 100, dots


def _mark(kind: str, x: float, dots: Sequence[Dot], now: datetime) -> Html:
    """Return a dot; its form says its kind without any colour."""
    title = tag("title", _hover(kind, dots, now))
    size = 3.0 + min(math.log2(len(dots)) / 3, 2.0)
    shown = {"class_": kind, "cx": f"{x:.1f}%", "cy": _LANE_HEIGHT // 2}
    if kind == "needed":
        ring = tag("circle", **shown, r=f"{size + 2.5:.1f}")
        return tag("g", ring, tag("circle", **{**shown, "class_": "kept"}, r=3), title)
    return tag("circle", title, **shown, r=f"{size:.1f}")


def _hover(kind: str, dots: Sequence[Dot], now: datetime) -> str:
    """Return the text that is shown for dots at one position."""
    newest = dots[-1].snapshot
    age = wording.ago(newest.created, now)
    reasons = Counter(why for dot in dots for why in dot.reasons)
    if len(dots) == 1:
        why = ", ".join(reasons)
        start = f"{clipped(newest.name)}, {age}"
    else:
        why = ", ".join(f"{word} {n}" for word, n in _by_rule(reasons).items())
        start = f"{len(dots)} of them, up to {clipped(newest.name)}, {age}"
    return clipped(f"{start}: {KINDS[kind]}" + (f" ({why})" if why else ""), 200)


def _by_rule(reasons: Counter[str]) -> Counter[str]:
    """Count the rules, without the periods for which they keep snapshots."""
    found: Counter[str] = Counter()
    for reason, count in reasons.items():
        found[reason.split()[0]] += count
    return found


_BARS, _TOP = 60, 74
_TIMES = 34


def transfers(runs: Sequence[PastRun]) -> Html:
    """Return the drawing of runs: a bar for the bytes, a dot below for the seconds.

    :param runs: the oldest first, at most so many as there is room for.
    """
    bytes_most = max((run.size_bytes or 0 for run in runs), default=0)
    seconds_most = max((run.elapsed_s for run in runs), default=0.0)
    step = 100 / _BARS
    marks: list[Html] = []
    for number, run in enumerate(runs, _BARS - len(runs)):
        x = number * step
        marks.append(_run(run, x, step, bytes_most, seconds_most))
    floor = tag("line", x1="0", x2="100%", y1=_TOP, y2=_TOP)
    words = f"{len(runs)} runs, {sum(bool(run.errors) for run in runs)} failed"
    return tag(
        "svg",
        floor,
        *marks,
        class_="runs",
        width="100%",
        height=_TOP + _TIMES,
        role="img",
        aria_label=words,
    )


def _run(
    run: PastRun, x: float, step: float, bytes_most: int, seconds_most: float
) -> Html:
    middle = f"{x + step / 2:.2f}%"
    parts = [tag("title", _run_hover(run))]
    # The whole column takes the pointer, as a bar may have no height.
    place = {"x": f"{x:.2f}%", "width": f"{step:.2f}%"}
    parts.append(tag("rect", class_="column", y=0, height=_TOP + _TIMES, **place))
    if run.size_bytes:
        height = max(_part(run.size_bytes, bytes_most) * (_TOP - 8), 2)
        bar = {"x": f"{x + step * 0.18:.2f}%", "width": f"{step * 0.64:.2f}%"}
        y = f"{_TOP - height:.1f}"
        parts.append(tag("rect", class_="bar", y=y, height=f"{height:.1f}", **bar))
    if run.elapsed_s:
        y = f"{_TOP + 8 + _part(run.elapsed_s, seconds_most) * (_TIMES - 13):.1f}"
        parts.append(tag("circle", class_="seconds", cx=middle, cy=y, r=2))
    if run.errors:
        parts.append(
            tag(
                "text", "✕", class_="failed", x=middle, y=_TOP - 4, text_anchor="middle"
            )
        )
    return tag("g", *parts)


def _part(value: float, most: float) -> float:
    """Return the height of a value, from 0 to 1, so that small ones are seen, too."""
    return math.log1p(value) / math.log1p(most) if most else 0.0


def _run_hover(run: PastRun) -> str:
    what = f"{wording.exact(run.time)}, {clipped(run.source)}"
    size = "size unknown" if run.size_bytes is None else format_size(run.size_bytes)
    if run.sent:
        what += f": {run.sent} sent, {size} in {format_span(run.elapsed_s)}"
    elif not run.errors:
        what += ": nothing to send"
    if run.errors:
        what += f"; failed: {clipped(run.errors[-1], 160)}"
    return what


def disk(one: Disk) -> Html:
    """Return the bar of a disk: used, free."""
    size = one.size_used + one.size_free
    part = 100 * one.size_used / size if size else 0.0
    return tag(
        "svg",
        tag("rect", class_="free", width="100%", height=10, rx=5),
        tag("rect", class_="used", width=f"{part:.1f}%", height=10, rx=5),
        class_="disk",
        width="100%",
        height=10,
        role="img",
        aria_label=f"{part:.0f} % used",
    )


def fresh(part: float, is_fine: bool) -> Html:
    """Return the bar of an age: how much of the allowed one is over.

    :param part: from 0 to 1.
    """
    return tag(
        "svg",
        tag("rect", class_="free", width="100%", height=4, rx=2),
        tag(
            "rect",
            class_="used" if is_fine else "late",
            width=f"{100 * min(part, 1):.0f}%",
            height=4,
            rx=2,
        ),
        class_="age",
        width="100%",
        height=4,
        aria_hidden="true",
    )
