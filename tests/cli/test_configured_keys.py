"""Every key of the configuration changes what happens; any document is read, or named.

Each key has a row: where it stands, its value, and what of a run it changes.
"""

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import BackupError, UsageError
from btrfs_backup_ng.cli.commands import run_words
from btrfs_backup_ng.cli.config.jobs import (
    TargetPlan,
    VolumePlan,
    configured_jobs,
    plan_volumes,
)
from btrfs_backup_ng.cli.config.keys import configuration_keys
from btrfs_backup_ng.core.configuration import Scope, parse_configuration
from btrfs_backup_ng.core.hooks import RUN, SNAPSHOT, Hooks, read_hooks
from btrfs_backup_ng.core.model import Destination
from btrfs_backup_ng.core.notices import NoticeKind
from btrfs_backup_ng.core.notifiers import Notifiers, read_notifiers
from btrfs_backup_ng.core.value import EMPTY, replace
from tests.cli.test_configured_jobs import VALUES

KEYS = configuration_keys()
TESTS = Path(__file__).parents[1]

#: The sections of a configuration, each with its lines.
Sections = Mapping[str, tuple[str, ...]]
HEADS = {
    Scope.TOP: "",
    Scope.TARGET: "[targets.usb]",
    Scope.VOLUME: "[volumes.home]",
    Scope.PAIR: "[volumes.home.at.usb]",
    Scope.NOTIFY: "[notify]",
}
PLAIN: Sections = {
    "": (),
    "[targets.usb]": ("place = '/mnt/usb'",),
    "[volumes.home]": ("source = '/home'", "to = 'usb'"),
    "[volumes.home.at.usb]": (),
    "[notify]": ("mail = 'root'",),
}
DISK = "3f0c0000-0000-4000-8000-000000000001"


class Effect(NamedTuple):
    """What a run does by a configuration; without the lines of the settings."""

    plan: VolumePlan
    at_once: int | None
    around_run: Hooks
    around_snapshot: Hooks
    notifiers: Notifiers

    @property
    def target(self) -> TargetPlan:
        return self.plan.targets[0]

    @property
    def destination(self) -> Destination:
        return self.plan.job.destinations[0]


class Row(NamedTuple):
    """A key.

    :ivar scope: where it stands.
    :ivar value: as the file has it.
    :ivar seen: what of the effect it changes.
    :ivar changed: the result.
    :ivar test: that shows by a run, or by its last step, that this matters.
    :ivar beside: lines that it needs in its section.
    """

    scope: Scope
    value: str
    seen: Callable[[Any], object]
    changed: object
    test: str
    beside: tuple[str, ...] = ()


