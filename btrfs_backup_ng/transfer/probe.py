"""The trial that decides whether compressing a stream on the wire pays."""

import contextlib
import logging
import os
import select
import threading
import time

from btrfs_backup_ng.__util__ import KIB, MIB, format_size
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.endpoint.common import Place
from btrfs_backup_ng.process.child import PIPE, Child
from btrfs_backup_ng.process.command import Command
from btrfs_backup_ng.wire import verbs

log = logging.getLogger(__name__)

#: Size of the sample of a stream, and the longest time for taking it.
_SAMPLE, _SAMPLE_S = 64 * MIB, 5.0
#: A shorter stream is not compressed: there is little to gain.
_WORTH_IT = 16 * MIB
#: Duration of the trial of a line, and the bytes that buffers absorb at once: ssh's
#: window of 2 MiB for a channel, and pipes.
_LINE_S, _BUFFERS = 2.0, 2 * MIB + 256 * KIB
_BLOCK = 256 * KIB
#: Compression is worth the CPU if it needs less than this part of the time,
_GAIN = 0.9
#: and if the line is slower than 1 Gbit/s; on a faster one, the CPU is busy without it
#: (measured: 1.31 of the time through the loopback, 0.86 at 1 Gbit/s).
_FAST_LINE = 120 * MIB


class Sample(Value):
    """Measurements of the beginning of a stream.

    :ivar ratio: compressed size by size.
    :ivar read_rate: of the sender, in bytes a second.
    :ivar compress_rate: of the compressor, in bytes of input a second.
    """

    size_bytes: int
    ratio: float
    read_rate: float
    compress_rate: float


def probe_codec(source: Place, sink: Place, send: Command, *, codec: str) -> str:
    """Return a codec if it pays for a stream, else none.

    Try it on the beginning of the stream, and measure the line.

    :param send: makes the stream, uncompressed.
    :raises BackupError: if a command cannot be run.
    """
    sample = take_sample(send, codec)
    if sample.size_bytes < _WORTH_IT:
        return codecs.NONE
    lines, others = [], [sample.compress_rate]
    if source.location.is_remote:
        lines.append(sample.read_rate)
    else:
        others.append(sample.read_rate)
    if sink.location.is_remote:
        lines.append(line_rate(sink.host.command(verbs.SINK, label="a trial")))
    plain = max(1 / rate for rate in [*lines, *others[1:]])
    compressed = max(*(sample.ratio / rate for rate in lines), *(1 / r for r in others))
    pays = compressed < _GAIN * plain and min(lines) < _FAST_LINE
    log.info(
        "a stream to %s shrinks to %.0f %%, at %s/s; the line takes %s/s: %s",
        sink,
        100 * sample.ratio,
        format_size(sample.compress_rate),
        format_size(min(lines)),
        "compressing" if pays else "not compressing",
    )
    return codec if pays else codecs.NONE


def take_sample(send: Command, codec: str) -> Sample:
    """Compress the beginning of a stream, and discard the result."""
    packer = Command(codecs.compressor(codec), label=codecs.program(codec))
    size, packed, reading_s, packing_s = 0, 0, 0.0, 0.0
    with (
        Child.start(send, stdout=PIPE) as sender,
        Child.start(packer, stdin=PIPE, stdout=PIPE) as compressor,
    ):
        assert compressor.stdin and compressor.stdout
        output = compressor.stdout

        def count() -> None:
            nonlocal packed
            while block := os.read(output.fileno(), _BLOCK):
                packed += len(block)

        counter = threading.Thread(target=count, daemon=True)
        counter.start()
        block = sender.read(_BLOCK)
        start = mark = time.monotonic()  # the first block is waited for, not read
        while block and size < _SAMPLE and mark - start < _SAMPLE_S:
            view = memoryview(block)
            while view:
                view = view[compressor.stdin.write(view) or 0 :]
            size += len(block)
            now = time.monotonic()
            packing_s += now - mark
            block = sender.read(_BLOCK)
            mark = time.monotonic()
            reading_s += mark - now
        compressor.stdin.close()
        counter.join()
        packing_s += time.monotonic() - mark
    return Sample(
        size,
        packed / size if size else 1.0,
        size / max(reading_s, 1e-6),
        size / max(packing_s, 1e-6),
    )


def line_rate(sink: Command) -> float:
    """Measure for two seconds how many bytes a second a command takes.

    Bytes that buffers absorb at once do not count.
    """
    block = os.urandom(_BLOCK)
    size = -_BUFFERS
    with Child.start(sink, stdin=PIPE) as child:
        assert child.stdin
        pipe = child.stdin.fileno()
        os.set_blocking(pipe, False)
        start = now = time.monotonic()
        deadline = start + 2 * _LINE_S
        while size < _SAMPLE and now < deadline and child.peek() is None:
            was_filling = size < 0
            if select.select([], [pipe], [], 0.1)[1]:
                with contextlib.suppress(BlockingIOError, BrokenPipeError):
                    size += os.write(pipe, block)
            now = time.monotonic()
            if was_filling and size >= 0:
                start, deadline = now, now + _LINE_S
    if size <= 0:
        return _BUFFERS / (2 * _LINE_S)
    return size / max(now - start, 1e-3)
