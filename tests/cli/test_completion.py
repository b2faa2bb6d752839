"""The shells complete commands, options, places and snapshots."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from btrfs_backup_ng.session.history import VARIABLE, History, Record
from docs.generate.commands import CHECKOUT, Command, commands, sender
from docs.generate.completion import OPERANDS, takes_value, value_kind
from tests.support.command_line import script
from tests.support.completion import COMPLETIONS, SHELLS
from tests.support.scene import Scene

Complete = Callable[[str], set[str]]
PAGES = [*commands(), sender()]
VERBS = {command.verb for command in PAGES} - {""}
each_command = pytest.mark.parametrize("command", PAGES, ids=lambda one: one.name)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Make the home of a user who made backups, and knows hosts."""
    top: Path = tmp_path_factory.mktemp("home")
    (top / ".ssh").mkdir()
    (top / ".ssh/config").write_text("Host nas backup-*\n  Port 22\nHost tower\n")
    for name in ("local disk", "lodge"):
        (top / name).mkdir()
    for source, to in (
        ("/home", "ssh://nas/b"),
        ("/home", "/mnt/usb"),
        ("/a/$(id)", "shell://x"),
    ):
        record = Record(
            datetime.now(timezone.utc), source, "", to, name="x", target="x"
        )
        History(str(top)).add(record)
    return top


@pytest.fixture(params=sorted(SHELLS))
def complete(request, home: Path) -> Complete:
    env = {"HOME": str(home), VARIABLE: str(home)}
    return lambda line: SHELLS[request.param](line, env, home)


def test_commands_and_places_come_first(complete: Complete):
    offered = complete("btrfs-backup-ng ")
    assert offered >= VERBS | {"help"}
    assert offered >= {"/home", "/mnt/usb", "ssh://nas/b", "ssh://nas/", "ssh://tower/"}
    assert not [offer for offer in offered if "$" in offer or "*" in offer]
    assert not [offer for offer in offered if offer.startswith(("-", "shell:"))]


def test_a_word_is_completed_by_its_place_in_the_line(complete: Complete):
    for line, offered in {
        "btrfs-backup-ng re": {"restore"},
        "btrfs-backup-ng help lo": {"log"},
        "btrfs-backup-ng -v --json st": {"status"},
        "btrfs-backup-ng list --max": set(),
        "btrfs-backup-ng status --max": {"--max-age"},
        "btrfs-backup-ng -p status --back": {"--backfill"},
        "btrfs-backup-ng restore --compress ": {"none", "auto", "zstd", "lz4"},
        "btrfs-backup-ng restore --compress=z": {"zstd"},
        "btrfs-backup-ng /home --incremental r": {"required"},
        "btrfs-backup-ng prune --dry-run /mnt/u": {"/mnt/usb"},
        "btrfs-ssh-send --par": {"--parent"},
    }.items():
        assert complete(line) == offered, line


def test_directories_are_places(complete: Complete):
    offered = {
        offer.rstrip("/").replace("\\", "") for offer in complete("btrfs-backup-ng lo")
    }
    assert offered == {"log", "local disk", "lodge"}


@pytest.mark.btrfs
def test_snapshots_of_a_place_are_completed(complete: Complete, scene: Scene):
    scene.back_up()
    (name,) = scene.backup_names
    source, to = scene.source, scene.destination
    for foreign in ("nested", "$(id)20261128-101500"):
        subprocess.run(
            ["btrfs", "-q", "subvolume", "create", source / foreign], check=True
        )
    (to / "x20261128-101500").mkdir()
    assert complete(f"btrfs-backup-ng restore {to} ") >= {name}
    assert complete(f"btrfs-backup-ng restore --to /tmp {source} {name[:5]}") == {name}
    assert complete(f"btrfs-backup-ng verify -q {to} {name} {name[:5]}") == {name}
    assert complete(f"btrfs-backup-ng diff {to}/other {name[:5]}") == {name}
    assert name not in complete(f"btrfs-backup-ng restore ssh://tower{to} ")


def test_a_question_ends_soon_and_opens_no_connection(tmp_path: Path):
    asked = tmp_path / "asked"
    for name in ("ssh", "sudo", "btrfs-backup-ng"):
        script(tmp_path / name, f"touch {asked}")
    script(tmp_path / "find", "exec sleep 60")
    began = time.monotonic()
    for place in ("/mnt", "ssh://tower/mnt"):
        done = subprocess.run(
            ["sh", CHECKOUT / "docs/generate/ask.sh", "snapshots", place],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
        )
        assert done.stdout == done.stderr == b""
    assert time.monotonic() - began < 20
    assert not asked.exists()


@each_command
def test_bash_offers_every_option(command: Command, tmp_path: Path):
    line = f"{command.parser.prog} -"
    offered = SHELLS["bash"](line, {"HOME": str(tmp_path)}, tmp_path)
    assert offered == {word for a in command.actions for word in a.option_strings}


@each_command
def test_zsh_and_fish_know_every_option(command: Command):
    name = command.parser.prog.split()[0]
    zsh = (COMPLETIONS / f"_{name}").read_text()
    cases = zsh.partition(f"\n    {command.verb or chr(39) * 2})\n")[2]
    specs = cases.partition(";;")[0]
    fish = [
        words
        for line in (COMPLETIONS / f"{name}.fish").read_text().splitlines()
        if (words := line.split())[:1] == ["complete"]
        and (command.verb or "none") in line.partition("' ")[0].split()
    ]
    for action in command.actions:
        for word in action.option_strings:
            assert any(f"{word}{end}" in specs for end in ("[", "=[", "+[")), word
            flag = ["-l", word[2:]] if word.startswith("--") else ["-s", word[1:]]
            assert any(
                words[at : at + 2] == flag for words in fish for at in range(len(words))
            ), word


@each_command
def test_the_values_of_options_and_the_operands_are_of_a_kind(command: Command):
    assert OPERANDS[command.name]
    for action in command.actions:
        if takes_value(action):
            assert value_kind(command, action)