TOP, TARGET, VOLUME, PAIR, NOTIFY = HEADS
_PART = "test_a_run_backs_up_what_is_configured_or_a_part_of_it"
_DISK = "test_the_right_disk_must_be_there"
_HOOKS = "test_hooks_run_around_their_steps_and_know_about_them"
_UPKEEP = "test_a_run_verifies_a_part_of_the_backups_and_restores_one_as_a_test"
_MAIL = "test_a_mail_reaches_a_server_and_a_refusal_is_named"
_TOLD = "test_a_failure_is_told_once_and_then_that_it_is_over"
_PING = "test_a_ping_goes_to_its_address_with_the_end_of_the_report"
ROWS = {
    "source": Row(VOLUME, "'/srv'", lambda e: e.plan.job.source.path, "/srv", _PART),
    "to": Row(
        *(VOLUME, "['usb', '/x']", lambda e: [one.name for one in e.plan.targets]),
        *(["usb", "/x"], _PART),
    ),
    "each": Row(
        *(VOLUME, "'x'", lambda e: e.plan.name, "home/x"),
        "test_hosts_that_hang_cost_the_others_of_a_fleet_nothing",
        ("source = '/{each}'",),
    ),
    "place": Row(TARGET, "'/x'", lambda e: str(e.destination.location), "/x", _PART),
    "optional": Row(
        *(TARGET, "true", lambda e: e.target.conditions.optional, True),
        "test_a_target_that_is_away_costs_the_others_nothing",
    ),
    "when-reachable": Row(
        *(TARGET, "true", lambda e: e.target.conditions.when_reachable, True),
        "test_a_host_that_does_not_answer_is_fine_if_it_need_not",
    ),
    "filesystem": Row(
        *(PAIR, f"'{DISK}'", lambda e: e.target.conditions.filesystem, UUID(DISK)),
        _DISK,
    ),
    "require-mount": Row(
        *(PAIR, "'/mnt'", lambda e: e.target.conditions.require_mount, "/mnt"), _DISK
    ),
    "min-free": Row(
        *(TARGET, "'1K'", lambda e: e.target.conditions.min_free, 1024), _DISK
    ),
    "only-on-ac": Row(
        *(TOP, "true", lambda e: e.plan.conditions.only_on_ac, True),
        "test_nothing_is_done_on_battery_if_power_is_asked_for",
    ),
    "only-if-changed": Row(
        *(VOLUME, "true", lambda e: e.plan.conditions.only_if_changed, True),
        "test_conditions_of_a_source",
    ),
    "before-snapshot": Row(
        *(VOLUME, "['/a', 'b']", lambda e: e.around_snapshot.before.argv, ("/a", "b")),
        _HOOKS,
    ),
    "after-snapshot": Row(
        *(TOP, "'/a'", lambda e: e.around_snapshot.after.argv, ("/a",)), _HOOKS
    ),
    "hook-timeout": Row(
        *(VOLUME, "'2min'", lambda e: e.around_snapshot.before.limit_s, 120.0),
        "test_a_failed_hook_fails_its_volume_and_no_other",
        ("before-snapshot = '/a'",),
    ),
    "before-run": Row(
        *(TOP, "'/a'", lambda e: e.around_run.before.argv, ("/a",)), _HOOKS
    ),
    "after-run": Row(
        *(TOP, "['/a']", lambda e: e.around_run.after.argv, ("/a",)), _HOOKS
    ),
    "max-age": Row(
        *(TARGET, "'2d'", lambda e: e.target.max_age, timedelta(days=2)),
        "test_a_backup_that_is_too_old_is_told_though_nothing_failed",
    ),
    "verify": Row(PAIR, "'auto/30'", lambda e: e.target.upkeep.verify, 30, _UPKEEP),
    "restore-test": Row(
        *(TARGET, "'weekly'", lambda e: e.target.upkeep.restore_test),
        *(timedelta(days=7), _UPKEEP, ("scratch = '/x'",)),
    ),
    "scratch": Row(TOP, "'/x'", lambda e: e.target.upkeep.scratch, "/x", _UPKEEP),
    "on": Row(
        *(NOTIFY, "['stale']", lambda e: e.notifiers.on, {NoticeKind.STALE}),
        "test_only_the_kinds_that_are_asked_for_are_sent",
    ),
    "mail": Row(NOTIFY, "'me@x'", lambda e: e.notifiers.mail.to, ("me@x",), _MAIL),
    "mail-from": Row(
        *(NOTIFY, "'me@x'", lambda e: e.notifiers.mail.sender, "me@x", _MAIL)
    ),
    "mail-host": Row(NOTIFY, "'x:25'", lambda e: e.notifiers.mail.host, "x:25", _MAIL),
    "mail-user": Row(
        *(NOTIFY, "'me'", lambda e: e.notifiers.mail.user, "me"),
        "test_a_password_goes_to_a_server_that_is_here_or_offers_tls",
        ("mail-password-file = '/p'",),
    ),
    "mail-password-file": Row(
        *(NOTIFY, "'/p'", lambda e: e.notifiers.mail.password_file, "/p"),
        "test_a_password_goes_to_a_server_that_is_here_or_offers_tls",
        ("mail-user = 'me'",),
    ),
    "ping": Row(
        *(NOTIFY, "'http://x'", lambda e: e.notifiers.ping.text, "http://x", _TOLD)
    ),
    "ping-file": Row(NOTIFY, "'/p'", lambda e: e.notifiers.ping.path, "/p", _PING),
    "webhook": Row(
        *(NOTIFY, "'http://x'", lambda e: e.notifiers.webhook.text, "http://x", _TOLD)
    ),
    "webhook-file": Row(
        *(NOTIFY, "'/p'", lambda e: e.notifiers.webhook.path, "/p"),
        "test_the_address_of_a_webhook_may_stand_in_a_file",
    ),
    "command": Row(NOTIFY, "'/a'", lambda e: e.notifiers.command, ("/a",), _TOLD),
}  # fmt: skip
#: Options of which the effect is seen only beside another key.
BESIDE = {"keep-zone": ("keep = '2d'", "keep-at = '3d'")}


