"""The results of a run: lines, a document, a table and a chart."""

from __future__ import annotations

import dataclasses
import datetime
import html
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bench import MIB, Aim, Cost, Result, images
from tests.support.program import CHECKOUT

_COLUMNS = (
    *("against", "time", "least to largest", "CPU", "seconds", "of CPU", "memory"),
    *("processes", "connections", "sessions", "note"),
)
# The chart, in pixels: of a bar's row, left of the bars, of a ratio of 1.
_ROW, _LEFT, _UNIT, _WIDTH = 20, 520, 200, 900
#: A longer bar is cut off.
_MOST = 1.7


class Machine(NamedTuple):
    """The machine and the versions, for the results and as one line."""

    facts: dict[str, str]

    @property
    def text(self) -> str:
        """Return it as one line."""
        return "; ".join(f"{key} {value}" for key, value in self.facts.items())


def describe_machine() -> Machine:
    """Return the facts that figures depend on."""
    cpu = re.search(r"^model name\s*: (.*)", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", _read("/proc/meminfo"), re.MULTILINE)
    facts = {
        "commit": _first_line("git", "-C", str(CHECKOUT), "describe", "--always"),
        "date": datetime.date.today().isoformat(),
        "cores": str(len(os.sched_getaffinity(0))),
        "CPU": cpu[1] if cpu else platform.machine(),
        "memory": f"{int(memory[1]) >> 20} GiB" if memory else "",
        "load": f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release(),
        "btrfs-progs": _first_line("btrfs", "--version").removeprefix("btrfs-progs "),
        "ssh": _first_line("ssh", "-V").partition(",")[0],
        "Python": platform.python_version(),
        "btrbk": _first_line("btrbk", "--version").partition(",")[0],
        "disks": "images in memory" if images() else "images on a disk",
    }
    return Machine({key: value for key, value in facts.items() if value})


def _read(path: str) -> str:
    return Path(path).read_text()


def _first_line(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True)
    except OSError:
        return ""
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def line(result: Result) -> str:
    """Return a line about a result, for the terminal."""
    cells = zip(_COLUMNS, _cells(result), strict=True)
    texts = [f"{column} {cell}" for column, cell in cells if cell]
    missed = "" if result.is_reached else "  AIM MISSED"
    return f"{result.name}: {', '.join(texts)}{missed}"


def _cells(result: Result) -> list[str]:
    """Return the columns of a result, behind its title."""
    ratios = result.ratios("elapsed_s")
    return [
        result.peer,
        _ratio(result.median("elapsed_s"), result.aim.wall),
        f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "",
        _ratio(result.median("cpu_s"), result.aim.cpu),
        _medians(result, "elapsed_s", lambda seconds: f"{seconds:.2f} s"),
        _medians(result, "cpu_s", lambda seconds: f"{seconds:.2f} s"),
        _medians(result, "peak_bytes", lambda size: f"{size / MIB:.0f} MiB"),
        _medians(result, "processes", str),
        _medians(result, "connections", str),
        _medians(result, "sessions", str),
        result.note,
    ]


def _ratio(ratio: float | None, limit: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.2f}" + ("" if limit is None else f" (aim {limit:g})")


def _medians(result: Result, what: str, written: Callable[[Any], str]) -> str:
    """Return a median of the program, and that of the peer."""
    texts = []
    for costs in (result.ours, result.theirs):
        values = [getattr(cost, what) for cost in costs]
        if values and None not in values:
            texts.append(written(statistics.median_low(values)))
    return " / ".join(texts)


def write(
    directory: Path, machine: Machine, results: Sequence[Result], scale: float
) -> None:
    """Write the document, the table and the chart; other cases in them stay."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "results.json"
    known = json.loads(path.read_text())["cases"] if path.exists() else []
    fresh = [_to_document(result, machine, scale) for result in results]
    names = {one["name"] for one in fresh}
    kept = [one for one in known if one["name"] not in names]
    cases = kept + fresh
    document = {"version": 1, "machine": machine.facts, "cases": cases}
    path.write_text(json.dumps(document, indent=1) + "\n")
    whole = [_from_document(one) for one in cases]
    (directory / "results.md").write_text(table(machine, whole))
    (directory / "results.svg").write_text(chart(whole))


def _to_document(result: Result, machine: Machine, scale: float) -> dict[str, Any]:
    document = dataclasses.asdict(result)
    load = machine.facts["load"]
    return {**document, "scale": scale, "load": load}


def _from_document(document: dict[str, Any]) -> Result:
    fields = {field.name for field in dataclasses.fields(Result)}
    values = {key: value for key, value in document.items() if key in fields}
    for side in ("ours", "theirs"):
        values[side] = tuple(Cost(**cost) for cost in values[side])
    return Result(**{**values, "aim": Aim(**values["aim"])})


def table(machine: Machine, results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown."""
    rows = [("case", *_COLUMNS), ("---",) * (len(_COLUMNS) + 1)]
    rows += [(result.title, *_cells(result)) for result in results]
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([machine.text, "", *lines, ""])


def chart(results: Sequence[Result]) -> str:
    """Return a chart in SVG: the time of the program, relative to the peer's."""
    rows = [(r, r.median("elapsed_s") or 0.0) for r in results if r.theirs]
    height, one = _ROW * (len(rows) + 2), _LEFT + _UNIT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="{_ROW - 6}">time, relative to the other way (line: 1.0;'
        " shorter is faster)</text>",
        f'<line x1="{one}" y1="{_ROW}" x2="{one}" y2="{height - _ROW + 4}"'
        ' stroke="black"/>',
    ]
    for number, (result, ratio) in enumerate(rows, 1):
        y = number * _ROW + 4
        width = min(ratio, _MOST) * _UNIT
        color = "#2a7f62" if ratio <= 1.05 else "#c05020"
        title = html.escape(f"{result.title} / {result.peer}")
        parts += [
            f'<text x="{_LEFT - 6}" y="{y + 11}" text-anchor="end">{title}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="14"'
            f' fill="{color}"/>',
            f'<text x="{_LEFT + width + 4:.0f}" y="{y + 11}" stroke="white"'
            f' stroke-width="4" paint-order="stroke">{ratio:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
