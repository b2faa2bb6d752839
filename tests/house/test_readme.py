"""What README tells people to type works."""

import re
import shlex
from importlib import import_module

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.argv import expand, split_tasks
from btrfs_backup_ng.cli.backup_options import parse_task, read_job
from btrfs_backup_ng.cli.commands import VERBS, doctor
from btrfs_backup_ng.cli.parser import parse_places
from btrfs_backup_ng.core.location import parse_location
from btrfs_backup_ng.core.policy import Policy
from tests.support.program import CHECKOUT

README = (CHECKOUT / "README.md").read_text()
COMMANDS = re.findall(r"[`$ ]btrfs-backup-ng ((?:-|/|ssh:)[^`\n]*)", README)
DOCTOR = re.findall(r"[`$ ]btrfs-backup-ng doctor ([^`\n]*)", README)
#: Of verbs: in a table, in a sentence, or behind a prompt.
CALLS = re.findall(
    rf"[`$ ]btrfs-backup-ng ((?:{'|'.join(VERBS)})(?: [^`\n]*)?)(?=[`\n])", README
)
EXAMPLE = re.search(r"    # (/etc/\S+)\n((?:    .*\n)+)", README)


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_understood(command):
    words = [word for word in shlex.split(command) if not word.startswith("@")]
    if words == ["-q"]:
        words.append("/home")
    for task in split_tasks(words):
        if "--help" not in task:
            read_job(parse_task(task))


@pytest.mark.parametrize("command", CALLS)
def test_each_call_of_a_verb_is_understood(command):
    verb, *words = shlex.split(command)
    parse_places(import_module(VERBS[verb]).build_parser(), words)


def test_the_calls_are_of_nearly_all_verbs():
    assert {shlex.split(command)[0] for command in CALLS} >= set(VERBS) - {"demo"}


def test_each_call_of_the_doctor_is_understood():
    assert DOCTOR
    for command in DOCTOR:
        options = parse_places(doctor.build_parser(), shlex.split(command))
        for place in options.places:
            parse_location(place, working_directory="/")


def test_the_example_file_is_understood(tmp_path):
    assert EXAMPLE
    file = tmp_path / "arguments"
    file.write_text("".join(line[4:] + "\n" for line in EXAMPLE[2].splitlines()))
    (task,) = split_tasks(expand([f"@{file}"]))
    job = read_job(parse_task(task))
    assert job.keep_source == Policy(latest=24)
    assert [one.keep for one in job.destinations] == 2 * [Policy(latest=60)]
    assert job.wait_s == 3600
    assert len(job.destinations) == 2


def test_the_first_two_commands_are_the_demo_and_the_check():
    first, second = re.findall(r"^    ((?:sudo |\./).*)$", README, re.MULTILINE)[:2]
    words = shlex.split(first)
    assert words[:4] == ["sudo", "python3", "-m", "btrfs_backup_ng"]
    assert words[4] in VERBS
    assert (CHECKOUT / second).stat().st_mode & 0o111


def test_a_wrong_command_would_be_seen():
    with pytest.raises(UsageError):
        parse_task(["--no-such-option", "/home"])


def test_the_exit_statuses_of_help_and_readme_agree():
    table = re.findall(r"^\| (\d+|128\+N) \|", README, re.MULTILINE)
    assert table == ["0", "1", "2", "3", "4", "10", "70", "128+N"]