def effect(sections: Sections) -> Effect:
    configuration = parse_configuration(written(sections), "/c", KEYS)
    (plan,) = plan_volumes(configuration)
    targets = (replace(target, options=EMPTY) for target in plan.targets)
    notifiers = read_notifiers(configuration)
    assert notifiers
    return Effect(
        replace(plan, options=EMPTY, targets=tuple(targets)),
        configured_jobs(configuration, {}),
        read_hooks(RUN, configuration.top),
        read_hooks(SNAPSHOT, *configuration.levels("home")),
        notifiers,
    )


def written(sections: Sections) -> str:
    return "".join(
        f"{head}\n" + "".join(f"{line}\n" for line in lines)
        for head, lines in sections.items()
    )


def with_line(sections: Sections, scope: Scope, *lines: str) -> Sections:
    """Return the sections with lines, instead of those with the same key."""
    head = HEADS[scope]
    keys = {line.split(" ")[0] for line in lines}
    kept = [line for line in sections[head] if line.split(" ")[0] not in keys]
    return {**sections, head: (*kept, *lines)}


def test_every_key_has_a_row():
    assert {*ROWS} | {option[2:] for option in VALUES} == {*KEYS}
    names = {row.test for row in ROWS.values()}
    text = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    assert names - {*re.findall(r"^def (test_\w+)", text, re.MULTILINE)} == set()


@pytest.mark.parametrize("key", ROWS)
def test_a_key_changes_what_happens(key: str):
    row = ROWS[key]
    before = PLAIN
    if row.beside and not row.beside[0].startswith(("mail-", "source ")):
        before = with_line(PLAIN, row.scope, *row.beside)
    after = with_line(PLAIN, row.scope, *row.beside, f"{key} = {row.value}")
    assert row.seen(effect(after)) == row.changed
    with contextlib.suppress(AttributeError):  # None without the key
        assert row.seen(effect(before)) != row.changed


@pytest.mark.parametrize("option", VALUES)
def test_a_key_that_is_an_option_changes_what_happens(option: str):
    """That it means the same as the option is tested in test_configured_jobs.py."""
    key, value = option[2:], VALUES[option]
    is_default = key == "verify-transfer"
    shown = str(not is_default).lower() if value is None else f"'{value}'"
    before = with_line(PLAIN, TOP, *BESIDE.get(key, ()))
    after = with_line(before, TOP, f"{key} = {shown}")
    assert effect(after) != effect(before)


