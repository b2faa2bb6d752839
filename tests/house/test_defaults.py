"""A default stands once: in the model, from where the parsers take it."""

import argparse
from importlib import import_module
from typing import Any

import pytest

from btrfs_backup_ng.cli import backup_options
from btrfs_backup_ng.cli.commands import VERBS
from btrfs_backup_ng.cli.parser import OptionGroup, read_fields
from btrfs_backup_ng.core.model import Destination, Job, SshOptions, TransferOptions

TREES = [
    backup_options.build_parser(),
    *(import_module(VERBS[verb]).build_parser() for verb in VERBS),
]
#: Options whose parser has the default: none is a field of the model.
OWN = {
    *("help", "places", "verbose", "verbosity", "quiet", "debug", "progress", "json"),
    *("version", "keep", "keep_at", "keep_zone", "num_snapshots", "num_backups"),
    *("snapshot_folder", "snapshot_prefix", "wait", "no_incremental", "as_root"),
    *("locked_destinations", "at_once"),
    *("ssh_host_key_policy", "to", "writable", "replaces", "file", "files_from"),
    *("null", "dry_run", "simulate", "every", "staging", "one_source"),
    *("id", "yes", "force", "no_times", "at", "diff", "source", "data"),
    *("restore_test", "scratch", "subset", "sudoers", "install_missing"),
    "slow",
    *("config", "only", "output", "notify"),
    *("hourly", "daily", "oncalendar", "on_mount", "user"),
    *("max_age", "forget", "since", "failures", "latest", "size"),
    *("check", "warn", "crit", "metrics", "html", "watch", "watch_every"),
}


def test_parsers_follow_the_model():
    task = backup_options.parse_task(["/a"])
    assert read_fields(SshOptions, task) == SshOptions()
    assert read_fields(TransferOptions, task) == TransferOptions()
    job = backup_options.read_job(task)
    bare = Job(job.source, (), job.naming, job.snapshot_folder)
    assert job == bare


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.prog)
def test_no_further_option_has_a_default_of_its_own(tree: argparse.ArgumentParser):
    models = {kind.__name__ for kind in (Destination, Job, SshOptions, TransferOptions)}
    for action in tree._actions:
        kind, dot, _ = action.dest.partition(".")
        assert kind in (models if dot else OWN), action.option_strings


def test_a_field_of_the_model_takes_no_other_default():
    settings: dict[str, Any] = {"default": 1.0}
    group = OptionGroup(argparse.ArgumentParser(), SshOptions)
    with pytest.raises(TypeError):
        group.add("silence_s", "--other-timeout", **settings)
