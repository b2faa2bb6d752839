"""The configuration: sections, inheritance, lines and errors."""

import string
import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.core.configuration import (
    ConfigKey,
    Configuration,
    Scope,
    find_lines,
    parse_configuration,
)

PATH = "/etc/some.toml"
ANYWHERE = frozenset(Scope)
KEYS = {
    key.name: key
    for key in (
        ConfigKey("keep", frozenset({Scope.TOP, Scope.VOLUME}), str),
        ConfigKey("rate", ANYWHERE, int),
        ConfigKey("sudo", ANYWHERE, bool, is_flag=True),
        ConfigKey("opt", ANYWHERE, str, is_list=True),
        ConfigKey("source", frozenset({Scope.VOLUME}), str, is_list=True),
        ConfigKey("to", frozenset({Scope.VOLUME}), str, is_list=True),
        ConfigKey("place", frozenset({Scope.TARGET}), str),
    )
}

TEXT = """\
keep = "24h 7d"     # for all

[targets.usb]
place = "/mnt/usb"
rate = 5

[volumes.home]
source = "/home"
to = [
  "usb",            # a name
  "ssh://nas/srv",
]
rate = 7
[volumes.home.at.usb]
sudo = true

["volumes" . root]
source = '/'
at."ssh://nas/srv".rate = 9
to = "ssh://nas/srv"
"""


def parse(text: str) -> Configuration:
    return parse_configuration(text, PATH, KEYS)


def complaint(text: str) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.message.startswith("line "), caught.value.message
    return caught.value.message, caught.value.hint


def test_every_setting_has_its_section_and_line():
    found = parse(TEXT)
    home = found.volumes["home"]
    assert found.top["keep"].value == "24h 7d" and found.top["keep"].line == 1
    assert found.targets["usb"].line == 3 and home.line == 7
    assert found.targets["usb"].settings["rate"].section == "targets.usb"
    assert home.settings["to"].value == ("usb", "ssh://nas/srv")
    assert (home.settings["to"].line, home.settings["rate"].line) == (9, 13)
    assert home.at["usb"]["sudo"].value is True
    assert home.at["usb"]["sudo"].line == 15
    root = found.volumes["root"]
    assert root.settings["to"].value == ("ssh://nas/srv",)
    assert root.at["ssh://nas/srv"]["rate"].line == 19


def test_the_levels_come_with_the_most_special_one_last():
    found = parse(TEXT)
    rates = [
        level["rate"].value if "rate" in level else None
        for level in found.levels("home", "usb")
    ]
    assert rates == [None, 5, 7, None]
    assert found.levels("home") == [found.top, found.volumes["home"].settings]
    assert [*found.levels("root", "ssh://nas/srv")[3]] == ["rate"]


MINIMAL = '[volumes.home]\nsource = "/home"\n'


@pytest.mark.parametrize(
    ("text", "parts", "hint"),
    [
        ("keep = ", ["line 1 ", "not TOML"], ""),
        ('keep = "a"\nkeep = "b"', ["line 2 ", "not TOML"], ""),
        ('keep = """a', ["line 1 ", "not TOML"], ""),
        ("keep = " + "[" * 9999, ["line 1 ", "not TOML"], ""),
        ("\nkep = 1", ["line 2 ", ": kep: unknown key"], "Did you mean:  keep"),
        ("[target.usb]", ["target: unknown section"], "Did you mean:  targets"),
        ("targets = 1", ["targets: expected a section [targets.NAME]"], ""),
        ("[targets]\nusb = 1", ["line 2", "targets.usb: expected a section"], ""),
        ("[targets.usb]\nkeep = 'a'", ["line 2", "keep: it may stand above the first"
         " section or in [volumes.NAME] only"], ""),
        ("source = '/'", ["source: it may stand in [volumes.NAME] only"], ""),
        ("rate = true", ["rate: expected a text or a number"], ""),
        ("rate = 2020-01-01", ["rate: expected a text or a number"], ""),
        ("rate = [1]", ["rate: expected a text or a number"], ""),
        ("rate = 'x'", ["rate: invalid literal"], ""),
        ("sudo = 1", ["sudo: expected true or false"], ""),
        ("opt = 1", ["opt: expected a text, or a list of at least one"], ""),
        ("opt = []", ["opt: expected a text, or a list of at least one"], ""),
        ('keep = "\\u0000"', ["keep: a text cannot contain a NUL"], ""),
        ("[volumes.home]", ["line 1", "volumes.home: it needs a source"], ""),
        (MINIMAL + "to = 'usb'\n[targets.usb]", ["targets.usb: it needs a place"], ""),
        (MINIMAL + "to = 'ubs'\n[targets.usb]\nplace='/u'",
         ["line 3", "volumes.home.to: there is no target 'ubs'"], "Did you mean:  usb"),
        (MINIMAL + "to = 'usb'\nat.ubs.rate = 1\n[targets.usb]\nplace='/u'",
         ["volumes.home.at.ubs: the volume does not go to 'ubs'"], "usb"),
        ("\ntargets.u.rate = 1\ntargets.u.x = 1", ["line 3", "targets.u.x: "], ""),
        ("\nvolumes.home.to = '/x'", ["line 2", "home: it needs a source"], ""),
        ('[volumes."a/b"]\nsource = "/"', ['volumes."a/b": a name consists of'], ""),
        ('[volumes.".."]\nsource = "/"', ["a name consists of"], ""),
        ("[[volumes.home]]\nsource = '/'", ["volumes.home: expected a section"], ""),
        ('"a\\u001bb" = 1', ['"a\\x1bb": unknown key'], ""),
    ],
)  # fmt: skip
def test_an_error_names_line_and_key_and_the_expectation(text, parts, hint):
    message, found = complaint(text)
    for part in parts:
        assert part in message, message
    assert hint in found
    assert f"of {PATH}: " in message and "\x1b" not in message


