"""A server that pulls from many hosts, by one configuration."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.bench import MIB, Aim, Bench, Cost, Result, Runner
from benchmarks.cases import Case, case
from tests.support.places import command
from tests.support.program import PROGRAM

_HOSTS = 40


@case("fleet", "40 hosts with a small change each, pulled over ssh by run --jobs 8")
def fleet(bench: Bench, name: Case) -> Result:
    """The hosts are addresses of one server, each a connection of its own."""
    hosts = [f"127.0.0.{number + 1}" for number in range(max(2, bench.scaled(_HOSTS)))]
    with bench.ssh_to(hosts) as server, bench.disk() as one, bench.disk() as two:
        for host in hosts:
            command("btrfs", "-q", "subvolume", "create", one / host)
            (two / host).mkdir()
        changes = 0
        file = bench.directory / "fleet.toml"
        file.write_text(f"""\
ssh-opt = {json.dumps(server.ssh_options[1:])}
[volumes.srv]
each = {json.dumps(hosts)}
source = "ssh://root@{{each}}:{server.port}{one}/{{each}}"
to = "{two}/{{each}}"
""")

        def ours(run: Runner) -> Cost:
            nonlocal changes
            changes += 1
            for host in hosts:
                (one / host / "small").write_text(f"{changes}")
            words = ["run", "-c", str(file), "--jobs", "8"]
            cost = run([*PROGRAM, *words, "-q"])
            _check(two, hosts, changes)
            return cost

        try:
            return bench.race(name, ours, aim=Aim(peak_bytes=150 * MIB))
        finally:
            file.unlink()


def _check(target: Path, hosts: list[str], changes: int) -> None:
    for host in hosts:
        newest = max((target / host).glob("*-2*"))
        assert (newest / "small").read_text() == f"{changes}", newest
