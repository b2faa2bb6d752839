"""``config init``: write the draft of a configuration."""

import os
import shlex
import sys
from collections.abc import Sequence

from btrfs_backup_ng.__util__ import UsageError, visible
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.call import Call
from btrfs_backup_ng.cli.config.file import check_new, next_command, write_new
from btrfs_backup_ng.cli.config.look import (
    can_mail,
    find_mounted,
    find_remarks,
    is_writable_subvolume,
)
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.prompt import answered
from btrfs_backup_ng.core.draft import Draft, draft_of, names_of, write_draft
from btrfs_backup_ng.core.policy import parse_policy
from btrfs_backup_ng.core.value import Value, replace


class InitReport(Value):
    """The document of ``init``."""

    configuration: str
    volumes: dict[str, str]
    target: str


def init(path: str, call: Call) -> int:
    """Write a configuration of what is found; on a terminal, ask about it first.

    :raises Refused: if there is one.
    """
    check_new(path, "-c")
    draft = draft_of(find_mounted(), list(find_remarks()), can_mail=can_mail())
    is_asked = os.isatty(0) and not (call.quiet or call.as_json)
    if is_asked:
        draft = _ask(draft)
    write_new(path, write_draft(draft))
    output, names = Output(call), names_of(draft.volumes)
    count = "1 volume" if len(names) == 1 else f"{len(names)} volumes"
    output.line(f"{visible(path)}: written, with {count}")
    for source, name in names.items():
        output.line(f"  {name}: {visible(source)}")
    if draft.target.startswith("/"):
        folders = [os.path.join(draft.target, name) for name in names.values()]
        if is_asked and _make(folders):
            line = visible(shlex.join(folders))
            output.line(f"Made the directories of the backups:  {line}")
        else:
            line = visible(shlex.join(["mkdir", "-p", *folders]))
            output.line(f"Make the directories of the backups:  {line}")
    elif not draft.target:
        output.line("No disk for backups was found: edit the place of [targets.disk].")
    if draft.can_mail:
        test = next_command("config check --notify", path)
        output.line(f"Root hears of failures by mail. Send a test:  {test}")
    else:
        output.line("This machine has no sendmail: edit [notify] to hear of failures.")
    output.line(f"Then:  {next_command('config check', path)}")
    output.line(f"And:   {next_command('run --dry-run', path)}")
    return output.finish(0, InitReport(path, dict(names), draft.target))


def _make(folders: Sequence[str]) -> bool:
    """Make the directories of backups; return whether all of them are there.

    Only where a disk with btrfs is mounted now: else they would be on another disk.
    """
    for folder in folders:
        if not is_writable_subvolume(os.path.dirname(folder)):
            return False
        try:
            os.mkdir(folder)
        except FileExistsError:
            pass
        except OSError:
            return False
    return bool(folders)


def _ask(draft: Draft) -> Draft:
    """Ask five questions; an empty answer takes the proposal."""
    print("Five questions; Enter takes the proposal in brackets.", file=sys.stderr)
    volumes = answered("Volumes", " ".join(draft.volumes) or "/home").split()
    target = answered(
        "Where to (a directory, or ssh://host/path)", draft.target or "/mnt/usb"
    )
    is_there = answered("Is that always there (yes, no)", "no").lower()[:1] == "y"
    keep = answered("Snapshots to keep at a source", draft.keep)
    keep_at = answered("Backups to keep there", draft.keep_at)
    for text in (keep, keep_at):
        try:
            parse_policy(text, values.zone("UTC"))
        except ValueError as error:
            raise UsageError(f"{visible(text)!r}: {error}") from error
    for text in (*volumes, target):
        values.location(text)
    return replace(
        draft,
        volumes=tuple(volumes),
        target=target,
        filesystem=draft.filesystem if target == draft.target else "",
        is_optional=not is_there,
        keep=keep,
        keep_at=keep_at,
    )
