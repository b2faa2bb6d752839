"""The argument files of backups, as the words of another verb name them."""

import argparse
import os
from collections.abc import Collection, Iterator, Sequence

from btrfs_backup_ng.__util__ import UsageError, attempt, visible
from btrfs_backup_ng.cli.argv import FileWord, expand_each, naming_line, split_tasks
from btrfs_backup_ng.cli.backup_options import build_parser, parse_task, read_job
from btrfs_backup_ng.cli.parser import Parser, parse_places
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Job, Role, SshOptions

#: Options of a backup that say which policies prune, and where.
POLICIES = ("--keep", "--keep-at", "--keep-zone")
PREFIX = "--snapshot-prefix"
WAIT = "--wait"
_FOLDER = "--snapshot-folder"
_HOST_KEYS = "--ssh-host-key-policy"


class JobFiles:
    """The argument files of one call, which are of the verb itself or of backups.

    :ivar wanted: options that count for the verb, too, besides those about ssh and the
        folder of snapshots.
    :ivar roles: which of their places are places of the verb, too: sources, which have
        snapshots, and destinations, which have backups.
    :ivar jobs: the jobs of the argument files.
    """

    def __init__(
        self,
        parser: Parser,
        wanted: Collection[str] = (),
        roles: Collection[Role] = tuple(Role),
    ) -> None:
        self.parser = parser
        self.wanted = wanted
        self.roles = roles
        self.jobs: list[Job] = []

    def expand(self, words: Sequence[str]) -> list[str]:
        """Put the words of each ``@FILE`` in its place, those of a backup's translated.

        Its options come first, so that those of the call replace them.

        :raises UsageError: for a file without sense.
        """
        if not any(word.startswith("@") for word in words):
            return list(words)
        options: list[str] = []
        others: list[str] = []
        valued = self.parser.valued
        for each in expand_each(words, valued, valued | build_parser().valued):
            if each and isinstance(each[0], FileWord):
                found, each = self._translated(each)
                options += found
            others += each
        return options + others

    def _translated(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the options that count and the places of a file."""
        each = split_tasks(words)
        try:
            tasks = [naming_line(task, parse_task) for task in each]
            for word in (word for task in tasks for word in task.places):
                _check_place(word)
        except UsageError:
            own = attempt(lambda: parse_places(self.parser, words))
            if isinstance(own, UsageError):
                raise
            return [], list(words)
        jobs = [
            naming_line(task, lambda some: read_job(parse_task(some)))
            for task, options in zip(each, tasks)
            if options.places
        ]
        found, *others = [list(self._options(task)) for task in tasks]
        if any(other != found for other in others):
            raise UsageError(
                "the tasks of the file differ in options that matter here",
                hint="Name the places of one, with its options.",
            )
        self.jobs += jobs
        places = (place for job in jobs for place in self._places(job))
        return found, list(dict.fromkeys(map(str, places)))

    def _places(self, job: Job) -> Iterator[Location]:
        """Yield the places of a job that are places of the verb."""
        source, *destinations = job.places
        if Role.SNAPSHOT in self.roles:
            yield source
        if Role.BACKUP in self.roles:
            yield from (place for place in destinations if not place.is_command)

    def _options(self, task: argparse.Namespace) -> Iterator[str]:
        """Yield the options of a task that count for the verb."""
        counts = {"--keep": task.num_snapshots, "--keep-at": task.num_backups}
        for option, count in counts.items():
            if count is not None and option in self.wanted:
                yield f"{option}=latest={count}"
        for action in build_parser().options:
            option, value = action.option_strings[-1], getattr(task, action.dest, None)
            if value == action.default or not self._counts(action.dest, option):
                continue
            if action.nargs == 0:
                yield option
            else:
                for each in value if isinstance(value, list) else [value]:
                    yield f"{option}={each}"

    def _counts(self, dest: str, option: str) -> bool:
        is_about_ssh = dest.startswith(f"{SshOptions.__name__}.")
        is_wanted = option in (_FOLDER, _HOST_KEYS, *self.wanted)
        return (is_about_ssh or is_wanted) and self.parser.knows(option)


def _check_place(word: str) -> None:
    if not ("/" in word or ":" in word or os.path.lexists(word)):
        raise UsageError(f"{visible(word)} is not a place that exists")
