"""Another machine as a host, through ssh: sessions, privilege, locks."""

import contextlib
import logging
import os
import re
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from btrfs_backup_ng.__util__ import KIB, MIB, BackupError, Refused, visible
from btrfs_backup_ng.btrfs.listing import parse_listing
from btrfs_backup_ng.btrfs.parse import (
    OutputNotUnderstood,
    is_full,
    is_read_only,
    judge_integrity,
    parse_root_items,
)
from btrfs_backup_ng.core.cleared import NOTHING_CLEARED
from btrfs_backup_ng.core.model import STALL_TIMEOUT_S, Facts, Integrity, Listing
from btrfs_backup_ng.core.record import Content
from btrfs_backup_ng.core.value import replace
from btrfs_backup_ng.host.clock import seconds
from btrfs_backup_ng.host.common import IF_SLOW, ListingFailed, LockHeld, Say
from btrfs_backup_ng.host.control import (
    Control,
    Exchange,
    NotServed,
    StreamRoom,
    own_session,
)
from btrfs_backup_ng.host.entry import plain
from btrfs_backup_ng.host.facts import parse_facts
from btrfs_backup_ng.process.child import PIPE, Child, checked, run
from btrfs_backup_ng.process.command import (
    Command,
    CommandFailed,
    Completed,
    ContactLost,
    last_words,
    patience,
)
from btrfs_backup_ng.process.interruption import check_interrupted
from btrfs_backup_ng.sshutil.master import SSHMasterManager
from btrfs_backup_ng.sshutil.passwords import (
    ask,
    find_password_file,
    has_terminal,
    read_password,
)
from btrfs_backup_ng.sshutil.refusal import explain_session
from btrfs_backup_ng.wire import grammar, verbs
from btrfs_backup_ng.wire.grammar import Verb

log = logging.getLogger(__name__)

#: Name of systemd's credential with the password for sudo on the host.
CREDENTIAL = "sudo-password"
#: Locks on one host that may be held at once, each by a session; of the eight sessions
#: (``master``) that leaves those for a sender, a receiver and a question.
PLACES_AT_ONCE = 5
#: Interval of the signs of life of a lock's holder; they must come within 30 s (LOCK).
BEAT_S = 5.0
#: A waiter for a lock gives its holder this long for a sign of life, beyond its own
#: time (LOCK), with a margin.
BEATLESS_S = 60.0
#: Limit on the note of a lock's holder.
_HOLDER = 64 * KIB
#: Time for a lock that failed to say why.
_FAILING_S = 10.0


