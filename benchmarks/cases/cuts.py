"""Interruptions of a large transfer at random points, and the bytes sent again.

A subvolume of 2 GB is sent to another filesystem in full, then a change of 1 GB with
reflinks. The program runs in a network namespace of its own, and the counter of the
cable between it and the server shows the true number of bytes on the wire. Each
interruption is of another kind: an end of ssh, of ``btrfs receive``, of the program, or
the cable itself. Then the next plain run is started, and so on. At the end content,
received UUIDs and reflinks are compared, and a plain ``btrfs send -p`` must be able to
continue.

The cost of an interruption is the number of bytes on the wire since the beginning of
the stream, minus the offset at which the next run resumes. That may be an interval, and
the data on its way: sent but not arrived, or arrived but not written.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.bench import GIB, MIB, Bench, Cost, Result
from benchmarks.cases import Case, case
from tests.faults import cutting
from tests.support import processes, sshd, trees
from tests.support.program import finish
from tests.support.scene import Scene

_CUTS, _SIZE, _INTERVAL, _RATE = 20, 2 * GIB, 64 * MIB, 150 * MIB
#: Overhead on the wire, beside the stream: ssh, TCP and Ethernet.
FRAMING = 0.03
#: Limit on the data on its way: two pipes of 1 MiB, the window of an ssh channel (2
#: MiB), two socket buffers (tcp_wmem, tcp_rmem), the pipes of sshd and the shells.
ON_ITS_WAY = 16 * MIB


class _Plan(NamedTuple):
    """The numbers of one case."""

    cuts: int
    size: int
    interval: int
    seed: int


@case("cuts-local", "20 interruptions of 3 GB, local")
def cuts_local(bench: Bench, name: Case) -> Result:
    return _interrupt(bench, name, is_local=True)


@case("cuts-ssh", "20 interruptions of 3 GB, ssh")
def cuts_over_ssh(bench: Bench, name: Case) -> Result:
    return _interrupt(bench, name, is_local=False)


@case("cuts-zstd-ssh", "20 interruptions of 3 GB on zstd, ssh")
def cuts_compressed(bench: Bench, name: Case) -> Result:
    return _interrupt(bench, name, "compress-force=zstd:1", is_local=False)


def _interrupt(bench: Bench, name: Case, *mount: str, is_local: bool) -> Result:
    seed = random.randrange(10**6)
    size, interval = bench.scaled(_SIZE), max(2 * MIB, bench.scaled(_INTERVAL))
    plan = _Plan(max(3, bench.scaled(_CUTS)), size, interval, seed)
    dice, began = random.Random(seed), time.monotonic()
    print(f"{name[0]}: seed {seed}")
    with contextlib.ExitStack() as stack:
        # The program's children must not be ended by a terminal that is gone.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        one = stack.enter_context(bench.filesystem(*mount))
        other = stack.enter_context(bench.filesystem(*mount))
        scene = Scene(one, other)
        scene.options += ["--checkpoint-interval", str(plan.interval)]
        way: _Way = _Local(scene)
        if not is_local:
            way = _Wire(scene, stack.enter_context(cutting.laid_line(_server(stack))))
        unit = plan.size // 15 // 4096 * 4096
        cutting.plant(scene.source, seed=seed, unit=unit, is_varied=True)
        _crowd(scene.source / "many", bench.scaled(20000))
        full = round(plan.cuts * 2 / 3)
        costs = _transfer(way, full, dice, plan)
        unit = plan.size // 22 // 4096 * 4096
        cutting.alter(scene.source, seed=seed, unit=unit)
        _recrowd(scene.source / "many")
        costs += _transfer(way, plan.cuts - full, dice, plan)
    note = _sum_up(costs, plan)
    elapsed_s = time.monotonic() - began
    return Result(*name, "", (Cost(elapsed_s, 0.0, 0),), note=note)


def _server(stack: contextlib.ExitStack) -> Callable[[Sequence[str]], sshd.Sshd]:
    return lambda config: stack.enter_context(sshd.running_sshd(config=config))


def _crowd(directory: Path, count: int) -> None:
    """Make many small files, some of which compress well."""
    for number in range(count):
        path = directory / f"{number // 1000}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = number % 7000
        path.write_bytes(
            b"%d " % number * (size // 8) if number % 3 else os.urandom(size)
        )
    with open(directory / "sparse", "wb") as file:
        for start in range(0, GIB // 4, GIB // 32):
            file.seek(start)
            file.write(os.urandom(4096))


def _recrowd(directory: Path) -> None:
    """Rename, replace and remove some of the files, and link others."""
    for part in sorted(directory.iterdir()):
        if part.is_dir():
            for path in sorted(part.iterdir())[::7]:
                path.rename(directory / f"moved {path.name}")
            for path in sorted(part.iterdir())[::11]:
                path.write_bytes(os.urandom(3000))
            for path in sorted(part.iterdir())[::13]:
                path.unlink()
            part.rename(part.with_name(f"renamed {part.name}"))
    for path in sorted(directory.glob("moved *"))[::5]:
        os.link(path, path.with_name(f"linked {path.name}"))
    trees.punch_hole(os.fsencode(directory / "sparse"), GIB // 32, 4096)


class _Way:
    """The start of a run, its progress, and the ways to interrupt it."""

    cuts: dict[str, cutting.Cut]

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start a run."""
        self.began = time.monotonic()
        return self.scene.start(*more)

    def moved(self) -> int:
        """Count the bytes moved since the run was started."""
        raise NotImplementedError

    def repair(self) -> None:
        """Repair the damage of an interruption outside the run itself."""


