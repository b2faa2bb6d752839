"""A message on a terminal fits it; its commands can be copied."""

from __future__ import annotations

import pytest

from btrfs_backup_ng.cli.message import lay_out
from btrfs_backup_ng.core.columns import width

TEXT = "3 of 5 backups at /mnt/usb that begin with 'vm-' would be deleted, more"
COMMAND = "btrfs-backup-ng prune --keep-at latest=2 --snapshot-prefix=vm- /mnt/usb"
HINT = f"Nothing else was looked at, since that is not needed here.\nRun:  {COMMAND}"


def test_a_message_elsewhere_has_a_line_of_its_own():
    text, *hints = lay_out(TEXT, HINT, None).split("\n")
    assert text == f"btrfs-backup-ng: {TEXT}."
    assert hints == [f"  {line}" for line in HINT.split("\n")]


@pytest.mark.parametrize("columns", [1, 20, 40, 60, 80, 140])
def test_a_message_fits_without_a_cut_word_or_a_broken_command(columns: int):
    message = lay_out(TEXT, HINT, columns)
    assert COMMAND in message
    assert message.split() == lay_out(TEXT, HINT, None).split()
    for line in message.split("\n"):
        assert width(line) <= columns or " " not in line.strip() or COMMAND in line


def test_a_long_command_has_a_line_of_its_own():
    hint = f"To delete:  {COMMAND}\n       {COMMAND}"
    lines = lay_out("no", hint, 80).split("\n")
    assert lines == [
        "btrfs-backup-ng: no.",
        "  To delete:",
        f"    {COMMAND}",
        f"         {COMMAND}",
    ]
