"""The set-up of logging: level, format and where the lines go."""

import logging
import os
import sys

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import visible

#: syslog priorities that the journal reads from a leading ``<N>``: sd-daemon(3).
_PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
}


class _Formatter(logging.Formatter):
    """Render one record as one line, in the words a person reads."""

    def __init__(self, *, journal: bool, times: bool) -> None:
        super().__init__()
        self._journal = journal
        self._times = times

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line; text from outside cannot steer a terminal."""
        word = "warning: " if record.levelno == logging.WARNING else ""
        line = f"{PROGRAM}: {word}{visible(record.getMessage())}"
        if self._journal:
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}"
        if self._times:
            return f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S%z')} {line}"
        return line


def set_up_logging(level: str) -> None:
    """Send log lines of ``level`` and above to stderr.

    Under systemd (``JOURNAL_STREAM``) lines carry a priority and no time, since the
    journal keeps both. On a terminal they carry no time; elsewhere they do.

    :param level: debug, info, warning or error.
    """
    journal = "JOURNAL_STREAM" in os.environ
    handler = logging.StreamHandler()
    times = not journal and not sys.stderr.isatty()
    handler.setFormatter(_Formatter(journal=journal, times=times))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