class _Local(_Way):
    cuts = cutting.LOCAL_CUTS

    def start(self, *more: str) -> subprocess.Popen[str]:
        self._read: dict[int, int] = {}
        return super().start(*more)

    def moved(self) -> int:
        receive = self.scene.worker("btrfs", "receive")
        if receive:
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{receive.pid}/io").read_text().split()
                self._read[receive.pid] = int(words[1])  # rchar
        return sum(self._read.values())


class _Wire(_Way):
    def __init__(self, scene: Scene, line: cutting.Line) -> None:
        super().__init__(scene)
        self._line = line
        line.connect(scene)
        self.cuts = {**cutting.SSH_CUTS, "the cable pulled": self._pull}

    def start(self, *more: str) -> subprocess.Popen[str]:
        self._before = self._line.arrived()
        return self._line.start(self.scene, *more)

    def moved(self) -> int:
        return self._line.arrived() - self._before

    def _pull(self, scene: Scene, program: subprocess.Popen[str]) -> None:
        self._line.pull()

    def repair(self) -> None:
        self._line.repair()


class _Run(NamedTuple):
    """One run, and how it ended.

    :ivar began: offset in the stream at which it resumed.
    :ivar moved: bytes on the wire by its end, with all framing.
    """

    kind: str
    began: int
    moved: int


class _Again(NamedTuple):
    """The cost of one interruption: bytes sent again, with all framing."""

    kind: str
    again: int


def _transfer(way: _Way, cuts: int, dice: random.Random, plan: _Plan) -> list[_Again]:
    """Send one snapshot, with some interruptions."""
    scene = way.scene
    count = len(scene.backups)
    size = plan.size if not count else plan.size // 2
    points = sorted(dice.randrange(MIB, int(0.9 * size)) for _ in range(cuts))
    kinds = [*way.cuts] * -(-cuts // len(way.cuts))
    dice.shuffle(kinds)
    runs: list[_Run] = []
    safe = 0
    for point, kind in zip(points, kinds, strict=False):
        more = ("-v", "--rate", str(_RATE), *(["-S"] if runs else []))
        with way.start(*more) as program:
            try:
                _wait_for(way, program, max(point - safe, MIB))
                way.cuts[kind](scene, program)
                _watch(way, program)
                done = finish(program)
            finally:
                program.kill()
        assert done.returncode != 0, f"it was over before the cut: {done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        runs.append(_Run(kind, _went_on_at(done), way.moved()))
        way.repair()
        assert len(scene.backups) == count, "something was published"
        safe = max((body.offset for body in cutting.bodies(scene)), default=0)
    with way.start("-v", "--json", "-S") as program:
        _watch(way, program)
        done = finish(program)
    (transfer,) = cutting.sent(done)
    runs.append(_Run("", transfer.resumed, way.moved()))
    assert transfer.resumed >= safe, (transfer, safe)
    costs = [
        _Again(run.kind, run.began + run.moved - after.began)
        for run, after in zip(runs, runs[1:], strict=False)
    ]
    _print(runs, costs, cutting.stream_size(scene, transfer))
    began = time.monotonic()
    cutting.check_arrived(scene)
    cutting.check_plain_send_goes_on(scene)
    print(f"content, UUIDs and reflinks are right ({time.monotonic() - began:.0f} s)")
    return costs


def _went_on_at(done: subprocess.CompletedProcess[str]) -> int:
    found = re.search(r"resuming at byte (\d+)", done.stderr)
    return int(found[1]) if found else 0


def _print(runs: list[_Run], costs: list[_Again], whole: int) -> None:
    print(f"{'MiB:':>32} from   moved   again")
    for run, cost in zip(runs, costs, strict=False):
        numbers = (run.began, run.moved, cost.again)
        columns = " ".join(f"{number / MIB:7.1f}" for number in numbers)
        print(f"  {run.kind:26} {columns}")
    last = runs[-1]
    print(f"  {'completed':26} {last.began / MIB:7.1f} {last.moved / MIB:7.1f}")
    total = sum(run.moved for run in runs)
    print(
        f"{whole / MIB:.1f} MiB in all; {total / MIB:.1f} moved, {total / whole:.2f} of"
        " that",
        flush=True,
    )
    assert last.moved <= (whole - last.began) * (1 + FRAMING) + ON_ITS_WAY


def _wait_for(way: _Way, program: subprocess.Popen[str], size: int) -> int:
    """Wait until this much has moved, and some of the stream with it."""

    def moved() -> int:
        assert program.poll() is None, f"it ended before its cut: {finish(program)}"
        return way.moved()

    processes.wait_until(lambda: way.scene.worker("btrfs", "receive"), 300)
    processes.wait_until(lambda: moved() >= size, 300, interval_s=0.003)
    return moved()


def _watch(way: _Way, program: subprocess.Popen[str]) -> None:
    """Watch values that end with the process, until it ends."""
    if isinstance(way, _Local):
        while program.poll() is None or way.scene.worker("btrfs", "receive"):
            way.moved()
            time.sleep(0.003)


def _sum_up(costs: list[_Again], plan: _Plan) -> str:
    """Return the bytes sent again, in words.

    They are an interval at most, and the data on its way.
    """
    worst = max(costs, key=lambda cost: cost.again)
    median = statistics.median(cost.again for cost in costs)
    limit = int(plan.interval * (1 + FRAMING)) + ON_ITS_WAY
    assert worst.again <= limit, f"{worst.again} bytes were sent again: {worst.kind}"
    return (
        f"sent again: at most {worst.again / MIB:.1f} MiB ({worst.kind}), median"
        f" {median / MIB:.1f} MiB; an interval is {plan.interval / MIB:g} MiB"
    )