class SshHost:
    """A machine behind ssh: a question is a request to a session of the shared master.

    :param forced_sudo: use sudo without trying whether it is needed.
    :param sudo_password_file: with the password for its sudo, if it needs one.
    :param silence_s: limit on the silence of a verb; 0 for no limit.
    """

    def __init__(
        self,
        master: SSHMasterManager,
        *,
        forced_sudo: bool = False,
        sudo_password_file: str = "",
        silence_s: float = STALL_TIMEOUT_S,
    ) -> None:
        self._master = master
        self.name = master.name
        self.silence_s = silence_s
        hint = f"Check whether it responds:  ssh {master.by_hand} true\n{IF_SLOW}"
        self._patience = patience(silence_s, hint)
        self._wanted = self._privilege = "sudo" if forced_sudo else "auto"
        self._password_file = find_password_file(sudo_password_file, CREDENTIAL)
        self._token = ""
        self._answer = b""
        self._has_looked = False
        self._locks = threading.BoundedSemaphore(PLACES_AT_ONCE)
        self._control = Control(master.sessions, self._loop)
        self._stream_room = StreamRoom(self._control, master.sessions)
        self._closing = ExitStack()
        self._guard = threading.Lock()

    def close(self) -> None:
        """End the sessions that no verb needs now; may be repeated.

        The one that keeps the password for sudo is among them.
        """
        self.close_idle()
        self._closing.close()

    def close_idle(self) -> None:
        """End the sessions in which no verb runs now."""
        self._control.close_idle()

    def allows(self, sessions: int) -> bool:
        """Return whether its server is known to allow so many sessions at once.

        That is found out after the first look at a place.
        """
        return self._has_looked and self._control.proves(sessions)

    @property
    def is_narrow(self) -> bool:
        """Return whether its server has refused a session beside others."""
        return self._master.sessions.is_narrow

    def waits_after_refusal(self) -> bool:
        """Note that its server refused a session; see :class:`Control`."""
        return self._control.waits_after_refusal()

    def _forget(self) -> None:
        self._control.forget()
        self._closing.close()
        self._token, self._privilege = "", self._wanted

    def by_hand(self, line: str) -> str:
        """Return the line by which a person runs a line of shell on the host."""
        return f"ssh {self._master.by_hand} {shlex.quote(line)}"

    def command(
        self, verb: Verb, *arguments: str, label: str, is_short: bool = False
    ) -> Command:
        words = (self._privilege, *arguments)
        remote = verb.remote_command(words, token=self._token)
        return replace(self._command(remote, label), room=self._stream_room)

    def _command(self, remote: str, label: str) -> Command:
        return replace(
            self._named(label),
            argv=self._master.command(remote),
            user=self._master.user,
            room=self._master.sessions,
        )

    def _named(self, label: str) -> Command:
        """Return the command of a verb, without the session that it runs in."""
        return Command(
            (),
            label=f"{label} on {visible(self.name)}",
            reports=True,
            patience=self._patience,
        )

    def _loop(self) -> Command:
        """Return the command of a session in which verbs run."""
        words = ("none", grammar.DECODE, grammar.RUN_DECODED)
        remote = verbs.LOOP.remote_command(words, token=self._token)
        return replace(self._command(remote, "a session"), ends_by_pipes=True)

    def call(
        self,
        verb: Verb,
        *arguments: str,
        stdin: bytes = b"",
        output_limit: int = 64 * MIB,
    ) -> Completed:
        try:
            return checked(self._call(verb, arguments, stdin, output_limit))
        except CommandFailed as error:
            error.hint = error.hint or explain_session(error.completed.stderr)
            raise

    def _call(
        self, verb: Verb, arguments: tuple[str, ...], stdin: bytes, output_limit: int
    ) -> Completed:
        words, command = (self._privilege, *arguments), self._named(verb.name)
        try:
            with self._control.exchange(
                verb, words, command, stdin=stdin, limit=output_limit
            ) as exchange:
                return exchange.finish()
        except NotServed:
            command = self.command(verb, *arguments, label=verb.name)
            return run(command, stdin=stdin, check=False, output_limit=output_limit)

    def look(self, directory: str, *, folder: str = "") -> Facts:
        """Read the facts about a directory, in one session without a password."""
        with self._guard:  # ask the user for a password only once
            if self._master.ensure():  # the session with the password is lost, too
                self._forget()
            asked_at = seconds()
            said = self.ask_about(directory, folder)
            if not said.get("flock"):
                raise Refused(
                    f"{visible(self.name)} has no flock command, which keeps other runs"
                    " out",
                    hint="Install util-linux or busybox on it.",
                )
            check_programs(self.name, said)
            if self._master.prefers_aes and said.get("aes") == "0":
                words = (
                    "%s has no AES instructions; a faster cipher for it:  --ssh-opt "
                )
                words += "Ciphers=chacha20-poly1305@openssh.com"
                log.warning(words, self.name)
            self._privilege = said.get("privilege", "none")
            if self._privilege == "none" and said.get("program"):
                raise privilege_error(self.name, said)
        self._has_looked = True
        try:
            return parse_facts(said, asked_at)
        except (ValueError, KeyError) as error:
            raise BackupError(
                f"unexpected answer from {visible(self.name)}: {error}"
            ) from error

    def ask_about(self, directory: str, folder: str = "") -> Mapping[str, str]:
        """Return the answer to ``hello``, as root if a password allows it.

        :raises Refused: if the login shell prints text of its own, or sudo does not
            accept the password.
        """
        said = self.hello(directory, folder)
        if said.get("privilege") != "none" or not said.get("sudo"):
            return said
        if not (password := self._password(said)):
            return said
        self._keep(password)
        self._privilege = "root"
        try:
            return self.hello(directory, folder)
        except CommandFailed as error:
            self._forget()
            self._answer = b""
            if error.completed.status == grammar.PASSWORD_REFUSED:
                text = f"sudo on {visible(self.name)} rejected the password"
            else:
                text = (
                    f"sudo on {visible(self.name)} accepts the password but does not"
                    " allow a root shell"
                )
            words = last_words(error.completed.stderr)
            hint = _rule_hint({**said, "why": ""})
            if self._password_file:
                file = visible(self._password_file)
                hint = f"The password was read from the first line of {file}.\n{hint}"
            raise Refused(f"{text}: {words}", hint=hint) from error

    def hello(self, directory: str, folder: str = "") -> Mapping[str, str]:
        """Return the answer to ``hello``, with the rights that need no password.

        :raises Refused: if a login shell there prints text of its own, or if something
            else runs there than was asked for.
        """
        nonce = os.urandom(8).hex()
        try:
            answer = self.call(verbs.HELLO, nonce, directory, folder).stdout
        except ContactLost as error:
            if error.hint or not self._master.is_alive:
                raise
            refused = runs_something_else(self.name, error.completed)
            refused.hint += f"\nSee:  ssh {self._master.by_hand} true"
            raise refused from error
        noise, found, rest = answer.partition(nonce.encode() + b"\0")
        if noise or not found:
            words = visible(noise[:80].decode(errors="surrogateescape").strip())
            raise Refused(
                f"the login shell of {visible(self.name)} prints text of its own"
                f" ({words!r}), which would corrupt every transfer",
                hint="Change its start-up files (.bashrc, .cshrc, config.fish ...) to"
                " print only in interactive shells.",
            )
        said = {}
        for item in map(os.fsdecode, rest.split(b"\0")):
            if match := re.match("([a-z0-9_]+)([=:])", item):
                value = item[match.end() :]
                is_plain = match[2] == "="
                said[match[1]] = value if is_plain else value.removesuffix("\n")
        return said

    def _password(self, said: Mapping[str, str]) -> bytes:
        """Return the password for sudo, or b"" if it is unknown."""
        if self._password_file:
            return read_password(self._password_file)
        if _wants_password(said) and has_terminal() and not self._answer:
            self._answer = ask(f"sudo password on {visible(self.name)}: ")
        return self._answer

    def _keep(self, password: bytes) -> None:
        """Send the password to a session that keeps it while connected."""
        self.close_idle()  # of the user there
        token = os.urandom(8).hex()
        remote = verbs.KEEP.remote_command(("none", token))
        command = self._command(remote, "a session for sudo's password")
        child = self._closing.enter_context(
            Child.start(command, stdin=PIPE, stdout=PIPE)
        )
        self._closing.enter_context(self._master.sessions.one_lasting())
        assert child.stdin
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(password + b"\n")
            child.stdin.flush()
        self._closing.callback(child.stdin.close)
        if child.read_line() != b"kept":
            child.wait(10)
            child.end()
            words = visible(last_words(child.complete().stderr))
            raise Refused(
                f"the password for sudo cannot be kept on {visible(self.name)}:"
                f" {words}",
                hint="A directory for it is made there in /tmp, or in the TMPDIR of"
                f" that user:  {self.by_hand('df -hi ${TMPDIR:-/tmp}')}",
            )
        self._token = token

    def listing(
        self, directory: str, state: str, *names: str
    ) -> tuple[Listing, tuple[Content, ...]]:
        """List a directory in one session, however many snapshots it has."""
        try:
            answer = self.call(verbs.LIST, directory, state, *names).stdout
            return parse_listing(answer, len(names))
        except (CommandFailed, OutputNotUnderstood, ValueError) as error:
            raise ListingFailed(
                f"cannot list the snapshots in {visible(plain(directory))} on"
                f" {visible(self.name)}: {error}",
                hint=error.hint if isinstance(error, BackupError) else "",
            ) from error

    def look_closely(
        self,
        directory: str,
        tree_ids: Sequence[int],
        cleared: Mapping[int, int] = NOTHING_CLEARED,
        *,
        are_checkpoints: bool = False,
    ) -> Integrity:
        """Check subvolumes in one session.

        ``UNKNOWN`` if the root tree cannot be read.
        """
        items = self._root_items(directory, tree_ids)
        if not set(tree_ids) <= set(items):
            return Integrity.UNKNOWN
        found = [
            judge_integrity(
                *items[tree_id],
                is_checkpoint=are_checkpoints,
                cleared=cleared.get(tree_id, 0),
            )
            for tree_id in tree_ids
        ]
        return Integrity.CHANGED if Integrity.CHANGED in found else Integrity.INTACT

    def last_change(self, directory: str, tree_id: int) -> int:
        items = self._root_items(directory, [tree_id])
        return items[tree_id][1] if tree_id in items else 0

    def _root_items(
        self, directory: str, tree_ids: Sequence[int]
    ) -> dict[int, tuple[bool, int, int, int]]:
        numbers = [str(tree_id) for tree_id in tree_ids]
        text = self.call(verbs.ITEMS, directory, *numbers).stdout.decode()
        return parse_root_items(text)

    @contextmanager
    def lock(
        self, state: str, wait_s: float, who: str, preparation: Sequence[str] = ()
    ) -> Iterator[Say]:
        """Hold a ``flock`` on the host in a session that lasts as long as the context.

        The session gets a sign of life every few seconds, as the other side may never
        notice a lost connection. Replacing the note fails if the lock is lost.
        """
        if not self._locks.acquire(blocking=False):
            raise Refused(
                f"one task can use at most {PLACES_AT_ONCE} places on"
                f" {visible(self.name)}",
                hint="Split it into tasks:  SOURCE PLACE ... :: SOURCE PLACE ...",
            )
        try:
            words = (state, str(int(wait_s)), who, *preparation)
            with self._locked(state, wait_s, words) as say:
                yield say
        finally:
            self._locks.release()

    @contextmanager
    def _locked(self, state: str, wait_s: float, words: Sequence[str]) -> Iterator[Say]:
        with self._locking(wait_s, words) as exchange:
            word = exchange.read_line()
            if word == b"busy":
                raise LockHeld(os.fsdecode(exchange.finish().stdout))
            if word != b"locked":
                raise self._not_locked(state, exchange.finish(_FAILING_S))

            guard, is_released = threading.Lock(), False

            def say(text: str) -> None:
                check_interrupted()
                with guard:  # several threads may write notes
                    if is_released or exchange.is_over():
                        raise BackupError(
                            f"the connection to {visible(self.name)} was lost, and"
                            f" with it the lock on {visible(plain(state))}"
                        )
                    send(text)

            try:
                lasting = self._master.sessions.one_lasting()
                with lasting, beating(exchange.stdin, words[2]) as send:
                    yield say
            finally:
                with guard:
                    is_released = True
                exchange.release()

    @contextmanager
    def _locking(self, wait_s: float, words: Sequence[str]) -> Iterator[Exchange]:
        """Run the verb ``lock``, in a session of its own if need be."""
        patient = self._patience
        if self.silence_s:
            longest_s = wait_s + BEATLESS_S + patient.silence_s
            patient = replace(patient, longest_s=longest_s)
        with ExitStack() as stack:
            try:
                exchange = self._control.exchange(
                    verbs.LOCK,
                    (self._privilege, *words),
                    replace(self._named("lock"), patience=patient),
                    stdin=None,
                    limit=_HOLDER,
                )
                yield stack.enter_context(exchange)
            except NotServed:
                command = self.command(verbs.LOCK, *words, label="lock")
                command = replace(command, patience=patient)
                yield stack.enter_context(own_session(command, limit=_HOLDER))

    def _not_locked(self, state: str, completed: Completed) -> BackupError:
        if completed.status == grammar.NOT_OURS:
            return CommandFailed(completed)
        words = visible(last_words(completed.stderr))
        place = visible(plain(state))
        return BackupError(
            f"cannot lock {place} on {visible(self.name)}: {words}",
            hint=explain_session(completed.stderr)
            or self._why_no_lock(state, completed.stderr),
        )

    def _why_no_lock(self, state: str, stderr: str) -> str:
        """Return the hint for a lock that could not be taken."""
        place = shlex.quote(plain(state).rpartition("/")[0] or "/")
        if is_full(stderr):
            line = self.by_hand(f"btrfs filesystem usage {place}")
            return f"See what takes the space:  {visible(line)}"
        if is_read_only(stderr):
            return f"See why:  {visible(self.by_hand('dmesg | tail'))}"
        return (
            "The user on that host must own the directory, or be allowed to run more"
            " than btrfs as root."
        )

    def held(self, state: str) -> str | None:
        """Try to take a shared lock, and release it at once."""
        answer = self.call(verbs.HELD, state, output_limit=_HOLDER).stdout
        return os.fsdecode(answer[1:]) if answer else None

    def put(self, state: str, name: str, content: bytes) -> None:
        self.call(verbs.PUT, state, name, stdin=content)


