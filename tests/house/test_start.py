"""A start imports only the modules that it needs."""

import json
import subprocess
import sys

import pytest

from tests.support.program import CHECKOUT

SCRIPT = """
import json, sys
from btrfs_backup_ng.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""


def imported(*words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return [name.removeprefix("btrfs_backup_ng.") for name in names]


@pytest.mark.parametrize("word", ["--version", "--help", "--no-such-option"])
def test_no_action_is_imported_to_answer_from_the_words_alone(word):
    folders = {name.partition(".")[0] for name in imported(word)}
    assert "cli" in folders
    assert not folders & {"actions", "transfer", "place", "session", "endpoint"}


def test_a_command_imports_no_other():
    names = imported("list", "--help")
    assert "cli.commands.list" in names
    commands = [name for name in names if name.startswith("cli.commands.")]
    assert commands == ["cli.commands.list"]