_WORDS = st.text(string.ascii_letters + "-_", min_size=1, max_size=4)
_TEXTS = st.text(string.printable + "äß", max_size=9)


def _quoted(text: str) -> str:
    inner = "".join(
        c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in text
    )
    return f'"{inner}"'


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[str, ...], int]]:
    """Draw a document, and the lines of its sections and keys."""
    lines: list[str] = []
    wanted: dict[tuple[str, ...], int] = {}
    sections = draw(st.lists(st.lists(_WORDS, min_size=1, max_size=3), max_size=4))
    for section in [[], *sections]:
        if section:
            if any(path[: len(section)] == tuple(section) for path in wanted):
                continue
            if any(tuple(section[: len(path)]) == path for path in wanted):
                continue
            wanted[tuple(section)] = len(lines) + 1
            lines.append(f"[{'.'.join(section)}]  # [x] = 1")
        for key in draw(st.lists(_TEXTS, max_size=3, unique=True)):
            if any(path[0] == key for path in wanted):
                continue
            value = draw(
                st.sampled_from(
                    ["1", "'#='", '"\\""', "[1,\n 2]", '"""\na = 1\n"""', "{a = [1]}"]
                    + ["'''\n[x]\n'''", "[\n# x = 1\n'[']"]
                )
            )
            wanted[(*section, key)] = len(lines) + 1
            lines += f"{_quoted(key)} = {value}".split("\n")
        lines.append("")
    return "\n".join(lines), wanted


@given(documents())
def test_the_line_of_every_key_is_found(document):
    text, wanted = document
    tomllib.loads(text)
    assert find_lines(text) == wanted


_PLAIN = ["1", "true", '"usb"', '"/x"', '["/x", "usb"]', "1e999", "9" * 5000]
_VALUES = st.recursive(
    st.sampled_from(_PLAIN) | _TEXTS.map(_quoted),
    lambda inner: st.lists(inner, max_size=2).map(lambda some: f"[{', '.join(some)}]"),
    max_leaves=3,
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["", "[targets.usb]", "[volumes.a]", "[volumes.a.at.usb]", "[[x]]"]
                + ["[volumes]", "targets"]
            ),
            st.sampled_from([*KEYS, "at", "volumes", "x", '""']),
            _VALUES,
        ),
        max_size=8,
    )
)
@example([("", "keep", "9" * 5000)])
def test_any_text_is_a_configuration_or_an_error_with_a_line(parts):
    text = "\n".join(f"{head}\n{key} = {value}" for head, key, value in parts)
    try:
        parse(text)
    except UsageError as error:
        assert error.message.startswith("line ")


@given(st.text(max_size=60))
def test_any_noise_is_a_configuration_or_an_error_with_a_line(text):
    try:
        parse(text)
    except UsageError as error:
        assert error.message.startswith("line ")
