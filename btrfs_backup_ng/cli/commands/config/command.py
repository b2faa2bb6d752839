"""The ``config`` verb: the configuration -> its meaning, in lines or a document."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__util__ import (
    BackupError,
    UsageError,
    attempt,
    resembling,
    visible,
)
from btrfs_backup_ng.cli.call import Call, run_command
from btrfs_backup_ng.cli.commands.config.init import init
from btrfs_backup_ng.cli.config.file import (
    configuration_path,
    next_command,
    read_configuration,
)
from btrfs_backup_ng.cli.config.jobs import (
    VolumePlan,
    backup_parser,
    plan_volumes,
)
from btrfs_backup_ng.cli.config.keys import (
    OptionValue,
    configuration_keys,
    counts_at_source,
)
from btrfs_backup_ng.cli.config.options import EPILOG_FILE, add_config
from btrfs_backup_ng.cli.config.sources import elsewhere, is_here, unmatched
from btrfs_backup_ng.cli.output import Output
from btrfs_backup_ng.cli.parser import Parser, add_display, new_parser
from btrfs_backup_ng.cli.table import table
from btrfs_backup_ng.core.conditions import CONDITION_KEYS, MAX_AGE_KEY
from btrfs_backup_ng.core.configuration import (
    ConfigKey,
    Configuration,
    Setting,
    Settings,
    chosen,
)
from btrfs_backup_ng.core.fleet import FLEET_KEYS, machines_of
from btrfs_backup_ng.core.hooks import RUN_HOOK_KEYS, SNAPSHOT_HOOK_KEYS
from btrfs_backup_ng.core.notifiers import NOTIFY_KEYS, Notifiers, read_notifiers
from btrfs_backup_ng.core.upkeep import UPKEEP_KEYS
from btrfs_backup_ng.core.value import Value
from btrfs_backup_ng.host.trust import check_program

_CHECK = "check"
_INIT = "init"
_IMPORT = "import"
_ACTIONS = (_CHECK, _INIT, _IMPORT)
_EPILOG = f"""\
actions:
  check  read the configuration, and print for each volume and each of its targets
    which settings count, and the line that each comes from. No place is looked at;
    run --dry-run does that.

  init  write a first configuration from the subvolumes and disks that are found, and
    name what is left to do. On a terminal it asks five questions. An existing one is
    never replaced.

  import  print the configuration that goes on where btrbk stops: names, retention,
    targets, ssh. FILE is a btrbk.conf (default: the one that btrbk reads). Each line
    that is not carried over, or not exactly, is named on stderr with the reason.

examples:
  {PROGRAM} config init  write a first one
  {PROGRAM} config check --notify  and send a test of the messages about failures
  {PROGRAM} config import -o new.toml  go on where btrbk stops

exit status:
  0  it can be used, or was written
  1  a test could not be sent (--notify)
  2  it has an error, which is printed with its line
  4  other users can change it, so it is not used; or there is a file already

