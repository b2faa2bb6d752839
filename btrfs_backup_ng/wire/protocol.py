"""The lines on stderr by which verbs and stages report to the program.

======================= ===================================== ==========================
line                    meaning                               printed by
======================= ===================================== ==========================
``bbng2 STATUS``        exit status of a verb, in its last    ``finish`` in
                        line; without it the outcome is       ``verbs/common.sh``
                        unknown
``bbng2 working``       a sign of life of a verb that takes   ``work_long`` there;
                        long, every few seconds               ``verbs/lock.sh``
``bbng2 received``      the receiver has taken all of the     ``verbs/receive.sh``
                        stream
``bbng2 skipped BYTES`` so much was read again so far, and    ``sendstream/filter``
                        is at the destination already
``bbng2 moved BYTES``   so much was written so far            ``sendstream/filter``
======================= ===================================== ==========================

Users never see them. They may come in the middle of other words, and behind text
without a line break. This module also runs on other machines, as a part of the filter:
from Python 3.7 on.
"""

from __future__ import annotations

import re

#: First word of each line, and ``$0`` of each verb; it names the grammar.
MAGIC = "bbng2"

WORKING = b"bbng2 working\n"
#: To be completed with a number of bytes.
SKIPPED, MOVED = b"bbng2 skipped %d\n", b"bbng2 moved %d\n"

_RECEIVED = b"bbng2 received\n"
_STATUS = rb"bbng2 (\d{1,3})\r?\n"
_SKIPPED = rb"bbng2 skipped (\d+)\n"
_MOVED = rb"bbng2 moved (\d+)\n"


def has_received_all(stderr: bytes) -> bool:
    """Return whether a receiver has reported that it has the whole stream."""
    return _RECEIVED in stderr


def skipped_bytes(stderr: bytes) -> int:
    """Return the bytes that the filter has read so far and need not be sent."""
    return _last_number(_SKIPPED, stderr)


def moved_bytes(stderr: bytes) -> int:
    """Return the bytes that the filter has written so far."""
    return _last_number(_MOVED, stderr)


def _last_number(pattern: bytes, stderr: bytes) -> int:
    found = re.findall(pattern, stderr)
    return int(found[-1]) if found else 0


def without_counts(stderr: bytes) -> bytes:
    """Return the words of a stage without the lines of the filter."""
    return re.sub(_MOVED, b"", re.sub(_SKIPPED, b"", stderr))


def split_status(stderr: bytes) -> tuple[int | None, bytes]:
    """Return the status that a verb reported, and its words without its lines.

    The last status line counts, since an ssh client may add words behind it.

    :returns: status ``None`` if it reported none.
    """
    status = None
    for line in re.finditer(_STATUS, stderr):
        status = int(line[1])
        words = stderr[: line.start()] + stderr[line.end() :]
    if status is None:
        words = stderr
    return status, words.replace(_RECEIVED, b"")
