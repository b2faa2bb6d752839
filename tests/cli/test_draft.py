"""The draft of a configuration: any of it can be read, and says what was found."""

import string
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.cli.config.jobs import plan_volumes
from btrfs_backup_ng.cli.config.keys import configuration_keys
from btrfs_backup_ng.core.configuration import parse_configuration
from btrfs_backup_ng.core.draft import Mounted, draft_of, names_of, write_draft
from btrfs_backup_ng.core.notifiers import Mail, Notifiers, read_notifiers
from btrfs_backup_ng.core.value import replace

KEYS = configuration_keys()
_PARTS = st.text(
    string.printable.replace("/", "") + "\u00e4\x7f", min_size=1, max_size=6
)
_PATHS = _PARTS.filter(lambda part: part not in (".", "..")).map(
    lambda part: f"/{part}"
)


@given(
    st.lists(_PATHS | st.sampled_from(["/", "/home", "/a-b", "/a b"]), unique=True),
    st.lists(st.sampled_from(["Another disk: \u00e4"])),
)
def test_what_is_drafted_is_a_configuration_of_all_volumes(paths, remarks):
    paths = sorted(path for path in paths if draft_of([Mounted(path)]).volumes)
    draft = draft_of([Mounted("/mnt/usb"), *map(Mounted, paths)], remarks)
    text = write_draft(draft)
    configuration = parse_configuration(text, "/c", KEYS)
    assert configuration.top["keep"].value.value == "24h 7d 4w"
    names = names_of(paths)
    assert len({*names.values()}) == len(paths)
    if paths:
        sources = {
            n: v.settings["source"].value for n, v in configuration.volumes.items()
        }
        assert sources == {name: (path,) for path, name in names.items()}
        place = configuration.targets["disk"].settings["place"].value
        assert place == "/mnt/usb/{volume}"


def test_disks_are_told_from_volumes_by_where_they_are_mounted():
    uuid = "3f0c0000-0000-4000-8000-000000000001"
    names = ["/srv", "/", "/mnt/usb", "/media/me/b", "/tmp/x", "/run/x", "/.snapshots"]
    found = [Mounted(name, uuid, "big") for name in [*names, "/run/media/me/a"]]
    draft = draft_of(found)
    assert draft.volumes == ("/", "/srv")
    assert (draft.target, draft.filesystem) == ("/media/me/b", uuid)
    assert draft.remarks == (
        "Another disk: /mnt/usb big",
        "Another disk: /run/media/me/a big",
    )
    text = write_draft(draft)
    assert "# Another disk: /mnt/usb big\n" in text and f'"{uuid}"' in text
    plans = plan_volumes(parse_configuration(text, "/c", KEYS))
    assert [str(plan.job.destinations[0].location) for plan in plans] == [
        "/media/me/b/root",
        "/media/me/b/srv",
    ]


def test_a_draft_of_nothing_is_an_example():
    text = write_draft(draft_of([]))
    (plan,) = plan_volumes(parse_configuration(text, "/c", KEYS))
    assert [str(place) for place in plan.job.places] == ["/home", "/mnt/usb/home"]
    assert text.count("Edit this") == 2


@pytest.mark.parametrize("can_mail", [True, False])
def test_root_hears_of_failures_where_mail_can_be_sent(can_mail: bool):
    text = write_draft(draft_of([], can_mail=can_mail))
    found = read_notifiers(parse_configuration(text, "/c", KEYS))
    assert found == (Notifiers(mail=Mail(("root",))) if can_mail else None)
    assert ("no sendmail" in text) != can_mail


@pytest.mark.parametrize("is_optional", [True, False])
def test_a_disk_that_may_be_away_may_not_be_away_for_ever(is_optional: bool):
    draft = replace(draft_of([Mounted("/mnt/usb")]), is_optional=is_optional)
    (plan,) = plan_volumes(parse_configuration(write_draft(draft), "/c", KEYS))
    wanted = timedelta(days=30) if is_optional else None
    assert plan.targets[0].max_age == wanted
