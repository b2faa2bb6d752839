"""Each setting counts where it did for btrbk, wherever it stands in the file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.core.btrbk.settings import (
    Path,
    Setting,
    Volume,
    place_settings,
)

TARGETS = ("usb", "nas", "far")
#: A text that is always set, a text and a flag that may be, and the settings of ssh,
#: which only count where a place is on another machine.
ALWAYS, TEXT, FLAG = st.sampled_from("ab"), st.sampled_from(["a", None]), st.booleans()
AT = st.fixed_dictionaries(
    {"keep-at": ALWAYS, "rate": TEXT, "no-incremental": FLAG.map(lambda on: on or None)}
)
SUDO = st.fixed_dictionaries({}, optional={"ssh-sudo": FLAG.map(lambda on: on or None)})
VOLUMES = st.lists(
    st.builds(
        lambda own, ssh, at: Volume(1, "", "/", {**own, **ssh}, at),
        st.fixed_dictionaries({"keep": ALWAYS, "snapshot-folder": ALWAYS}),
        SUDO,
        st.dictionaries(
            st.sampled_from(TARGETS),
            st.builds(lambda at, ssh: {**at, **ssh}, AT, SUDO),
        ),
    ),
    min_size=1,
    max_size=4,
)


@given(VOLUMES)
def test_each_setting_counts_where_it_did(made):
    volumes = [
        Volume(1, f"v{number}", "/", one.own, one.at) for number, one in enumerate(made)
    ]
    found = place_settings(volumes)
    for volume in volumes:
        above = ("volumes", volume.name)
        for target, settings in (("", volume.own), *volume.at.items()):
            levels: list[Path] = [(), above]
            if target:
                levels = [(), ("targets", target), above, (*above, "at", target)]
            counting: dict[str, Setting] = {}
            for path in levels:
                if path in found:
                    counting |= found[path]
            for key, value in settings.items():
                assert (counting.get(key) or None) == value, (key, volume, found)


def test_what_is_the_same_everywhere_is_one_line():
    at = {"usb": {"keep-at": "7d"}, "nas": {"keep-at": "7d"}}
    own = {"keep": "24h", "snapshot-folder": "/snaps"}
    volumes = [Volume(1, name, "/", own, at) for name in ("a", "b")]
    assert place_settings(volumes) == {
        (): {"keep": "24h", "keep-at": "7d"},
        ("volumes", "a"): {"snapshot-folder": "/snaps"},
        ("volumes", "b"): {"snapshot-folder": "/snaps"},
    }


def test_the_usual_value_stands_above_and_the_others_where_they_count():
    own = {"keep": "24h"}
    at = {"usb": {"keep-at": "7d"}, "nas": {"keep-at": "30d"}}
    volumes = [Volume(1, "a", "/", own, at), Volume(1, "b", "/", own, at)]
    by_target = {
        (): {"keep": "24h"},
        ("targets", "usb"): {"keep-at": "7d"},
        ("targets", "nas"): {"keep-at": "30d"},
    }
    assert place_settings(volumes) == by_target
    other = Volume(1, "c", "/", {"keep": "all"}, {"usb": {"keep-at": "30d"}})
    assert place_settings([*volumes, other]) == {
        (): {"keep": "24h", "keep-at": "30d"},
        ("volumes", "a", "at", "usb"): {"keep-at": "7d"},
        ("volumes", "b", "at", "usb"): {"keep-at": "7d"},
        ("volumes", "c"): {"keep": "all"},
    }
