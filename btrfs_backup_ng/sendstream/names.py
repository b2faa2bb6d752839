"""The names of bodies and seals, in which ``checkpoint`` delivers a stream.

Like that module, it also runs on other machines, from Python 3.7 on.
"""

from __future__ import annotations

BODY = b".body-"
SEAL = b".seal-"
#: Digits of an offset in a name, so that names sort by offset.
_DIGITS = 20
#: NAME_MAX of Linux and BTRFS_NAME_LEN.
_NAME_BYTES = 255


def body_name(offset: int, name: bytes, chance: bytes) -> bytes:
    """Return the name of the body that begins at an offset of the stream.

    :param chance: four random bytes: a receiver that was thought dead, and still
        writes, does not find the bodies of another attempt.
    """
    return _name(BODY, offset, chance.hex().encode() + b"-" + name)


def seal_name(offset: int, name: bytes) -> bytes:
    return _name(SEAL, offset, name)


def _name(mark: bytes, offset: int, name: bytes) -> bytes:
    return (mark + b"%0*d-" % (_DIGITS, offset) + name)[:_NAME_BYTES]


def parse_name(name: bytes) -> tuple[bytes, int, bytes] | None:
    """Return mark, offset and snapshot of the name of a body or seal; else None."""
    mark, rest = name[: len(SEAL)], name[len(SEAL) :]
    digits, dash, snapshot = rest.partition(b"-")
    if mark == BODY:
        snapshot = snapshot.partition(b"-")[2]
    if mark in (BODY, SEAL) and dash and len(digits) == _DIGITS and digits.isdigit():
        return mark, int(digits), snapshot
    return None


def is_checkpoint(name: bytes) -> bool:
    return parse_name(name) is not None
