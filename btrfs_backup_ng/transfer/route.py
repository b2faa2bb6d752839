"""The route of a stream: its protocol, its codec, the stages in between."""

import logging
import os

from btrfs_backup_ng.__util__ import Refused, UsageError, visible
from btrfs_backup_ng.core import codecs
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Facts, TransferOptions
from btrfs_backup_ng.core.plan import Transfer
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.endpoint import staging
from btrfs_backup_ng.endpoint.common import Endpoint, Place
from btrfs_backup_ng.process.command import Command, find_program

log = logging.getLogger(__name__)

#: From these versions on, btrfs-progs send and receive compressed extents as they
#: lie on the disk (changelog of btrfs-progs; receive fell back wrongly before).
_COMPRESSED_SINCE = (6, 0)
#: Memory of mbuffer; enough for a second or so of a fast disk.
_BUFFER = "64M"
#: send, ssh and receive keep two cores busy; with only two, mbuffer costs a fifth of
#: the throughput (measured: benchmarks/README.md).
_CORES_FOR_A_BUFFER = 4


#: The values of :attr:`Route.protocol`.
PROTOCOLS = ("1", "2", "2c")


class Route(Value):
    """The route of streams from one endpoint to another.

    :ivar protocol: of the stream, as the verb ``send`` takes it.
    :ivar codec: compresses the stream on the wire; ``auto`` is not decided yet.
    """

    source: Endpoint
    sink: Endpoint
    options: TransferOptions
    protocol: str
    codec: str

    @property
    def packed_codec(self) -> str:
        """Return the codec of the bytes that the meter counts, or "".

        It counts before the last stage, and a local receiver gets them unpacked.
        """
        is_packed = self.codec != codecs.NONE and self.sink.place.location.is_remote
        return self.codec if is_packed else ""

    def stages_between(self) -> tuple[Command, ...]:
        """Return the commands of this machine between sender and receiver.

        :raises UsageError: if a program that the options need is not installed.
        """
        ends = self.source.place.location, self.sink.place.location
        return stages_between(*ends, self.options, self.codec)

    def earlier_attempts(self, transfer: Transfer, protocol: str = "") -> list[str]:
        """Return the ids of interrupted attempts at a transfer, the latest first.

        :param protocol: if not that of this route.
        """
        stream = transfer.snapshot, transfer.parent, protocol or self.protocol
        return staging.of_transfer(self.sink.place.facts.leftovers, *stream)

    def resumable(self, transfer: Transfer) -> list[str]:
        """Return the ids of earlier attempts that may be resumed, the latest first."""
        has_filter = self.source.place.facts.has_python
        if not (self.options.checkpoint_interval and has_filter):
            return []
        return self.earlier_attempts(transfer)


def choose_route(source: Endpoint, sink: Endpoint, options: TransferOptions) -> Route:
    """Choose the route of all streams from a source to a sink.

    Data that is compressed on the disk is sent compressed, if both ends support that,
    and is not compressed again. Streams between local disks are not compressed.

    :raises Refused: if an end lacks the program for the requested codec.
    """
    protocol, codec = _choose_protocol(source.place, sink.place, options)
    return Route(source, sink, options, protocol, codec)


def _choose_protocol(
    source: Place, sink: Place, options: TransferOptions
) -> tuple[str, str]:
    """Return the protocol and the codec of a route."""
    version = send_protocol(source.facts, sink.facts)
    codec = options.compress
    if not crosses_wire(source.location, sink.location):
        codec = codecs.NONE
    if codec != codecs.NONE and version == 2 and source.facts.is_compressed:
        log.info("%s is compressed on its disk, and sent as it lies there", source)
        codec = codecs.NONE
    if codec == codecs.NONE:
        return "2c" if version == 2 else "1", codec
    for place in (source, sink):
        if codec == codecs.AUTO and not place.facts.codecs >= {"zstd"}:
            log.info("%s has no zstd, so nothing is compressed", place)
            return str(version), codecs.NONE
        if codec != codecs.AUTO and codecs.program(codec) not in place.facts.codecs:
            raise Refused(
                f"{place} has no {codecs.program(codec)}, which --compress"
                f" {visible(options.compress)} needs",
                hint="Install it there, or leave the option out.",
            )
    return str(version), codec


def crosses_wire(source: Location, sink: Location) -> bool:
    """Return whether a stream crosses a network, as far as the program knows."""
    return not sink.is_command and (source.is_remote or sink.is_remote)


def send_protocol(source: Facts, sink: Facts) -> int:
    """Return the stream version that both ends support; 2 keeps data compressed."""
    versions = [end.btrfs_version or (0, 0) for end in (source, sink)]
    if min(versions) < _COMPRESSED_SINCE:
        return 1
    return min(2, source.send_protocol, sink.send_protocol)


def stages_between(
    source: Location, sink: Location, options: TransferOptions, codec: str
) -> tuple[Command, ...]:
    """Return the commands of this machine between sender and receiver.

    A codec is applied at the source and undone at the sink: by the verbs of a remote
    end, by a stage of this machine for a local end.

    :raises UsageError: if a program that the options need is not installed.
    """
    is_remote = source.is_remote or sink.is_remote
    cores = len(os.sched_getaffinity(0))
    middle = middle_stages(options, is_remote=is_remote, cores=cores)
    if codec == codecs.NONE:
        return middle
    before = (_stage(*codecs.compressor(codec)),) if source.is_here else ()
    behind = (_stage(*codecs.decompressor(codec)),) if sink.is_here else ()
    return (*before, *middle, *behind)


def middle_stages(
    options: TransferOptions, *, is_remote: bool, cores: int
) -> tuple[Command, ...]:
    """Return the rate limit and the buffer.

    A buffer helps if a network makes the ends wait for each other. So mbuffer is used
    for remote transfers, if it is installed and has a core to run on; else on request.

    :param cores: that this process may use.
    :raises UsageError: if a program that the options need is not installed.
    """
    has_mbuffer = find_program("mbuffer") is not None
    wants_mbuffer = options.mbuffer
    if wants_mbuffer is None:
        has_room = cores >= _CORES_FOR_A_BUFFER
        wants_mbuffer = has_mbuffer and is_remote and has_room
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