#: Lines of a valid file: of each key, where it may stand.
LINES = [(row.scope, f"{key} = {row.value}") for key, row in ROWS.items()]
LINES += [
    (TOP, f"{option[2:]} = " + ("true" if value is None else f'"{value}"'))
    for option, value in VALUES.items()
]
#: Values of every kind.
_VALUES = st.sampled_from(
    ["1979-05-27T07:32:00Z", "1979-05-27", "07:32:00", "nan", "-inf", "1e400", "0xff"]
    + ["9" * 5000, "-1", "0", "true", "{}", "{a = 1}", "[]", "[[]]", "[1, 'a']", "''"]
    + ["'''\n\n'''", '"""a\\\n b"""', '"\\u0000"', '"\\u202e\\U0010ffff"', "'{volume}'"]
    + ["'/a\tb'", "'/\u00e4\u0301\u4e2d'", "'/'", "'//x/../y'", "'ssh://h/x'", "'a:b'"]
    + [
        "'http://[x'",
        "'http://[::1]:99999/'",
        "'http://\u2100/'",
        "'x:99999'",
        "'[::1'",
    ]
    + ["'shell://x'", "'ssh://{host}:0/x'", "'{x}'", "'usb'", "['usb', 'usb']", "'*'"]
    + ["[" * 200 + "]" * 200, "{a = " * 50 + "1" + "}" * 50, "'auto/0'", "'0s'", "'-x'"]
) | st.text(max_size=9).map(lambda text: f"'{text}'")
#: Lines that stand for something else in a document.
_ODD = st.sampled_from(
    ["[volumes.home]", "[[volumes.home]]", "[notify]", "[volumes]", "[targets]", "[x]"]
    + [
        "[volumes.home.at]",
        "[volumes.home.at.usb.more]",
        "['']",
        "volumes = 1",
        "a.b = 1",
    ]
    + [
        '["volumes"."\u00e4 b"]',
        "[volumes.b]",
        "source = ['/home', '/x']",
        "at.x.y = 1",
    ]
    + ["notify.mail = 'x'", "# \u00e4", "= 1", "x", '"', "'''", "]", "\t", "'' = 1"]
    + ["a." * 300 + "b = 1", "[volumes.b.at.'/x']", "[targets.'ssh://x']", "on = 'x'"]
)
_BYTES = st.sampled_from(
    [
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\r",
        b"\r\n",
        b"\x1b[31m",
        b"\xed\xa0\x80",
        b"\\",
    ]
)


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Draw a document that is near a valid one."""
    sections: Sections = PLAIN
    for scope, line in draw(st.lists(st.sampled_from(LINES), max_size=5)):
        key, value = line.split(" = ", 1)
        here = draw(st.just(scope) | st.sampled_from([*HEADS]))
        value = draw(st.just(value) | st.just(value) | _VALUES)
        sections = with_line(sections, here, f"{key} = {value}")
    lines = written(sections).split("\n")
    for odd in draw(st.lists(_ODD | st.sampled_from(lines), max_size=2)):
        lines.insert(draw(st.integers(0, len(lines))), odd)
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    content = end.join(lines).encode("utf-8", "surrogatepass")
    for piece in draw(st.lists(_BYTES, max_size=1)):
        at = draw(st.just(0) | st.integers(0, len(content)))
        content = content[:at] + piece + content[at + draw(st.integers(0, 3)) :]
    encoding = draw(st.sampled_from(["utf-8"] * 9 + ["utf-16"]))
    if encoding != "utf-8":
        content = content.decode("utf-8", "replace").encode(encoding)
    return content[: draw(st.sampled_from([None, None, None, len(content) // 2]))]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "config.toml"


def check(file: Path, content: bytes) -> UsageError | None:
    """Check a configuration, as `config check` does; return its error."""
    file.write_bytes(content)
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            run_words(["config", "check", "-c", str(file)])
        except UsageError as error:
            return error
        except BackupError as error:  # a program of a hook cannot be used
            assert str(file) in error.message, error.message
    assert "\x1b" not in out.getvalue() + errors.getvalue()
    return None


@given(documents())
@example(b"\xef\xbb\xbf" + written(PLAIN).replace("\n", "\r\n").encode())
def test_any_document_is_checked_or_named_with_its_line(file: Path, content: bytes):
    if error := check(file, content):
        assert re.match(rf"line \d+ of {file}[: ]", error.message), error.message
        assert int(error.message.split(" ")[1]) <= content.count(b"\n") + 1
        assert "\x1b" not in error.message + error.hint


def test_a_file_of_windows_is_read_and_another_encoding_is_named(file: Path):
    text = written(PLAIN).replace("\n", "\r\n")
    assert check(file, text.encode("utf-8-sig")) is None
    for content, line in ((b"\xff\xfe[", 1), (b"\xef\xbb\xbf\n\n# \xe4\n", 3)):
        error = check(file, content)
        assert error and error.message == f"line {line} of {file} is not UTF-8"
