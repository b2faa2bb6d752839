"""A stream and a line are tried before it is decided whether to compress."""

import os

import pytest

from btrfs_backup_ng.__util__ import KIB, MIB
from btrfs_backup_ng.process.command import Command
from btrfs_backup_ng.transfer.probe import line_rate, take_sample
from tests.support.processes import nothing_left_behind


def shell(text):
    return Command(("sh", "-c", text), label="test")


@pytest.mark.parametrize("rate", [2, 16])
def test_the_rate_of_a_line_is_measured(rate):
    with nothing_left_behind():
        found = line_rate(shell(f"exec pv -q -L {rate}M >/dev/null"))
    assert 0.6 * rate < found / MIB < 1.6 * rate


def test_a_fast_line_is_fast():
    assert line_rate(shell("exec cat >/dev/null")) > 100 * MIB


@pytest.mark.parametrize("text", ["exec sleep 60", "exit 1", "exec pv -q -L 10K"])
def test_a_line_that_takes_nothing_is_slow_and_does_not_hang(text):
    with nothing_left_behind():
        assert line_rate(shell(f"{text} >/dev/null")) < MIB


@pytest.mark.parametrize("codec", ["zstd:1", "lz4"])
def test_a_sample_of_a_long_stream_is_limited(codec):
    with nothing_left_behind():
        sample = take_sample(shell("exec cat /dev/zero"), codec)
    assert 64 * MIB <= sample.size_bytes < 65 * MIB
    assert sample.ratio < 0.01 and sample.compress_rate > 20 * MIB


def test_noise_does_not_get_smaller(tmp_path):
    (tmp_path / "noise").write_bytes(os.urandom(3 * MIB))
    sample = take_sample(shell(f"exec cat {tmp_path}/noise"), "zstd:1")
    assert sample.size_bytes == 3 * MIB and 0.98 < sample.ratio < 1.02


def test_the_rate_at_which_a_stream_comes_is_measured():
    sample = take_sample(shell("head -c 8M /dev/zero | exec pv -q -L 4M"), "zstd:1")
    assert sample.size_bytes == 8 * MIB and 2 * MIB < sample.read_rate < 8 * MIB


def test_an_empty_stream_is_an_empty_sample():
    assert take_sample(shell("exit 0"), "zstd:1").size_bytes == 0
    assert take_sample(shell("printf x"), "lz4").size_bytes < KIB
