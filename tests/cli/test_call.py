"""One call of the program."""

from __future__ import annotations

import time

import pytest

from btrfs_backup_ng.cli.call import read_call
from btrfs_backup_ng.cli.commands.list import build_parser
from btrfs_backup_ng.cli.parser import parse_places
from btrfs_backup_ng.host import clock


def test_ages_count_back_from_the_clock_by_which_runs_are_dated(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv(clock.VARIABLE, "-3600")
    call = read_call(["list"], [parse_places(build_parser(), [])])
    assert call and abs(call.now.timestamp() - time.time() + 3600) < 5
    assert call.now.utcoffset() is not None
