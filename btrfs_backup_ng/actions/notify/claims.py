"""The record of the troubles that were told, beside the history.

If it is lost, or cannot be written, each trouble is told again; nothing else depends on
it. A run claims its messages by writing them down before it sends them, under a lock,
so two runs side by side do not tell the same.
"""

import logging
import os
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from btrfs_backup_ng.__util__ import visible
from btrfs_backup_ng.core.notices import (
    Known,
    Notice,
    NoticeKind,
    RunSight,
    TroubleKey,
    TroubleState,
    plan_notices,
)
from btrfs_backup_ng.core.record import (
    Unreadable,
    as_list,
    as_text,
    format_document,
    parse_document,
)
from btrfs_backup_ng.host.entry import NotOurs, read_record, replace_file
from btrfs_backup_ng.session.history import locked_directory

log = logging.getLogger(__name__)

#: The file in the directory of the history.
NOTICES = "notices.json"
_VERSION = 1


class Claims:
    """The troubles on record.

    :ivar before: those that a claim replaced.
    """

    def __init__(self, directory: str) -> None:
        """Prepare; nothing is read.

        :param directory: :func:`~btrfs_backup_ng.session.history.state_directory`.
        """
        self._directory = directory
        self._before: Mapping[TroubleKey, Known] = {}

    def claim(
        self, sight: RunSight, wanted: Collection[NoticeKind], now: datetime
    ) -> list[Notice]:
        """Return the messages that are due, and write down that they were sent."""
        try:
            with locked_directory(self._directory) as directory:
                self._before = self._read()
                due, new = plan_notices(self._before, sight, wanted, now)
                if new != self._before:
                    replace_file(directory, NOTICES, _format(new))
        except (OSError, NotOurs) as error:
            due, _ = plan_notices({}, sight, wanted, now)
            self._warn(error)
        self._claimed = due
        return list(due.values())

    def give_back(self) -> None:
        """Undo the claim, since the messages could not be sent: the next run tries."""
        try:
            with locked_directory(self._directory) as directory:
                found = dict(self._read())
                for key in self._claimed:
                    found.pop(key, None)
                    if key in self._before:
                        found[key] = self._before[key]
                replace_file(directory, NOTICES, _format(found))
        except (OSError, NotOurs) as error:
            self._warn(error)

    def _read(self) -> Mapping[TroubleKey, Known]:
        """Return what is on record; nothing if it is damaged."""
        content = read_record(os.path.join(self._directory, NOTICES))
        if content is None:
            return {}
        try:
            return parse_document(content, _VERSION, _built)
        except Unreadable as error:
            log.warning("%s is made again: %s", self._path, error)
            return {}

    @property
    def _path(self) -> str:
        return visible(os.path.join(self._directory, NOTICES))

    def _warn(self, error: Exception) -> None:
        reason = getattr(error, "strerror", "") or str(error)
        log.warning("%s cannot be written: %s", self._path, reason)


def _format(known: Mapping[TroubleKey, Known]) -> bytes:
    troubles = [
        {
            "kind": key.kind.value,
            "source": key.source,
            "destination": key.destination,
            "state": one.state.value,
            "since": one.since.isoformat(),
            "told": one.told.isoformat() if one.told else None,
        }
        for key, one in known.items()
    ]
    return format_document(_VERSION, {"troubles": troubles}, indent=1)


def _built(document: Any) -> dict[TroubleKey, Known]:
    return {
        TroubleKey(
            NoticeKind(one["kind"]), as_text(one["source"]), as_text(one["destination"])
        ): Known(
            TroubleState(one["state"]),
            _time(one["since"]),
            None if one["told"] is None else _time(one["told"]),
        )
        for one in as_list(document["troubles"])
    }


def _time(text: str) -> datetime:
    """Return an aware time.

    :raises ValueError: if it is another one.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no zone")
    return time
