"""What README and docs tell people to type is understood, and their tables are true.

Commands in blocks are also run, by test_examples.py and test_docs_ssh.py.
"""

import re
import shlex
from importlib import import_module

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.argv import expand, split_tasks
from btrfs_backup_ng.cli.backup_options import parse_task, read_job
from btrfs_backup_ng.cli.commands import VERBS
from btrfs_backup_ng.cli.parser import parse_places
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.policy import Policy
from tests.support.program import CHECKOUT

README = (CHECKOUT / "README.md").read_text()
PAGES = README + "".join(
    page.read_text() for page in sorted((CHECKOUT / "docs").glob("*.md"))
)
# Without comments, which are for tests only; a shell makes two places of $(...).
PAGES = re.sub(r"\$\([^)]*\)", "A B", re.sub(r"<!--(?s:.*?)-->", "", PAGES))
_BEGINS = r"(?:^(?:    )?|[`$ ]|/usr/local/bin/)btrfs-backup-ng "
COMMANDS = re.findall(rf"{_BEGINS}((?:-|/|ssh:)[^`\n]*)", PAGES, re.MULTILINE)
#: Of verbs: in a block, in a sentence, or behind a prompt.
CALLS = re.findall(
    rf"{_BEGINS}((?:{'|'.join(VERBS)})(?: [^`\n]*)?)(?=[`\n])", PAGES, re.MULTILINE
)
EXAMPLE = re.search(r"    # (/etc/\S+)\n((?:    .*\n)+)", PAGES)


def _words(command: str) -> list[str]:
    words = shlex.split(command.removesuffix("..."), comments=True)
    return [word for word in words if not word.startswith("@")]


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 25
    assert len(CALLS) > 40


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_each_command_is_understood(command):
    words = _words(command)
    if words in (["-q"], ["--sudo"]):
        words.append("/home")
    for task in split_tasks(words):
        if not {"--help", "--help-all"} & {*task}:
            read_job(parse_task(task))


@pytest.mark.parametrize("command", sorted(set(CALLS)))
def test_each_call_of_a_verb_is_understood(command):
    verb, *words = _words(command)
    options = parse_places(import_module(VERBS[verb]).build_parser(), words)
    for place in getattr(options, "places", ()):
        parse_location(place, working_directory="/")


def test_the_calls_are_of_all_verbs_but_the_demo():
    assert {shlex.split(command)[0] for command in CALLS} >= set(VERBS) - {"demo"}


def test_the_example_file_is_understood(tmp_path):
    assert EXAMPLE
    file = tmp_path / "arguments"
    file.write_text("".join(line[4:] + "\n" for line in EXAMPLE[2].splitlines()))
    (task,) = split_tasks(expand([f"@{file}"]))
    job = read_job(parse_task(task))
    assert job.keep_source == Policy(latest=24)
    assert [one.keep for one in job.destinations] == [Policy(latest=60)]
    assert job.wait_s == 3600


def test_the_first_command_is_the_demo_and_the_check_is_for_developers():
    first = re.findall(r"^    (sudo .*)$", README, re.MULTILINE)[0]
    words = shlex.split(first)
    assert words[:4] == ["sudo", "python3", "-m", "btrfs_backup_ng"]
    assert words[4] in VERBS
    before, develop = README.split("\n## Develop\n")
    assert "./check" in develop and "./check" not in before
    assert (CHECKOUT / "check").stat().st_mode & 0o111


def test_the_first_screen_says_for_whom_and_why():
    first, *points = README.split("\n\n")[1:3]
    assert "for people who" in first
    bullets = points[0].splitlines()
    assert len(bullets) == 6
    assert all(line.startswith("- **") and len(line) <= 120 for line in bullets)


def test_a_wrong_command_would_be_seen():
    with pytest.raises(UsageError):
        parse_task(["--no-such-option", "/home"])


def _tests_named_below(title: str) -> list[tuple[str, list[str]]]:
    """Return the items of a list, each with the tests that a comment in it names."""
    section = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    items = re.findall(r"^- (?:.*\n)(?:  .*\n)*", section, re.MULTILINE)
    return [(item, re.findall(r"\btest_\w+", item)) for item in items]


def test_each_guarantee_names_a_test_that_there_is():
    tests = {
        name
        for path in (CHECKOUT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    guaranteed = _tests_named_below("What is guaranteed")
    assert len(guaranteed) > 15
    for item, named in guaranteed:
        assert named, item
    for item, named in guaranteed + _tests_named_below("What is not"):
        assert set(named) <= tests, item


def test_each_command_has_a_row_of_exit_statuses():
    section = README.split("\n## Output and exit status\n")[1].split("\n## ")[0]
    table = [line.strip("|").split("|") for line in section.splitlines() if "|" in line]
    head, _, *rows = [[cell.strip() for cell in line] for line in table]
    assert head == ["", "0", "1", "2", "3", "4", "10"]
    assert sorted(row[0].strip("`") for row in rows[1:]) == sorted(VERBS)
    assert all(len(row) == len(head) for row in rows)
