"""How a stream is carried: its protocol, its codec, what stands in between."""

import logging
import os
from dataclasses import dataclass

from btrfs_backup_ng.__util__ import Refused, UsageError, visible
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.location import Location, Scheme
from btrfs_backup_ng.core.model import Facts, TransferOptions
from btrfs_backup_ng.endpoint.common import BtrfsEndpoint, Sink
from btrfs_backup_ng.process.command import Command, find_program

log = logging.getLogger(__name__)

#: From these versions on, btrfs-progs send and receive compressed extents as they
#: lie on the disk (changelog of btrfs-progs; receive fell back wrongly before).
_COMPRESSED_SINCE = (6, 0)
#: What mbuffer may use; enough for a second or so of a fast disk.
_BUFFER = "64M"
#: send, ssh and receive keep two busy; there mbuffer costs a fifth of the throughput
#: (measured: benchmarks/README.md).
_CORES_FOR_A_BUFFER = 4


@dataclass(frozen=True, slots=True)
class Route:
    """How streams go from a source to a sink.

    :ivar protocol: of the stream, as the verb ``send`` knows it.
    :ivar codec: what it is compressed with on the wire; ``auto`` is not decided yet.
    """

    protocol: str
    codec: str


def choose_route(source: BtrfsEndpoint, sink: Sink, options: TransferOptions) -> Route:
    """Choose the way of all streams from a source to a sink.

    Data that is compressed on the disk goes as it lies there, if both ends can do
    that, and is not compressed once more. Nothing is compressed that crosses no wire.

    :raises Refused: if an end lacks the program for the codec that is wanted.
    """
    ends = (source.facts, sink.facts)
    version = send_protocol(*ends)
    codec = options.compress
    if not is_on_the_wire(source.location, sink.location):
        codec = codecs.NONE
    if codec != codecs.NONE and version == 2 and source.facts.is_compressed:
        log.info("%s is compressed on its disk, and sent as it lies there", source)
        codec = codecs.NONE
    if codec == codecs.NONE:
        return Route("2c" if version == 2 else "1", codec)
    protocol = str(version)
    for endpoint, facts in zip((source, sink), ends, strict=True):
        if codec == codecs.AUTO and not facts.codecs >= {"zstd"}:
            log.info("%s has no zstd, so nothing is compressed", endpoint)
            return Route(protocol, codecs.NONE)
        if codec != codecs.AUTO and codecs.program(codec) not in facts.codecs:
            raise Refused(
                f"{endpoint} has no {codecs.program(codec)}, which --compress"
                f" {visible(options.compress)} needs",
                hint="Install it there, or leave the option out.",
            )
    return Route(protocol, codec)


def is_on_the_wire(source: Location, sink: Location) -> bool:
    """Tell whether a stream crosses a network that we know of."""
    is_stream_of_ours = sink.scheme is not Scheme.SHELL
    return is_stream_of_ours and Scheme.SSH in (source.scheme, sink.scheme)


def packed_codec(route: Route, sink: Location) -> str:
    """Return the codec of the bytes that are counted, before the last stage, or "".

    A local receiver gets them unpacked.
    """
    is_packed = route.codec != codecs.NONE and sink.scheme is Scheme.SSH
    return route.codec if is_packed else ""


#: What :attr:`Route.protocol` may be.
PROTOCOLS = ("1", "2", "2c")


def send_protocol(source: Facts, sink: Facts) -> int:
    """Return the stream version both ends can: 2 brings compressed data as it is."""
    versions = [end.btrfs_version or (0, 0) for end in (source, sink)]
    if min(versions) < _COMPRESSED_SINCE:
        return 1
    return min(2, source.send_protocol, sink.send_protocol)


def stages_between(
    source: Location, sink: Location, options: TransferOptions, codec: str
) -> tuple[Command, ...]:
    """Return what runs here between sender and receiver.

    A codec is applied at the source's end and undone at the sink's, by the verbs
    there or by a stage here.

    :raises UsageError: if what was asked for is not installed.
    """
    schemes = frozenset((source.scheme, sink.scheme))
    middle = middle_stages(options, schemes, cores=len(os.sched_getaffinity(0)))
    if codec == codecs.NONE:
        return middle
    here = Scheme.LOCAL
    before = (_stage(*codecs.compressor(codec)),) if source.scheme is here else ()
    behind = (_stage(*codecs.decompressor(codec)),) if sink.scheme is here else ()
    return (*before, *middle, *behind)


def middle_stages(
    options: TransferOptions, schemes: frozenset[Scheme], *, cores: int
) -> tuple[Command, ...]:
    """Return the rate limit and the buffer.

    A buffer is of use where a network makes the ends take turns, so it is used
    there if it is installed and has a core to run on, and elsewhere on request.

    :param cores: how many this process may use.
    :raises UsageError: if what was asked for is not installed.
    """
    has_mbuffer = find_program("mbuffer") is not None
    wants_mbuffer = options.mbuffer
    if wants_mbuffer is None:
        is_ssh, has_room = Scheme.SSH in schemes, cores >= _CORES_FOR_A_BUFFER
        wants_mbuffer = has_mbuffer and is_ssh and has_room
    if options.mbuffer and not has_mbuffer:
        raise UsageError(
            "--use-mbuffer needs mbuffer, which is not installed",
            hint="Install it, or leave the option out.",
        )
    stages = []
    if options.rate is not None:
        if find_program("pv"):
            stages.append(_stage("pv", "-q", "-L", str(options.rate)))
        elif has_mbuffer and options.mbuffer is not False:
            rate = str(options.rate)
            return (_stage("mbuffer", "-q", "-m", _BUFFER, "-R", rate),)
        else:
            raise UsageError(
                "--rate needs pv or mbuffer, and neither is installed",
                hint="Install pv, or leave the option out.",
            )
    if wants_mbuffer:
        stages.append(_stage("mbuffer", "-q", "-m", _BUFFER, "-s", "128k"))
    return tuple(stages)


def _stage(*argv: str) -> Command:
    return Command(argv, label=argv[0])
