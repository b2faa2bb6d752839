"""The messages of one run: its begin, its end, and what is due about troubles.

All notifiers work side by side, each within a time limit. One that fails costs a
warning, and never changes the outcome of the run.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from btrfs_backup_ng.__util__ import BackupError, Interrupted, attempt
from btrfs_backup_ng.actions.notify.claims import Claims
from btrfs_backup_ng.core.document import to_document
from btrfs_backup_ng.core.events import Level, Noted
from btrfs_backup_ng.core.notices import Message, Notice, RunSight, compose
from btrfs_backup_ng.core.notifiers import Notifiers
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.trust import check_program
from btrfs_backup_ng.process.child import run
from btrfs_backup_ng.process.command import Command, Patience
from btrfs_backup_ng.session.session import Session

#: Limit on the time of each notifier.
LIMIT_S = 10.0

#: Notifiers by their keys: sends, or raises a :class:`BackupError`.
Sends = Mapping[str, Callable[[], None]]


class Notification(Value):
    """The document of a webhook.

    :ivar text: all of it, for people.
    :ivar exit_status: of the run.
    """

    version: int
    host: str
    title: str
    text: str
    exit_status: int
    notices: tuple[Notice, ...]


class RunMessages:
    """The messages of one run."""

    def __init__(self, notifiers: Notifiers, directory: str, session: Session) -> None:
        """Prepare.

        :param directory: of the record of messages.
        """
        self._notifiers = notifiers
        self._claims = Claims(directory)
        self._session = session
        self._begun = _AtWork({})

    def begin(self) -> None:
        """Tell the server of pings that a run begins; do not wait for it."""
        self._begun = _AtWork(_pings(self._notifiers, "/start", ""))

    def finish(
        self, sight: RunSight, exit_status: int, report: str, *, is_busy: bool = False
    ) -> None:
        """Send what is due.

        :param report: of the run, for people.
        :param is_busy: nothing but another run was in its way, whose end will be told.
        """
        self._warn(self._begun.results())  # the server needs them in their order
        notifiers, now = self._notifiers, self._session.now
        suffix = "/fail" if exit_status else ""
        report = report if exit_status else ""
        sends = {} if is_busy else dict(_pings(notifiers, suffix, report))
        messages: Sends = {}
        if _has_readers(notifiers):
            if notices := self._claims.claim(sight, notifiers.on, now):
                message = compose(notices, os.uname().nodename, now)
                messages = _messages(notifiers, message, now, exit_status)
        results = _AtWork({**sends, **messages}).results()
        self._warn(results)
        if messages and all(results[name] for name in messages):
            self._claims.give_back()

    def _warn(self, results: Mapping[str, BackupError | None]) -> None:
        for name, error in results.items():
            if error:
                text = f"no message was sent by {name}: {error.message}"
                self._session.emit(Noted("", Level.WARNING, text, error.hint))


def send_test(notifiers: Notifiers, now: datetime) -> dict[str, BackupError | None]:
    """Send a test through each notifier; return their errors, by their keys."""
    host = os.uname().nodename
    text = "This is a test. What is wrong with backups will come here.\n"
    message = Message(f"btrfs-backup-ng on {host}: a test", text, ())
    sends = {**_pings(notifiers, "", text), **_messages(notifiers, message, now, 0)}
    return _AtWork(sends).results()


def _has_readers(notifiers: Notifiers) -> bool:
    return bool(notifiers.mail or notifiers.webhook or notifiers.command)


def _pings(notifiers: Notifiers, suffix: str, report: str) -> Sends:
    if not notifiers.ping:
        return {}
    from btrfs_backup_ng.actions.notify import web  # here: urllib takes long

    return {"ping": partial(web.ping, notifiers.ping, suffix, report, LIMIT_S)}


def _messages(
    notifiers: Notifiers, message: Message, now: datetime, exit_status: int
) -> Sends:
    sends: dict[str, Callable[[], None]] = {}
    if notifiers.mail:
        from btrfs_backup_ng.actions.notify import mail  # here: email takes long

        sends["mail"] = partial(mail.send_mail, notifiers.mail, message, now, LIMIT_S)
    if notifiers.webhook:
        from btrfs_backup_ng.actions.notify import web  # here: as above

        host = os.uname().nodename
        value = Notification(
            1, host, message.title, message.text, exit_status, message.notices
        )
        document = to_document(value)
        sends["webhook"] = partial(
            web.call_webhook, notifiers.webhook, document, LIMIT_S
        )
    if notifiers.command:
        sends["command"] = partial(_call, notifiers.command, message)
    return sends


def _call(argv: tuple[str, ...], message: Message) -> None:
    """Call the command of the user; the text of the message is its input.

    :raises BackupError: if it fails.
    """
    check_program(argv[0])
    kinds = sorted({notice.kind.value for notice in message.notices})
    variables = (
        ("BTRFS_BACKUP_NG_TITLE", message.title),
        ("BTRFS_BACKUP_NG_KINDS", " ".join(kinds)),
    )
    patience = Patience(longest_s=LIMIT_S)
    command = Command(argv, argv[0], variables=variables, patience=patience)
    run(command, stdin=message.text.encode("utf-8", "backslashreplace"))


class _AtWork:
    """Notifiers at work, each in a thread of its own."""

    def __init__(self, sends: Sends) -> None:
        self._results: dict[str, BackupError | None] = {}
        self._deadline = time.monotonic() + LIMIT_S
        # As daemons, so that one that does not answer is left behind at the end.
        self._threads = {
            name: threading.Thread(target=self._send, args=(name, send), daemon=True)
            for name, send in sends.items()
        }
        for thread in self._threads.values():
            thread.start()

    def _send(self, name: str, send: Callable[[], None]) -> None:
        try:
            error = attempt(send)
        except Interrupted as interrupted:
            error = BackupError(interrupted.message)
        self._results[name] = error

    def results(self) -> dict[str, BackupError | None]:
        """Return the errors, after all have sent or the time is over."""
        late = BackupError(f"it was not done within {LIMIT_S:g} s")
        for thread in self._threads.values():
            thread.join(max(0.0, self._deadline - time.monotonic()))
        return {name: self._results.get(name, late) for name in self._threads}
