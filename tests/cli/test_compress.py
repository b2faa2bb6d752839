"""``--compress``: compression of the stream on its way through ssh."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import (
    complaint,
    covers,
    logging_path,
    must,
    path_without,
    script,
)
from tests.support.places import MIB, ssh_place, ssh_words
from tests.support.program import run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

TEXT = b"what is written twice is written once " * 27


def _fill(scene: Scene, size: int = 4 * MIB) -> None:
    """Write what shrinks to nearly nothing, and some that does not."""
    (scene.source / "text").write_bytes(TEXT * (size // len(TEXT)))
    scene.add("noise", 100_000)


def _words(scene: Scene, server: Sshd, way: str, *options: str) -> list[str]:
    here, there = str(scene.source), str(scene.destination)
    if way != "push":
        here = ssh_place(server, scene.source)
    if way != "pull":
        there = ssh_place(server, scene.destination)
    return ["-p", "x-", *ssh_words(server), *options, here, there]


def _assert_the_same(scene: Scene) -> None:
    copy = scene.destination / scene.backup_names[-1]
    argv = ["diff", "-r", "--exclude=.btrfs-backup-ng", str(scene.source), str(copy)]
    done = subprocess.run(argv, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")


@covers("--compress")
@pytest.mark.parametrize("way", ["push", "pull", "relay"])
@pytest.mark.parametrize("how", ["zstd", "zstd:1", "lz4"])
def test_a_stream_is_compressed_on_one_side_and_unpacked_on_the_other(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path, way: str, how: str
):
    _fill(scene)
    path, log = logging_path(public_path, "zstd", "lz4")
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    words = _words(scene, server, way, "--compress", how, "--json")
    done = must(run_program(*words, env={"PATH": path}))
    (sent,) = [e for e in json.loads(done.stdout)["events"] if e["event"] == "sent"]
    ran = sorted(log.read_text().splitlines())
    level = {"zstd": " -T2 -3", "zstd:1": " -T2 -1", "lz4": ""}[how]
    name = how.partition(":")[0]
    assert ran == sorted([f"{name} -q -c{level}", f"{name} -q -dc"])
    if way == "pull":  # counted behind the stage that unpacks
        assert sent["size_bytes"] > 4 * MIB and sent["codec"] == ""
    else:
        assert 100_000 < sent["size_bytes"] < MIB
        assert sent["codec"] == ("zstd:3" if how == "zstd" else how)
    _assert_the_same(scene)
    (scene.source / "more").write_bytes(TEXT)
    must(run_program(*words, env={"PATH": path}))
    assert len(scene.backup_names) == 2
    _assert_the_same(scene)


@covers("--compress")
def test_nothing_is_compressed_without_being_told(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path
):
    path, log = logging_path(public_path, "zstd", "lz4")
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    must(run_program(*_words(scene, server, "push"), env={"PATH": path}))
    scene.back_up("--compress", "zstd", env={"PATH": path})  # and never here
    assert log.read_text() == ""


@covers("--compress")
def test_what_is_compressed_on_the_disk_is_sent_as_it_is(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path
):
    _fill(scene)
    path, log = logging_path(public_path, "zstd", "btrfs")
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    scene.source_disk.remount("compress=zstd")
    try:
        words = _words(scene, server, "push", "--compress", "zstd")
        must(run_program(*words, env={"PATH": path}))
    finally:
        scene.source_disk.remount("compress=no")
    lines = log.read_text().splitlines()
    assert [line for line in lines if line.startswith("zstd ")] == []
    (send,) = [line for line in lines if line.startswith("btrfs send")]
    assert "--compressed-data" in send
    _assert_the_same(scene)


@covers("--compress")
@pytest.mark.parametrize("side", ["here", "there"])
def test_a_compressor_that_is_missing_is_named_before_anything_changes(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path, side: str
):
    path = path_without(public_path, "lz4")
    server = new_sshd(config=(f"SetEnv PATH={path}",) if side == "there" else ())
    env = {"PATH": path} if side == "here" else {}
    before = scene.fingerprint()
    words = _words(scene, server, "push", "--compress", "lz4")
    done = run_program(*words, env=env)
    place = scene.source if side == "here" else server.host
    complaint(done, 4, f"{place}", "has no lz4", "--compress lz4")
    assert scene.fingerprint() == before
    must(run_program(*_words(scene, server, "push", "--compress", "zstd"), env=env))


@covers("--compress")
@pytest.mark.parametrize("option", ["-dc", "-c"])
def test_a_compressor_that_fails_there_fails_the_transfer(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path, option: str
):
    _fill(scene)
    path, _ = logging_path(public_path, "zstd")
    wrapper = public_path / "wrappers/zstd"
    real = wrapper.read_text().splitlines()[-1]
    fail = "head -c 60000 | exec cat; echo zstd: broken >&2; exit 3"
    script(wrapper, f'case "$*" in *" {option}"*) {fail};; esac\n{real}')
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    way = "push" if option == "-dc" else "pull"
    words = _words(scene, server, way, "--compress", "zstd")
    done = run_program(*words)
    worker = "btrfs receive" if option == "-dc" else "btrfs send"
    complaint(done, 1, f"{worker} on {server.host}", "--compress none")
    assert scene.backup_names == []
    must(run_program(*_words(scene, server, way, "--compress", "none")))
    _assert_the_same(scene)


@covers("--compress")
def test_auto_compresses_on_a_slow_line_what_gets_smaller(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path
):
    _fill(scene, 40 * MIB)
    path, log = logging_path(public_path, "zstd")
    # What swallows the trial is as slow as a line of 64 Mbit/s.
    script(public_path / "wrappers/cat", 'exec pv -q -L 8M -- "$@"')
    server = new_sshd(config=(f"SetEnv PATH={path}",))
    words = _words(scene, server, "push", "--compress", "auto")
    done = must(run_program("-v", *words))
    assert "as zstd:1" in done.stdout and ": compressing" in done.stderr
    assert "zstd -q -dc" in log.read_text()
    _assert_the_same(scene)


@covers("--compress")
@pytest.mark.parametrize("way", ["push", "pull", "relay"])
def test_auto_leaves_what_does_not_get_smaller(scene: Scene, sshd: Sshd, way: str):
    scene.add("noise", 24 * MIB)
    done = must(run_program("-v", *_words(scene, sshd, way, "--compress", "auto")))
    assert "not compressing" in done.stderr and "zstd" not in done.stdout
    assert (
        scene.destination / scene.backup_names[0] / "noise"
    ).stat().st_size == 24 * MIB
    assert sshd.connections() == 1


@covers("--compress")
@pytest.mark.parametrize("how", ["", "gzip", "zstd:0", "zstd:20", "zstd:", "lz4:1"])
def test_another_way_to_compress_is_refused(scene: Scene, how: str):
    done = scene.run(f"--compress={how}")
    complaint(done, 2, "--compress", "zstd:1 to zstd:19")
    assert os.listdir(scene.destination) == []
