"""The plans of a configuration for many machines: ``on`` and ``each``."""

import os

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.config.jobs import VolumePlan, plan_volumes
from btrfs_backup_ng.cli.config.sources import elsewhere, unmatched
from btrfs_backup_ng.core.notices import NoticeKind
from tests.cli.test_configured_jobs import parse, plans

HERE = os.uname().nodename
ELSEWHERE = f"on = ['x-{HERE}', 'y-*']\n"
WEB = "[volumes.web]\neach = ['web1', 'web2']\nsource = 'ssh://root@{each}/srv'\n"


def places(found: list[VolumePlan]) -> list[str]:
    return [str(place) for plan in found for place in plan.job.places]


def test_a_volume_is_planned_on_its_machines_only():
    here = f"[volumes.a]\nsource = '/a'\non = ['x', '{HERE.upper()}']\n"
    # What is on another machine need not fit to what is on this one.
    other = f"[volumes.b]\nsource = ['/a', '/none/*']\nto = 't'\n{ELSEWHERE}"
    text = f"{here}{other}[targets.t]\nplace = '/t/{{volume}}'"
    assert [plan.name for plan in plans(text)] == ["a"]
    assert plans(text, wanted=["a"]) == plans(text) and plans(text, only=["t"]) == []
    for wanted in (["b"], ["a", "b"], ["b/x"]):
        with pytest.raises(UsageError, match=f"volume b is on other.*not on {HERE}"):
            plans(text, wanted=wanted)
    everywhere = plan_volumes(parse(text), wanted=["b"], may_be_elsewhere=True)
    assert everywhere == [] and unmatched(parse(text)) == []
    assert [section.name for section in elsewhere(parse(text), ["b/a"])] == ["b"]
    with pytest.raises(UsageError, match=f"all volumes .*not on {HERE}"):
        plans(other.replace("'t'", "'/t'"))


def test_each_name_makes_a_volume_of_its_own():
    text = f"{WEB}to = ['t', '/u/{{volume}}']\n[targets.t]\nplace = '/t/{{each}}/srv'"
    found = plans(text)
    assert [(plan.name, plan.volume) for plan in found] == [
        ("web/web1", "web"),
        ("web/web2", "web"),
    ]
    assert places(found) == [
        *("ssh://root@web1/srv", "/t/web1/srv", "/u/web/web1"),
        *("ssh://root@web2/srv", "/t/web2/srv", "/u/web/web2"),
    ]
    assert plans(text, wanted=["web"]) == found
    assert plans(text, wanted=["web/web2"]) == found[1:]
    only = plans(text, wanted=["web/web2"], only=["t"])
    assert places(only) == ["ssh://root@web2/srv", "/t/web2/srv"]
    with pytest.raises(UsageError) as caught:
        plans(text, wanted=["web/web3"])
    assert "Did you mean:  web/web" in caught.value.hint


def test_each_name_may_have_several_sources(tmp_path):
    text = WEB.replace("'ssh:", "['ssh://{each}/home', 'ssh:").replace("srv'", "srv']")
    found = plans(text + "to = '/t/{volume}'")
    names = ["web/web1/home", "web/web1/srv", "web/web2/home", "web/web2/srv"]
    assert [plan.name for plan in found] == names
    assert plans(text + "to = '/t/{volume}'", wanted=["web/web1"]) == found[:2]
    text = f"[volumes.v]\neach = ['a', 'b']\nsource = '{tmp_path}/{{each}}/*'\n"
    with pytest.raises(UsageError, match="no subvolume matches"):
        plans(text)
    assert plans(f"{text}optional = true", wanted=["v/b"]) == []
    assert unmatched(parse(text)) == ["v/a", "v/b"]
    assert unmatched(parse(text), ["v/b"]) == ["v/b"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[volumes.a]\nsource = '/{each}'", "line 2 .*volumes.a.source: {each} stands"),
        ("[volumes.a]\nsource = '/a'\neach = 'x'",
         "line 3 .*volumes.a.each: the source /a would be the same for each name"),
        ("[volumes.a]\nsource = ['/{each}', '/a']\neach = 'x'", "line 3 .*source /a "),
        ("[volumes.a]\nsource = '/{each}'\neach = ['x', 'y', 'x']",
         "line 3 .*volumes.a.each: x is given twice"),
        ("[volumes.a]\nsource = '/{each}'\neach = ['..']", "line 3 .*'..' is no name"),
        ("[volumes.a]\nsource = '/{each}'\neach = []", "line 3 .*each: expected a"),
        ("[volumes.a]\nsource = '/a'\non = 'x y'", "line 3 .*a.on: 'x y' is no"),
        ("[volumes.a]\nsource = '/a'\non = []", "line 3 .*volumes.a.on: expected a"),
        ("on = 'x'\n[volumes.a]\nsource = '/a'", "line 1 .*on: it may stand in .vol"),
        ("[volumes.a]\nsource = '/a'\nto = '/{each}'", "line 3 .*unknown name {each}"),
        (f"{WEB}to = '/t'", "line 1 .*web/web2 and web/web1 both have names"),
        # What is on other machines only is read, too.
        (f"[volumes.a]\nsource = '/a'\n{ELSEWHERE}to = '/{{x}}'", "line 4 .*name {x}"),
        (f"[volumes.a]\nsource = '/{{each}}'\n{ELSEWHERE}", "line 2 .*{each} stands"),
        (f"[volumes.a]\nsource = '/a'\n{ELSEWHERE}keep = '1d'\nnum-snapshots = 1",
         "line 5 .*num-snapshots: -N and --keep both"),
    ],
)  # fmt: skip
def test_a_fleet_without_sense_is_an_error_with_its_line(text, part):
    with pytest.raises(UsageError, match=part):
        plans(text)


def test_on_has_its_other_meaning_for_messages():
    text = f"{WEB}to = '/t/{{volume}}'\non = '*'\n[notify]\nmail = 'root'\non = "
    (kind,) = parse(f"{text}'stale'").notify["on"].value
    assert kind is NoticeKind.STALE and len(plans(f"{text}'stale'")) == 2
    with pytest.raises(UsageError, match="line 8 .*notify.on: '\\*' is none of"):
        parse(f"{text}'*'")