{EPILOG_FILE}"""


class ConfigOptions(Value):
    """The options of ``config``.

    :ivar action: ``check``, ``init`` or ``import``.
    :ivar words: names of volumes, without any all; of ``import``, the file of btrbk.
    :ivar output: where ``import`` writes to, or "".
    :ivar notify: send a test through each notifier.
    """

    action: str
    path: str
    words: tuple[str, ...]
    output: str
    notify: bool


class SettingView(Value):
    """A setting, and where it stands.

    :ivar section: "" above the first section.
    """

    key: str
    value: str
    section: str
    line: int


class TargetView(Value):
    """A target of a volume."""

    target: str
    place: str
    settings: list[SettingView]


class VolumeView(Value):
    """A volume."""

    volume: str
    source: str
    settings: list[SettingView]
    targets: list[TargetView]


class TestView(Value):
    """A test of a notifier."""

    name: str
    error: BackupError | None


class CheckReport(Value):
    """The document of ``check``.

    :ivar run: settings about the whole run.
    :ivar notify: those about its messages.
    :ivar elsewhere: volumes on other machines only.
    """

    configuration: str
    run: list[SettingView]
    notify: list[SettingView]
    tests: list[TestView]
    volumes: list[VolumeView]
    unused_targets: list[str]
    elsewhere: list[str]


def main(words: Sequence[str]) -> int:
    """Check the configuration, or write one."""
    return run_command("config", words, build_parser(), read, _run)


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = new_parser(
        "config",
        usage=[
            "[options] check [VOLUME ...]",
            "[options] init",
            "[options] import [-o FILE] [FILE]",
        ],
        description="Check the configuration that run uses, or write a first one.",
        epilog=_EPILOG,
    )
    add_config(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="import: write a new file (default: print)",
    )
    parser.add_argument(
        "--notify",
        action="store_true",
        help="send a test through each notifier of [notify] (check)",
    )
    add_display(parser)
    return parser


def read(options: argparse.Namespace) -> ConfigOptions:
    """Return the options.

    :raises UsageError: if there is no such action.
    """
    action, *words = options.places or [""]
    if action not in _ACTIONS:
        meant = resembling(action, _ACTIONS) or _CHECK
        text = f"{visible(action)!r} is no action" if action else "no action given"
        raise UsageError(text, hint=f"Try:  {PROGRAM} config {meant}")
    most = {_INIT: 0, _IMPORT: 1}.get(action, len(words))
    if len(words) > most:
        raise UsageError(f"{action} takes no {visible(words[most])!r}")
    if options.output is not None and action != _IMPORT:
        raise UsageError(f"{action} takes no --output")
    if options.notify and action != _CHECK:
        raise UsageError(f"{action} takes no --notify")
    output = os.path.abspath(options.output) if options.output else ""
    path = configuration_path(options.config)
    return ConfigOptions(action, path, tuple(words), output, options.notify)


def _run(options: ConfigOptions, call: Call) -> int:
    if options.action == _INIT:
        return init(options.path, call)
    if options.action == _IMPORT:
        from btrfs_backup_ng.cli.commands.config import btrbk  # here: it is rare

        named = os.path.abspath(options.words[0]) if options.words else ""
        return btrbk.import_btrbk(named, options.output, call)
    return _check(options, call)


def _check(options: ConfigOptions, call: Call) -> int:
    configuration = read_configuration(options.path)
    plans = plan_volumes(configuration, wanted=options.words, may_be_elsewhere=True)
    output = Output(call)
    views = [_view(configuration, plan) for plan in plans]
    sections = configuration.volumes.values()
    used = {
        name
        for one in sections
        if "to" in one.settings
        for name in one.settings["to"].value
    }
    unused = [name for name in configuration.targets if name not in used]
    run = _settings(RUN_HOOK_KEYS, [configuration.top])
    notify = _settings(NOTIFY_KEYS, [configuration.notify])
    notifiers = read_notifiers(configuration)
    _check_programs(configuration)
    for title, settings in (("each run", run), ("its messages", notify)):
        if settings:
            output.line(title)
            for line in table([_row(each) for each in settings], 2):
                output.line(line)
    for view in views:
        for line in _lines(view):
            output.line(line)
    for name in unmatched(configuration, options.words):
        output.line(f"{name}: no subvolume now (optional)")
    others = elsewhere(configuration, options.words)
    for section in others:
        machines = machines_of(section)
        output.line(f"{section.name}: on other machines only ({machines})")
    for name in unused:
        output.line(f"note: no volume goes to the target {name}")
    tests = _test(notifiers, call) if options.notify else []
    for test in tests:
        if test.error:
            text = f"no test was sent by {test.name}: {test.error.message}"
            output.fail("", BackupError(text, hint=test.error.hint))
        else:
            output.line(f"{test.name}: a test was sent")
    next_step = next_command("run --dry-run", options.path)
    output.line(f"What a run would do now:  {next_step}")
    status = 1 if any(test.error for test in tests) else 0
    names = [section.name for section in others]
    report = CheckReport(options.path, run, notify, tests, views, unused, names)
    return output.finish(status, report)


def _test(notifiers: Notifiers | None, call: Call) -> list[TestView]:
    """Send a test through each notifier.

    :raises UsageError: if the configuration has none.
    """
    from btrfs_backup_ng.actions.notify.run import send_test  # here: only --notify

    if not notifiers:
        raise UsageError(
            "no notifier is configured",
            hint='Add one:  [notify]   mail = "root"',
        )
    results = send_test(notifiers, call.now)
    return [TestView(name, error) for name, error in results.items()]


def _view(configuration: Configuration, plan: VolumePlan) -> VolumeView:
    """Return the view of a volume."""
    defaults = {action.dest: action.default for action in backup_parser().options}
    is_remote = plan.job.source.is_remote
    own = {
        dest: setting
        for dest, setting in plan.options.items()
        if counts_at_source(dest, is_remote=is_remote)
    }
    general, section = configuration.levels(plan.volume)
    targets = []
    for target, destination in zip(plan.targets, plan.job.destinations):
        there = {
            dest: setting
            for dest, setting in target.options.items()
            if not counts_at_source(dest, is_remote=False)
        }
        levels = configuration.levels(plan.volume, target.name)[1::2]
        settings = [*_options(there, defaults), *_settings(CONDITION_KEYS, levels)]
        every_level = configuration.levels(plan.volume, target.name)
        settings += _settings([MAX_AGE_KEY], every_level)
        if not destination.location.is_command:
            settings += _settings(UPKEEP_KEYS, every_level)
        targets.append(TargetView(target.name, str(destination.location), settings))
    other = [*FLEET_KEYS, *CONDITION_KEYS, *SNAPSHOT_HOOK_KEYS]
    other += [] if plan.targets else [MAX_AGE_KEY]
    settings = [*_options(own, defaults), *_settings(other, [general, section])]
    return VolumeView(plan.name, str(plan.job.source), settings, targets)


def _options(
    options: Mapping[str, Setting], defaults: Mapping[str, Any]
) -> Iterator[SettingView]:
    """Yield the options that are not what they are without a setting."""
    for dest, setting in options.items():
        assert isinstance(setting.value, OptionValue)
        if setting.value.value != defaults[dest]:
            yield _setting(setting)


def _settings(
    keys: Sequence[ConfigKey], levels: Sequence[Settings]
) -> list[SettingView]:
    """Return the settings of some keys that do not only undo others."""
    found = chosen([key.name for key in keys], levels).values()
    return [_setting(each) for each in found if each.value not in (False, ())]


def _check_programs(configuration: Configuration) -> None:
    """Check that each hook can run, and that no other user can change it.

    :raises BackupError: if not, with its line.
    """
    levels = [configuration.top]
    volumes = filter(is_here, configuration.volumes.values())
    levels += [volume.settings for volume in volumes]
    levels.append(configuration.notify)
    keys = configuration_keys()
    for setting in (setting for level in levels for setting in level.values()):
        if not keys[setting.key].is_command or not setting.value:
            continue
        error = attempt(partial(check_program, setting.value[0]))
        if isinstance(error, BackupError):
            shown = configuration.error_in(setting, error)
            raise type(error)(shown.message, hint=shown.hint)


def _setting(setting: Setting) -> SettingView:
    return SettingView(setting.key, setting.text, setting.section, setting.line)


def _lines(view: VolumeView) -> Iterator[str]:
    yield f"{visible(view.volume)}: {visible(view.source)}"
    yield from table([_row(each) for each in view.settings], 2)
    for target in view.targets:
        name, place = visible(target.target), visible(target.place)
        yield f"  to {place}" if name == place else f"  to {name}: {place}"
        yield from table([_row(each) for each in target.settings], 4)


def _row(setting: SettingView) -> tuple[str, str, str]:
    section = f"[{setting.section}], " if setting.section else ""
    return setting.key, setting.value, f"{section}line {setting.line}"
