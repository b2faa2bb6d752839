"""The compression of a stream on its way: its words, and the programs for it.

A codec is a word: ``none``, ``zstd:LEVEL`` or ``lz4``; and ``auto`` until a probe has
decided. The same words go to the other side (verbs ``send`` and ``receive``).
"""

import re

NONE, AUTO, LZ4 = "none", "auto", "lz4"
#: zstd's own default, zstd(1).
_LEVEL = 3
#: What a probe chooses: on a fast line the first level gains most (measured: at
#: 1 Gbit/s and 20 ms 0.86 of the time without, level 3 0.92, lz4 0.96).
FASTEST = "zstd:1"
#: Programs of which one is needed, by name.
PROGRAMS = ("zstd", "lz4")
_ZSTD = re.compile(r"zstd(?::([1-9]|1[0-9]))?")


def parse_codec(text: str) -> str:
    """Read what ``--compress`` may say.

    :raises ValueError: if it is something else.
    """
    if text in (NONE, AUTO, LZ4):
        return text
    if match := _ZSTD.fullmatch(text):
        return f"zstd:{match[1] or _LEVEL}"
    raise ValueError(
        f"{text!r} is no way to compress; there are zstd, zstd:1 to zstd:19, lz4,"
        " auto and none"
    )


def program(codec: str) -> str:
    """Return the name of the program that a codec takes."""
    return codec.partition(":")[0]


def compressor(codec: str) -> tuple[str, ...]:
    """Return the argv that compresses stdin to stdout."""
    name, _, level = codec.partition(":")
    return (name, "-q", "-c", "-T2", f"-{level}") if level else (name, "-q", "-c")


def decompressor(codec: str) -> tuple[str, ...]:
    """Return the argv that undoes it."""
    return (program(codec), "-q", "-dc")
