"""The entry point: argv -> exit status; signals; the last ``except``."""

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from btrfs_backup_ng.__util__ import BackupError, Interrupted, Refused, visible
from btrfs_backup_ng.cli.argv import asks_for_documents
from btrfs_backup_ng.cli.commands import run_words
from btrfs_backup_ng.cli.message import print_message
from btrfs_backup_ng.cli.stdout import print_line
from btrfs_backup_ng.process.interruption import end_all, interrupt, interrupted

#: A bug of the program: EX_SOFTWARE of sysexits.h.
_BUG = 70
#: New objects after which Python looks for garbage that holds on to itself.
_MANY = 50_000
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _end(signal_number: int, frame: FrameType | None) -> None:
    """End in an orderly way; at the second signal, at once."""
    if interrupted() is not None:
        end_all()
        os._exit(128 + signal_number)
    interrupt(signal_number)


def _ignore(signal_number: int, frame: FrameType | None) -> None:
    """Ignore a signal; unlike SIG_IGN, children do not inherit that."""


def main(words: Sequence[str]) -> int:
    """Run the program with these words, and return its exit status."""
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, _end)
    signal.signal(signal.SIGUSR1, _ignore)  # until there is progress to show
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it hides how children end
    try:
        _check_directory()
        return run_words(words)
    except (BackupError, Interrupted) as error:
        return _fail(words, error.message, error.hint, error.exit_status)
    except Exception as error:  # anything that arrives here is a bug
        text = f"a bug: {type(error).__name__}: {visible(str(error))}"
        return _fail(words, text, _trace(), _BUG)
    finally:
        end_all()


def _trace() -> str:
    """Print where the current error was raised, or return the hint how to see it."""
    import logging  # here: --version needs it not
    import traceback  # here: as above

    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        return "Run it again with -vv and report the output."
    traceback.print_exc()
    return ""


def _check_directory() -> None:
    """Check that the working directory exists: paths may be relative to it.

    :raises Refused: if it was deleted, or cannot be reached.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise Refused(
            f"cannot use the working directory: {error.strerror}",
            hint="Change to another one:  cd /",
        ) from error


def _fail(words: Sequence[str], message: str, hint: str, exit_status: int) -> int:
    """Print why a call failed, also as a document if it asks for documents."""
    print_message(message, hint)
    if asks_for_documents(words):
        import json  # here: --version needs it not

        error = {"message": message, "hint": hint.splitlines()}
        document = {"version": 1, "exit_status": exit_status, "error": error}
        print_line(json.dumps(document))
    return exit_status


def _open_standard_files() -> None:
    """Put ``/dev/null`` where stdin, stdout or stderr is closed.

    Otherwise the next file to be opened, a lock or a pipe, would become one of them.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")


def entry() -> NoReturn:
    """Run as the console script.

    Python's own end would free every object, which takes longer than a short command
    runs.
    """
    _open_standard_files()
    gc.set_threshold(_MANY)  # a start makes many objects, and none of them is garbage
    status = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # full, or closed: already reported
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    entry()