@contextmanager
def beating(stdin: IO[bytes], text: str) -> Iterator[Say]:
    """Write a line every few seconds; a new note replaces it.

    A line that is not read is lost: its reader may be frozen, and must not block.
    """
    guard, over, last = threading.Lock(), threading.Event(), text
    os.set_blocking(stdin.fileno(), False)

    def send(text: str) -> None:
        nonlocal last
        with guard, contextlib.suppress(OSError, ValueError):
            last = text
            stdin.write(text.encode(errors="surrogateescape") + b"\n")

    def beat() -> None:
        while not over.wait(BEAT_S):
            send(last)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield send
    finally:
        over.set()
        thread.join()


def runs_something_else(name: str, answer: Completed) -> Refused:
    """Return the error for a host that ran something else than the command it got.

    :param answer: its end, without the report of a verb.
    """
    words = os.fsdecode(answer.stdout[:80]).strip() or last_words(answer.stderr)
    said = f", and answered {words!r}" if words else ""
    return Refused(
        f"{visible(name)} did not run the command that it was given{visible(said)}",
        hint="The account needs a login shell that its start-up files do not end, and"
        " no forced command (ForceCommand in sshd_config, command= in"
        " authorized_keys).",
    )


def check_programs(name: str, said: Mapping[str, str]) -> None:
    """Check that the host has the programs that verbs use.

    :param said: the answer to ``hello``.
    :raises Refused: if it lacks some.
    """
    if missing := said.get("missing", "").split():
        programs = visible(", ".join(missing))
        raise Refused(
            f"{visible(name)} lacks programs that every backup needs: {programs}",
            hint="Install coreutils and findutils, or busybox, on it.",
        )


