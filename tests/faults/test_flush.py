"""Data that piles up is flushed beside ``btrfs receive``; little of it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from btrfs_backup_ng.session.turns import SMALL
from tests.support.places import MIB
from tests.support.scene import Scene

pytestmark = pytest.mark.btrfs

#: Stands in for ``timeout``, which ends a second of waiting: ends it at once so many
#: times, with a note, after a condition has come true.
_TIMEOUT = """\
#!/bin/sh
[ "$1" = 1 ] || exec {timeout} "$@"
[ "$(wc -l <{log})" -lt 3 ] || exec cat
{condition}
echo tick >>{log}
exit 124
"""
_SYNC = """\
#!/bin/sh
[ "$1" != -f ] || echo flush >>{log}
exec {sync} "$@"
"""


def _ticking(tmp_path: Path, condition: str) -> tuple[dict[str, str], Path]:
    """Return the changes to the environment, and the log of ticks and flushes."""
    log = tmp_path / "log"
    log.touch()
    for name, text in (("timeout", _TIMEOUT), ("sync", _SYNC)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        text = text.format(
            log=log, condition=condition, timeout="/usr/bin/timeout", sync="/bin/sync"
        )
        path.write_text(text)
        path.chmod(0o755)
    return {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}, log


def test_small_files_are_not_flushed_by_the_clock(scene: Scene, tmp_path: Path) -> None:
    for number in range(300):  # more than a transfer that needs no flushing at all
        (scene.source / f"{number}").write_bytes(os.urandom(number * SMALL // 40_000))
    environment, log = _ticking(tmp_path, ":")
    scene.back_up(env=environment)
    assert log.read_text().split() == 3 * ["tick"]
    scene.check_laws()


def test_data_that_waits_in_memory_is_flushed(scene: Scene, tmp_path: Path) -> None:
    """The kernel itself would wait for half a minute."""
    scene.write(160 * MIB)
    counters = (
        f"/sys/fs/btrfs/{scene.destination_disk.uuid}/allocation/data/bytes_may_use"
    )
    condition = f"[ -s {{log}} ] || while read -r waiting <{counters} &&"
    condition += f' [ "$waiting" -lt {130 * MIB} ]; do sleep 0.05; done'
    environment, log = _ticking(tmp_path, condition.format(log=tmp_path / "log"))
    scene.back_up(env=environment)
    assert log.read_text().split()[:2] == ["tick", "flush"]
    scene.check_laws()
