"""The hooks of a configuration, as a run calls them: before and after a step.

The hook after a step runs if the one before it was started, or does not exist. It runs
also after a failure and after an interruption, and learns of them.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from btrfs_backup_ng.__util__ import BackupError, Interrupted, attempt, visible
from btrfs_backup_ng.core.events import Failed, Hooked, Tally, exit_status
from btrfs_backup_ng.core.hooks import Hook, Hooks
from btrfs_backup_ng.core.value import EMPTY, Value
from btrfs_backup_ng.host.trust import check_program
from btrfs_backup_ng.process.child import PIPE, Child, checked
from btrfs_backup_ng.process.command import Command, Patience
from btrfs_backup_ng.process.interruption import check_interrupted, last_steps
from btrfs_backup_ng.process.poller import TICK_S, Loop
from btrfs_backup_ng.session.session import Session

log = logging.getLogger(__name__)

#: Begins the names of the variables of a hook.
_PREFIX = "BTRFS_BACKUP_NG_"
_RESULT, _EXIT_STATUS = "RESULT", "EXIT_STATUS"


class SnapshotHooks(Value):
    """The hooks around the snapshot of a volume.

    :ivar volume: its name.
    :ivar source: the text of its location.
    """

    hooks: Hooks
    volume: str
    source: str
    dry_run: bool

    @contextlib.contextmanager
    def around(
        self, snapshot: str, session: Session, fail: Callable[[str, BackupError], None]
    ) -> Iterator[None]:
        """Run the hooks before and after the making of a snapshot.

        :param snapshot: its path.
        :param fail: takes the source, and the failure of the hook after it.
        :raises BackupError: if the hook before it failed.
        """
        caller = _Caller(
            session,
            self.source,
            {"VOLUME": self.volume, "SOURCE": self.source, "SNAPSHOT": snapshot},
            "No snapshot was made.",
            self.dry_run,
        )
        with _between(self.hooks, caller, lambda error: fail(self.source, error)):
            yield


def run_between(
    hooks: Hooks,
    work: Callable[[], list[Tally]],
    session: Session,
    *,
    dry_run: bool,
    give_up: Callable[[BackupError], None],
) -> list[Tally]:
    """Do the work of a run between its hooks, and return all tallies.

    :param give_up: takes the failure of the hook before it, instead of the work.
    """
    tallies, failed = list[Tally](), Tally()

    def fail(error: BackupError) -> None:
        session.emit(Failed("", error.message, error.hint, error.exit_status))
        failed.add(Tally(failures=(error.exit_status,)))

    caller = _Caller(session, "", EMPTY, "Nothing was done.", dry_run)
    try:
        with _between(hooks, caller, fail) as outcome:
            tallies = work()
            status = exit_status(tallies)
            outcome[_RESULT] = "failure" if status else "success"
            outcome[_EXIT_STATUS] = str(status)
    except BackupError as error:
        fail(error)
        give_up(error)
    return [*tallies, failed]


class _Caller(Value):
    """Calls hooks, or only checks and names them.

    :ivar place: the source that they are for; "" for the whole run.
    :ivar variables: all of them get, without the beginning of the names.
    :ivar consequence: of the failure of a hook before the step, a sentence.
    """

    session: Session
    place: str
    variables: Mapping[str, str]
    consequence: str
    dry_run: bool

    def begin(self, step: Callable[[], None]) -> None:
        """Do a step of the hook before; its failure says what follows."""
        error = attempt(step)
        if isinstance(error, BackupError):
            error.hint = error.hint or self.consequence
            raise error

    def call(self, hook: Hook, outcome: Mapping[str, str]) -> None:
        """Run a hook to its end.

        :param outcome: further variables.
        :raises BackupError: if it failed.
        """
        variables = {"HOOK": hook.name, **self.variables, **outcome}
        command = Command(
            hook.argv,
            f"{hook.name} ({visible(hook.argv[0])})",
            variables=tuple((_PREFIX + name, text) for name, text in variables.items()),
            patience=Patience(longest_s=hook.limit_s),
        )
        begun = time.monotonic()
        if not self.dry_run:
            _run(command)
        took = time.monotonic() - begun
        event = Hooked(self.place, hook.name, str(command), took, self.dry_run)
        self.session.emit(event)


@contextlib.contextmanager
def _between(
    hooks: Hooks, caller: _Caller, fail: Callable[[BackupError], None]
) -> Iterator[dict[str, str]]:
    """Run the hooks before and after the body.

    It yields the variables about its outcome, for the hook after it.

    :param fail: takes the failure of the hook after it.
    :raises BackupError: if the hook before it failed.
    """
    before, after = hooks.before, hooks.after
    if before:
        check_interrupted()
        caller.begin(lambda: _check(before))
    outcome = {_RESULT: "success"}

    def finish() -> None:
        if after:
            with last_steps():
                _check(after)
                caller.call(after, outcome)

    try:
        if before:
            caller.begin(lambda: caller.call(before, EMPTY))
        yield outcome
    except Interrupted as interrupted:
        status = str(interrupted.exit_status)
        outcome |= {_RESULT: "interrupted", _EXIT_STATUS: status}
        raise
    except BaseException:
        outcome |= {_RESULT: "failure", _EXIT_STATUS: "1"}
        raise
    finally:
        error = attempt(finish)
        if isinstance(error, BackupError):
            fail(error)


def _check(hook: Hook) -> None:
    """Check that the program of a hook may run.

    :raises BackupError: if not.
    """
    error = attempt(lambda: check_program(hook.argv[0]))
    if isinstance(error, BackupError):
        raise BackupError(f"{hook.name}: {error.message}", hint=error.hint)


def _run(command: Command) -> None:
    """Run a command to its end, and log its output.

    :raises BackupError: if it failed.
    :raises Interrupted: if a signal interrupted the program.
    """
    with Child(command, stdout=PIPE) as child:
        loop = Loop()
        assert child.stdout
        loop.drain(child.stdout, child.words.add)  # with its stderr, in their order
        child.attend(loop)
        while child.peek() is None:
            check_interrupted()
            child.check_patience()
            loop.step(TICK_S)
        loop.linger()
        completed = child.complete()
    for line in completed.stderr.splitlines():
        log.info("%s: %s", command.label, line)
    checked(completed)
