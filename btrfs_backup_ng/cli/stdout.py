"""Writing to stdout, which may be closed; that does not end a backup."""

import contextlib
import os
import sys
from collections.abc import Iterator


def print_line(text: str) -> None:
    """Write to stdout; if that is not possible, the text is lost, and nothing else."""
    with _losing():
        print(text, flush=True)


def print_bytes(raw: bytes) -> None:
    """Write bytes to stdout as they are; if that is not possible, they are lost."""
    with _losing():
        sys.stdout.flush()
        sys.stdout.buffer.write(raw)
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def _losing() -> Iterator[None]:
    try:
        yield
    except OSError:  # closed, or a full disk: the backup continues
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