def _wants_password(said: Mapping[str, str]) -> bool:
    return "password" in said.get("why", "")


def privilege_error(name: str, said: Mapping[str, str]) -> Refused:
    """Return the error with the requirements for running btrfs on the host as root.

    :param said: the answer to ``hello``.
    """
    if _wants_password(said):
        why = "sudo asks for a password, which an unattended backup cannot enter"
    else:
        why = "btrfs needs root, but neither sudo nor doas works without a password"
    return Refused(f"on {visible(name)}, {why}", hint=_rule_hint(said))


def _rule_hint(said: Mapping[str, str]) -> str:
    file, rule = privilege_rule(said)
    words = "Log in as root, or allow btrfs on that host with this line in"
    words += f" {file}:\n  {visible(rule)}"
    if _wants_password(said):
        words += "\nOr store the password in a file on this machine:"
        words += "  --sudo-password-file FILE"
    return words


def privilege_rule(said: Mapping[str, str]) -> tuple[str, str]:
    """Return the least rule for running btrfs as root: a file, and its line."""
    if said.get("doas") and not said.get("sudo"):
        # A rule has to name the command as typed, which has no path: doas.conf(5).
        user = _escaped(said.get("user", ""))
        return "/etc/doas.conf", f"permit nopass {user} as root cmd btrfs"
    return "/etc/sudoers.d/btrfs-backup-ng", sudoers_rule(said)


def sudoers_rule(said: Mapping[str, str]) -> str:
    """Return the least rule that the verbs need of sudo, a line of sudoers(5)."""
    user = _escaped(said.get("user", "")) or f"#{said.get('uid', '')}"
    program = _escaped(said.get("granted") or said.get("program", ""))
    return f"{user} ALL=(root) NOPASSWD: {program}"


def _escaped(word: str) -> str:
    return re.sub(r"[^\w./-]", r"\\\g<0>", word)
