"""The command ``benchmarks/run``: choose cases, run them, write the results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench, Failed
from benchmarks.cases import (
    CASES,
    alone,
    btrbk,
    cuts,
    diff,
    fleet,
    look,
    transfers,
    verify,
)
from benchmarks.slow import NotPossible

__all__ = [
    "alone",
    "btrbk",
    "cuts",
    "diff",
    "fleet",
    "look",
    "main",
    "transfers",
    "verify",
]

#: Part of the real sizes in a quick run.
_QUICK = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen cases; the status is 0 if all reached their aims."""
    options = _read_options(argv)
    if options.list:
        print("\n".join(CASES))
        return 0
    if os.geteuid() != 0:
        print("this makes and mounts filesystems, which needs root", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    machine = report.describe_machine()
    print(machine.text, flush=True)
    results, failed = [], 0
    with Bench(options.pairs, options.scale) as bench:
        for name in options.only or CASES:
            try:
                result = CASES[name](bench)
            except NotPossible as reason:
                print(f"{name}: SKIPPED: {reason}", flush=True)
                continue
            except (Failed, AssertionError):
                print(f"{name}: FAILED:\n{traceback.format_exc()}", flush=True)
                failed += 1
                continue
            results.append(result)
            print(report.line(result), flush=True)
            if options.output:
                report.write(options.output, machine, results, options.scale)
    return int(bool(failed) or not all(result.is_reached for result in results))


def _read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/run", description="Compare the program with other ways."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="like --scale 0.05 --pairs 2")
    add("--scale", type=float, help="of all sizes; nothing is written (default: 1)")
    add("--pairs", type=int, help="runs of each way (default: 5)")
    add("--only", action="append", metavar="CASE", help="a name, or a beginning of it")
    add("--list", action="store_true", help="print the names of all cases")
    add("--output", type=Path, metavar="DIRECTORY", help="for the results")
    options = parser.parse_args(argv)
    options.pairs = options.pairs or (2 if options.quick else 5)
    options.scale = options.scale or (_QUICK if options.quick else 1.0)
    if options.scale == 1.0 and not options.output:
        options.output = Path(__file__).parent
    if options.only:
        chosen = [n for n in CASES if any(n.startswith(only) for only in options.only)]
        if not chosen:
            parser.error(f"no such case: {', '.join(options.only)}")
        options.only = chosen
    return options
