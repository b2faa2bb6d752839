"""The size of a stream is told from its dry twin, on a real btrfs."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from btrfs_backup_ng.sendstream.format import Attribute, Kind, StreamDamaged
from btrfs_backup_ng.sendstream.size import Compressed, predict_sizes
from tests.sendstream import dump, kept
from tests.support import filesystems, ours, trees, variety

pytestmark = [pytest.mark.btrfs, pytest.mark.xdist_group("sizes")]

# Around what one WRITE holds, in protocol 1 and 2.
SIZES = (1, 2048, 4096, 49151, 49152, 49153, 131071, 131072, 131073, 300_000)
STREAMS = kept.load()


class Sent(NamedTuple):
    """One way to send a snapshot: dry and real streams by protocol."""

    dry: dict[int, bytes]
    real: dict[int, bytes]
    compressed: bytes


@pytest.fixture(scope="module", params=["plain", "compressed"])
def filesystem(request) -> Iterator[filesystems.Filesystem]:
    options = ["compress-force=zstd"] if request.param == "compressed" else []
    place = ours.public_directory()
    try:
        with filesystems.btrfs_filesystem(place, mount_options=options) as made:
            yield made
    finally:
        shutil.rmtree(place)


def nothing(top: Path) -> None:
    """Change nothing."""


def new(top: Path) -> None:
    for size in SIZES:
        (top / f"new file of {size}").write_bytes(os.urandom(size))
    (top / "new and compressible").write_bytes(b"all work and no play " * 30_000)


def overwritten(top: Path) -> None:
    with open(top / "random", "r+b") as file:
        for start, size in ((0, 1), (70_000, 5000), (200_000, 140_000)):
            file.seek(start)
            file.write(os.urandom(size))
    (top / "text").write_bytes(b"other words " * 30_000)


def renamed(top: Path) -> None:
    (top / "random").rename(top / "another name, somewhat longer than the old one")
    (top / "directory").rename(top / "other directory")
    os.link(top / "text", top / "other directory" / "link")


def reflinked(top: Path) -> None:
    trees.reflink(bytes(top / "random"), bytes(top / "clone"))
    trees.reflink(bytes(top / "text"), bytes(top / "changed clone"))
    with open(top / "changed clone", "r+b") as file:
        file.seek(100_000)
        file.write(b"x" * 10_000)


def deleted(top: Path) -> None:
    (top / "random").unlink()
    shutil.rmtree(top / "directory")


def sparse(top: Path) -> None:
    with open(top / "holes", "wb") as file:
        for start in (1 << 20, 3 << 20):
            file.seek(start)
            file.write(os.urandom(60_000))
        file.truncate(5 << 20)
    trees.punch_hole(bytes(top / "random"), 65536, 140 * 1024)
    os.truncate(top / "text", 800_000)


def preallocated(top: Path) -> None:
    with open(top / "preallocated", "wb") as file:
        file.write(os.urandom(5000))
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    with open(top / "random", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    keep = ["fallocate", "--keep-size", "--length", "1M", str(top / "text")]
    subprocess.run(keep, check=True)


def tiny(top: Path) -> None:
    for number in range(2000):
        (top / f"tiny {number}").write_bytes(b"%d" % number * (number % 500))


def everything(top: Path) -> None:
    (top / "variety").mkdir()
    variety.fill(top / "variety", 7)


CHANGES = (
    *(nothing, new, overwritten, renamed, reflinked, deleted),
    *(sparse, preallocated, tiny, everything),
)


@pytest.fixture(scope="module", params=CHANGES, ids=lambda change: change.__name__)
def sent(filesystem, request) -> list[Sent]:
    """Send the changes, and all that there is after them."""
    name = request.param.__name__
    source = filesystem.subvolume(name)
    (source / "directory").mkdir()
    (source / "directory" / "file").write_text("some words")
    (source / "random").write_bytes(os.urandom(400_000))
    (source / "text").write_bytes(b"all work and no play " * 30_000)
    before = filesystem.snapshot(name, f"{name} before")
    request.param(source)
    after = filesystem.snapshot(name, f"{name} after")
    return [_send("-p", before, after), _send(after)]


def _send(*words: str | Path) -> Sent:
    return Sent(
        {n: kept.send("--proto", str(n), "--no-data", *words) for n in (1, 2)},
        {n: kept.send("--proto", str(n), *words) for n in (1, 2)},
        kept.send("--proto", "2", "--compressed-data", *words),
    )


def _predict(
    dry: bytes, *, protocol: int | None = None, compressed: bool | Compressed = False
) -> int:
    read = io.BytesIO(dry).read
    return [*predict_sizes(read, protocol=protocol, compressed=compressed)][-1]


def test_a_prediction_is_exact(sent):
    for way in sent:
        for protocol in (1, 2):
            assert _predict(way.dry[protocol]) == len(way.real[protocol])


def test_of_the_other_protocol_it_is_exact_but_for_holes_and_flags(sent):
    for way in sent:
        lengths = {protocol: len(way.real[protocol]) for protocol in (1, 2)}
        one, two = (_predict(way.dry[3 - n], protocol=n) for n in (1, 2))
        if not {Kind.FALLOCATE, Kind.FILEATTR} & _kinds(way.real[2]):
            assert (one, two) == (lengths[1], lengths[2])
        else:  # holes are punched, and not filled with zeros
            assert two > lengths[2] - 100


def _kinds(stream: bytes) -> set[Kind]:
    return {command.kind for command in dump.read(stream, check=False).commands}


def test_with_compressed_data_a_prediction_is_an_upper_bound(sent):
    for way in sent:
        bound = _predict(way.dry[2], compressed=True)
        real = way.compressed
        assert len(real) <= bound
        commands = dump.read(real, check=False).commands
        if not any(command.kind is Kind.ENCODED_WRITE for command in commands):
            # No more than what ENCODED_WRITE has beside WRITE, for each of these.
            writes = sum(command.kind is Kind.WRITE for command in commands)
            assert bound <= len(real) + 52 * writes


def test_the_bound_holds_for_small_files_that_hardly_compress(filesystem):
    source = filesystem.subvolume("hardly")
    for number in range(40):
        content = os.urandom(1000) + bytes(12 + number)
        (source / f"file {number}").write_bytes(content)
    snapshot = filesystem.snapshot("hardly", "hardly snapshot")
    words = ["--proto", "2", snapshot]
    dry, real = kept.send("--no-data", *words), kept.send(*words)
    compressed = kept.send("--compressed-data", *words)
    if Kind.ENCODED_WRITE in _kinds(compressed):
        assert len(compressed) > len(real)  # else this would show nothing
    assert len(compressed) <= _predict(dry, compressed=True)


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_write_holds_as_much_as_was_assumed(filesystem, protocol):
    name = f"writes {protocol}"
    (filesystem.subvolume(name) / "file").write_bytes(os.urandom(500_000))
    snapshot = filesystem.snapshot(name, f"{name} snapshot")
    stream = kept.send("--proto", str(protocol), snapshot)
    commands = dump.read(stream, check=False).commands
    largest = max(len(c.attributes.get(Attribute.DATA, b"")) for c in commands)
    assert largest == {1: 48, 2: 128}[protocol] << 10


@pytest.mark.parametrize("name", ["full 1", "full 2", "changes 1", "changes 2"])
def test_a_kept_stream_has_the_size_that_its_dry_twin_tells(name):
    dry = f"dry {name}".replace("full ", "")
    assert _predict(STREAMS[dry]) == len(STREAMS[name])


@pytest.mark.parametrize("name", STREAMS)
def test_what_has_no_ranges_to_fill_in_is_as_long_as_it_is(name):
    if not name.startswith("dry"):
        assert _predict(STREAMS[name]) == len(STREAMS[name])


@pytest.mark.parametrize("name", STREAMS)
def test_a_running_total_never_gets_less(name):
    sizes = list(predict_sizes(io.BytesIO(STREAMS[name]).read))
    assert sizes == sorted(sizes)
    assert sizes[-1] == _predict(STREAMS[name])


def test_whoever_asks_for_a_limit_need_not_read_all():
    stream = STREAMS["dry 1"]
    source = io.BytesIO(stream * 1000)
    assert any(size > 10 * len(stream) for size in predict_sizes(source.read))
    assert source.tell() < len(stream) * 100


def test_a_damaged_dry_stream_has_no_size():
    with pytest.raises(StreamDamaged):
        _predict(STREAMS["dry 1"][:-1])
