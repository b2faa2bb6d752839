"""The jobs of a configuration: those that the same options of a call would make."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from btrfs_backup_ng.__util__ import (
    BackupError,
    UsageError,
    attempt,
    visible,
)
from btrfs_backup_ng.cli import values
from btrfs_backup_ng.cli.backup_options import add_backup_options, read_job
from btrfs_backup_ng.cli.config.keys import OptionValue
from btrfs_backup_ng.cli.config.sources import (
    Member,
    check_here,
    is_here,
    machine,
    members_of,
    prefixes,
)
from btrfs_backup_ng.cli.parser import Parser, parse_places
from btrfs_backup_ng.core.conditions import Conditions, read_conditions, read_max_age
from btrfs_backup_ng.core.configuration import (
    Configuration,
    Setting,
    Settings,
    VolumeSection,
    chosen,
    did_you_mean,
)
from btrfs_backup_ng.core.location import Location
from btrfs_backup_ng.core.model import Destination, Job
from btrfs_backup_ng.core.upkeep import Upkeep, read_upkeep
from btrfs_backup_ng.core.value import EMPTY, Value, replace

T = TypeVar("T")

#: Options that answer one question in two ways; the more special one counts.
_RIVALS = {
    "num_snapshots": "keep",
    "num_backups": "keep_at",
    "no_incremental": "TransferOptions.incremental",
}
_RIVALS |= {other: one for one, other in _RIVALS.items()}
#: A name in a place, but no variable of a shell.
_NAMED = re.compile(r"(?<!\$)\{(\w+)\}")
#: The section of settings that the call gives.
COMMAND_LINE = "command line"

#: Options by their places of argparse, each with the setting that it comes from.
Options = Mapping[str, Setting]


class TargetPlan(Value):
    """A volume at one target.

    :ivar name: of the target; of one without a section, its place.
    :ivar options: those that count here.
    :ivar max_age: of the newest backup of the volume there, None for any.
    """

    name: str
    conditions: Conditions
    options: Options
    max_age: timedelta | None = None
    upkeep: Upkeep = Upkeep()


class VolumePlan(Value):
    """A source, and all that a run does for it.

    :ivar name: of the volume, with its name of ``each``, and with the last part of its
        path if there are several sources.
    :ivar targets: one for each destination of the job.
    :ivar options: those that count at the source.
    :ivar max_age: of its newest snapshot, None for any.
    """

    name: str
    volume: str
    job: Job
    conditions: Conditions
    targets: tuple[TargetPlan, ...]
    options: Options
    max_age: timedelta | None = None


def plan_volumes(
    configuration: Configuration,
    given: Mapping[str, Any] = EMPTY,
    *,
    wanted: Sequence[str] = (),
    only: Sequence[str] = (),
    may_be_elsewhere: bool = False,
) -> list[VolumePlan]:
    """Return what a run on this machine does for each volume.

    :param given: options of the call, by their places of argparse.
    :param wanted: names of volumes; without any, all.
    :param only: names of targets; without any, all.
    :param may_be_elsewhere: the wanted ones may be on other machines.
    :raises UsageError: if anything of the configuration makes no sense, also where it
        is not wanted, or is on other machines only.
    """
    if not configuration.volumes:
        raise configuration.error(
            1, "volumes", "no volume is configured", "Add one:  [volumes.NAME]"
        )
    builder = _Builder(configuration, given)
    plans, others = list[VolumePlan](), list[VolumePlan]()
    for name, section in configuration.volumes.items():
        (plans if is_here(section) else others).extend(builder.plans(name))
    _check_series(configuration, plans)
    if not may_be_elsewhere:
        check_here(configuration, wanted)
    every = [*plans, *others]
    names = {name for plan in every for name in prefixes(plan.name)}
    _check_names("volume", wanted, names | builder.names)
    targets = [target.name for plan in every for target in plan.targets]
    _check_names("target", only, [*configuration.targets, *targets])
    chosen = [
        plan for plan in plans if not wanted or {*prefixes(plan.name)} & {*wanted}
    ]
    return list(_with_targets(chosen, only)) if only else chosen


def configured_jobs(
    configuration: Configuration, given: Mapping[str, Any]
) -> int | None:
    """Return how many tasks may run at once, or None: as many as usual."""
    options = _merged([configuration.top, _of_the_call(given)])
    return options["at_once"].value.value if "at_once" in options else None


def given_options(parser: Parser, words: Sequence[str]) -> dict[str, Any]:
    """Return the options of a backup that a call gives, by their places of argparse.

    :param parser: of the command; it is of no use afterwards.
    :param words: which it could read.
    """
    of_backups = backup_parser()
    for action in parser.options:
        action.default = argparse.SUPPRESS
    given = vars(parse_places(parser, words))
    places = {action.dest for action in of_backups.options}
    return {dest: value for dest, value in given.items() if dest in places}


def backup_parser() -> Parser:
    """Return a parser that has only the options of a backup."""
    parser = Parser("", usage=[], description="")
    add_backup_options(parser)
    return parser


def _with_targets(
    plans: Sequence[VolumePlan], only: Sequence[str]
) -> Iterator[VolumePlan]:
    """Yield the plans that have one of some targets, without their other targets."""
    for plan in plans:
        pairs = list(zip(plan.targets, plan.job.destinations))
        kept = [pair for pair in pairs if pair[0].name in only]
        if kept:
            targets, destinations = zip(*kept)
            job = replace(plan.job, destinations=destinations)
            yield replace(plan, job=job, targets=targets)


def _check_names(kind: str, words: Sequence[str], known: Any) -> None:
    for word in words:
        if word not in known:
            names = sorted(known)
            raise UsageError(
                f"the configuration has no {kind} {visible(word)!r}",
                hint=did_you_mean(word, names)
                or f"It has:  {visible(', '.join(names))}",
            )


class _Builder:
    """Makes the jobs of volumes."""

    def __init__(self, configuration: Configuration, given: Mapping[str, Any]) -> None:
        self._configuration = configuration
        self._given = _of_the_call(given)
        self._defaults = {a.dest: a.default for a in backup_parser().options}
        #: Those of all volumes so far, also of such without a source now.
        self.names: set[str] = set()

    def plans(self, name: str) -> Iterator[VolumePlan]:
        """Yield the plan of each source of a volume.

        On another machine the patterns match something else, so they stay as they are.
        """
        section = self._configuration.volumes[name]
        conditions = read_conditions(*self._configuration.levels(name))
        sources = section.settings["source"]
        for member in members_of(self._configuration, section):
            self.names |= {*prefixes(member.name)}
            paths = member.paths() if is_here(section) else member.words
            if not paths and not conditions.optional:
                text = f"no subvolume matches {sources.text}"
                raise self._error(sources, text, "If that is fine:  optional = true")
            ends = [path.rstrip("/").rpartition("/")[2] for path in paths]
            for path, end in zip(paths, ends):
                if ends.count(end) > 1:
                    text = f"two sources end with {visible(end)!r}"
                    raise self._error(sources, text, "Give each a volume of its own.")
                full_name = member.name if member.is_one else f"{member.name}/{end}"
                yield self._plan(section, member, full_name, path, conditions)

    def _plan(
        self,
        section: VolumeSection,
        member: Member,
        name: str,
        source: str,
        conditions: Conditions,
    ) -> VolumePlan:
        configuration = self._configuration
        names = section.settings["to"].value if "to" in section.settings else ()
        places = [self._place(section, target, name, member) for target in names]
        self._located(section.settings["source"], source)
        options = _merged([*configuration.levels(section.name), self._given])
        job = self._job(section, options, [source, *places])
        targets: list[TargetPlan] = []
        destinations: list[Destination] = []
        for target, place in zip(names, places):
            levels = configuration.levels(section.name, target)
            at = _merged([*levels, self._given])
            one = self._job(section, at, [source, place])
            destinations += one.destinations
            conditions_there = read_conditions(*levels[1::2])
            age = read_max_age(*levels)
            upkeep = read_upkeep(*levels)
            targets.append(TargetPlan(target, conditions_there, at, age, upkeep))
            if place.startswith("shell://"):
                self._check_command(levels)
            elif upkeep.restore_test and not upkeep.scratch:
                text = "it needs a directory on btrfs to restore to"
                hint = 'Name one:  scratch = "/mnt/spare"'
                setting = chosen(Upkeep.NAMES, levels)["restore-test"]
                raise self._error(setting, text, hint)
        job = replace(job, destinations=tuple(destinations))
        return VolumePlan(
            name=name,
            volume=section.name,
            job=job,
            conditions=conditions,
            targets=tuple(targets),
            options=options,
            max_age=read_max_age(*configuration.levels(section.name)),
        )

    def _place(
        self, section: VolumeSection, target: str, name: str, member: Member
    ) -> str:
        """Return the place of a target, with the names in it replaced."""
        if target in self._configuration.targets:
            setting = self._configuration.targets[target].settings["place"]
            text = setting.value
        else:
            setting, text = section.settings["to"], target
        known = {"volume": name, "host": machine()}
        known |= {"each": member.each} if member.each else {}
        for word in _NAMED.findall(text):
            if word not in known:
                hint = "Known are {volume} and {host}; {each} in a volume with  each."
                raise self._error(setting, f"unknown name {{{visible(word)}}}", hint)
        text = _NAMED.sub(lambda match: known[match[1]], text)
        self._located(setting, text)
        return str(text)

    def _located(self, setting: Setting, text: str) -> Location:
        """Read a place.

        :raises UsageError: if the text is not a place; with its line.
        """
        found = attempt(lambda: values.location(text))
        if isinstance(found, UsageError):
            raise self._configuration.error_in(setting, found) from found
        assert isinstance(found, Location)
        return found

    def _check_command(self, levels: Sequence[Settings]) -> None:
        for level in levels[1::2]:
            for name in (*Conditions.NAMES, *Upkeep.NAMES):
                if name in level:
                    text = "a command (shell://) cannot be looked at"
                    raise self._error(level[name], text)

    def _job(
        self, section: VolumeSection, options: Options, places: Sequence[str]
    ) -> Job:
        """Return the job of options and places.

        :raises UsageError: if they contradict each other; with the line of the setting
            without which they do not.
        """

        def read(some: Options) -> Job:
            found = {dest: setting.value.value for dest, setting in some.items()}
            every = {**self._defaults, **found, "places": list(places)}
            return read_job(argparse.Namespace(**every))

        job = attempt(lambda: read(options))
        if not isinstance(job, BackupError):
            return job
        for dest, setting in reversed([*options.items()]):
            rest = {key: each for key, each in options.items() if key != dest}
            without = attempt(lambda: read(rest))
            if not _fails_as(without, job):
                is_given = setting.section == COMMAND_LINE
                raise job if is_given else self._configuration.error_in(setting, job)
        name = f"volumes.{section.name}"
        raise self._configuration.error(section.line, name, job.message, job.hint)

    def _error(self, setting: Setting, text: str, hint: str = "") -> UsageError:
        return self._configuration.error_in(setting, UsageError(text, hint=hint))


def _fails_as(found: object, error: BackupError) -> bool:
    return isinstance(found, BackupError) and found.message == error.message


def _of_the_call(given: Mapping[str, Any]) -> Settings:
    """Return options of the call as settings."""
    return {
        dest: Setting(dest, "", OptionValue(dest, value), COMMAND_LINE, line=0)
        for dest, value in given.items()
    }


def _merged(levels: Sequence[Settings]) -> dict[str, Setting]:
    """Return the options that count, by their places of argparse.

    :param levels: the most general one first.
    """
    found: dict[str, Setting] = {}
    for level in levels:
        options = [
            each for each in level.values() if isinstance(each.value, OptionValue)
        ]
        options += [_joined(each) for each in level.values() if _is_list(each)]
        # Of two keys for one field, the one that is set counts.
        options.sort(key=lambda each: not each.value.is_unset)
        for each in options:
            if not each.value.is_unset:
                found.pop(_RIVALS.get(each.value.dest, ""), None)
        for each in options:
            found.pop(each.value.dest, None)  # the last ones are the most special
            found[each.value.dest] = each
    return found


def _is_list(setting: Setting) -> bool:
    value = setting.value
    return (
        isinstance(value, tuple) and bool(value) and isinstance(value[0], OptionValue)
    )


def _joined(setting: Setting) -> Setting:
    """Return the setting of an option that may be repeated, with one list."""
    first, every = setting.value[0], [v for one in setting.value for v in one.value]
    return replace(setting, value=replace(first, value=every))


def _check_series(configuration: Configuration, plans: Sequence[VolumePlan]) -> None:
    """Check that no two volumes have backups with one prefix at one place.

    They could not be told apart, so no policy could delete any. The same counts for
    the snapshots of one source.
    """
    seen: dict[tuple[Location, str, str], VolumePlan] = {}
    for plan in plans:
        job, prefix = plan.job, plan.job.naming.prefix
        series = [(job.source, job.snapshot_folder, prefix)]
        series += [
            (one.location, "", prefix)
            for one in job.destinations
            if not one.location.is_command
        ]
        for each in series:
            other = seen.setdefault(each, plan)
            if other is not plan:
                section = configuration.volumes[plan.volume]
                raise configuration.error(
                    section.line,
                    f"volumes.{plan.volume}",
                    f"{visible(plan.name)} and {visible(other.name)} both have names"
                    f" that begin with {visible(prefix)!r} at {visible(str(each[0]))}",
                    "Give each a directory of its own, with {volume} in the place, or a"
                    " prefix:  snapshot-prefix",
                )
