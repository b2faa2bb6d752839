"""The jobs of a configuration are those that the classic form makes of its options."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.backup_options import parse_task, read_job
from btrfs_backup_ng.cli.commands.run import build_parser
from btrfs_backup_ng.cli.config.jobs import (
    VolumePlan,
    backup_parser,
    configured_jobs,
    given_options,
    plan_volumes,
)
from btrfs_backup_ng.cli.config.keys import (
    OF_A_CALL,
    configuration_keys,
    long_name,
    option_keys,
)
from btrfs_backup_ng.core.configuration import (
    Configuration,
    Scope,
    parse_configuration,
)
from btrfs_backup_ng.core.model import Job
from btrfs_backup_ng.core.value import replace

KEYS = configuration_keys()

#: For each option of a backup a value as on the command line, or None for a flag.
VALUES: dict[str, str | None] = {
    "--num-snapshots": "3",
    "--num-backups": "4",
    "--keep": "24h 7d",
    "--keep-at": "7d 4w",
    "--keep-zone": "Europe/Berlin",
    "--no-snapshot": None,
    "--no-transfer": None,
    "--no-prune": None,
    "--snapshot-folder": "/snap",
    "--snapshot-prefix": "pc-",
    "--sync": None,
    "--convert-rw": None,
    "--no-incremental": None,
    "--incremental": "required",
    "--rate": "10M",
    "--compress": "zstd:3",
    "--retries": "5",
    "--checkpoint-interval": "64M",
    "--max-size": "5G",
    "--no-checkpoints": None,
    "--staging-max-age": "3d",
    "--no-fan-out": None,
    "--use-mbuffer": None,
    "--no-mbuffer": None,
    "--verify-transfer": None,
    "--ssh-opt": "Port=3",
    "--ssh-sudo": None,
    "--ssh-identity-file": "/key",
    "--ssh-username": "u",
    "--no-password-auth": None,
    "--ssh-password-file": "/p",
    "--ssh-auth-sock": "/sock",
    "--ssh-host-key-policy": "strict",
    "--sudo-password-file": "/s",
    "--stall-timeout": "7m",
    "--wait": "1h",
    "--locked-destinations": None,
    "--fs-checks": "strict",
    "--skip-fs-checks": None,
    "--no-check-space": None,
    "--safety-margin": "20",
    "--backfill": None,
    "--force": None,
    "--jobs": "3",
}
#: For the keys that need another one to make a difference.
WITH = {"--keep-zone": {"keep": "2d", "keep-at": "3d"}}
#: The default, said aloud.
SAME = ("--verify-transfer",)


def parse(text: str) -> Configuration:
    return parse_configuration(text, "/etc/some.toml", KEYS)


def plans(text: str, *words: str, **how: list[str]) -> list[VolumePlan]:
    given = given_options(build_parser(), words)
    wanted, only = how.get("wanted", []), how.get("only", [])
    return plan_volumes(parse(text), given, wanted=wanted, only=only)


def job(text: str, *words: str) -> Job:
    (plan,) = plans(text, *words)
    return plan.job


def classic(*words: str) -> Job:
    return read_job(parse_task([*words, "/home", "/mnt/usb"]))


def written(option: str) -> str:
    value = VALUES[option]
    return f"{option[2:]} = " + ("true" if value is None else f"'{value}'")


def words_of(option: str) -> list[str]:
    value = VALUES[option]
    return [option] if value is None else [option, value]


VOLUME = "[volumes.home]\nsource = '/home'\n"
TO = "to = 'usb'\n"
USB = "[targets.usb]\nplace = '/mnt/usb'\n"
AT = "[volumes.home.at.usb]\n"


def test_every_option_of_a_backup_is_a_key():
    options = {long_name(action) for action in backup_parser().options} - {
        "--help",
        "--help-all",
    }
    assert options - set(OF_A_CALL) == set(VALUES)
    assert {f"--{key.name}" for key in option_keys()} == set(VALUES)


@pytest.mark.parametrize("option", VALUES)
def test_a_key_means_its_option_wherever_it_may_stand(option):
    """Each level gives the classic job; a target's, the classic destination."""
    others = WITH.get(option, {})
    more = "".join(f"{key} = '{value}'\n" for key, value in others.items())
    more_words = [w for key, value in others.items() for w in (f"--{key}", value)]
    line = written(option)
    wanted = classic(*words_of(option), *more_words)
    without = classic(*more_words)
    texts = {
        Scope.TOP: f"{more}{line}\n{VOLUME}{TO}{USB}",
        Scope.VOLUME: f"{more}{VOLUME}{TO}{line}\n{USB}",
        Scope.TARGET: f"{more}{VOLUME}{TO}{USB}{line}\n",
        Scope.PAIR: f"{more}{VOLUME}{TO}{AT}{line}\n{USB}",
    }
    for level, text in texts.items():
        if level not in KEYS[option[2:]].scopes:
            with pytest.raises(UsageError, match=f"{option[2:]}: it may stand "):
                parse(text)
            continue
        found = job(text)
        if option == "--jobs":
            assert configured_jobs(parse(text), {}) == 3
        elif level in (Scope.TOP, Scope.VOLUME):
            assert found == wanted
            assert (found == without) == (option in SAME)
        else:
            assert found.destinations == wanted.destinations
            assert replace(found, destinations=without.destinations) == without
            assert (found == without) == (option in SAME)


@pytest.mark.parametrize("option", [o for o in VALUES if VALUES[o] is None])
def test_a_flag_that_is_false_undoes_what_it_inherits(option):
    false = written(option).replace("true", "false")
    found = job(f"{written(option)}\n{VOLUME}{TO}{false}\n{USB}")
    opposite = ["--no-verify-transfer"] if option == "--verify-transfer" else []
    assert found == classic(*opposite)


@pytest.mark.parametrize("option", VALUES)
def test_an_option_of_the_call_comes_first(option):
    if option in ("--jobs", "--keep-zone"):
        given = given_options(build_parser(), words_of(option))
        assert len(given) == 1
        return
    special = f"{VOLUME}{TO}{AT}rate = 1\ncompress = 'lz4'\nretries = 9\n{USB}"
    extra = ["--rate", "1", "--compress", "lz4", "--retries", "9"]
    found = job(special, *words_of(option))
    assert found.destinations == classic(*extra, *words_of(option)).destinations


@pytest.mark.parametrize(
    ("general", "special", "words"),
    [
        ("num-snapshots = 3", "keep = '2d'", ["--keep=2d"]),
        ("keep-at = '2d'", "num-backups = 3", ["-n3"]),
        ("no-incremental = true", "incremental = 'auto'", []),
        ("incremental = 'required'", "no-incremental = true", ["-I"]),
        ("use-mbuffer = true", "no-mbuffer = true", ["--no-mbuffer"]),
        ("fs-checks = 'strict'", "skip-fs-checks = true", ["--skip-fs-checks"]),
        ("no-checkpoints = true", "checkpoint-interval = '2G'",
         ["--checkpoint-interval=2G"]),
        ("ssh-opt = ['A=1', 'B=2']", "ssh-opt = 'C=3'", ["--ssh-opt=C=3"]),
    ],
)  # fmt: skip
def test_the_more_special_answer_to_a_question_counts(general, special, words):
    text = f"{general}\n{VOLUME}{TO}{special}\n{USB}"
    assert job(text) == classic(*words)
    given = special.replace(" = true", "").replace(" = ", "=").replace("'", "")
    text = f"{general}\n{VOLUME}{TO}{USB}"
    assert job(text, f"--{given}") == classic(*words)


LEVELS = (Scope.TOP, Scope.TARGET, Scope.VOLUME, Scope.PAIR)


@given(st.dictionaries(st.sampled_from(LEVELS), st.integers(1, 9)), st.booleans())
def test_the_most_special_level_counts(found, is_given):
    lines = {level: f"rate = {number}\n" for level, number in found.items()}
    text = lines.get(Scope.TOP, "") + VOLUME + TO + lines.get(Scope.VOLUME, "")
    text += AT + lines.get(Scope.PAIR, "") + USB + lines.get(Scope.TARGET, "")
    numbers = [found[level] for level in LEVELS if level in found]
    numbers += [10] if is_given else []
    rate = numbers[-1] if numbers else None
    words = ["--rate=10"] if is_given else []
    assert job(text, *words).destinations[0].options.rate == rate


def test_names_of_volume_and_machine_are_put_into_places():
    text = f"{VOLUME}to = ['t', '/u/{{volume}}']\n[targets.t]\nplace = '/{{host}}/$'"
    with pytest.raises(UsageError, match="line 5 .*targets.t.place: unknown name {x}"):
        job(text.replace("$", "{x}"))
    places = [str(each) for each in job(text.replace("$", "${x}")).places]
    assert places == ["/home", f"/{socket.gethostname()}/${{x}}", "/u/home"]


def test_a_list_of_sources_makes_a_volume_of_each():
    text = "[volumes.all]\nsource = ['/a/x', 'ssh://h/b/y/']\nto = '/t/{volume}'"
    found = plans(text)
    assert [plan.name for plan in found] == ["all/x", "all/y"]
    places = [str(place) for plan in found for place in plan.job.places]
    assert places == ["/a/x", "/t/all/x", "ssh://h/b/y", "/t/all/y"]
    assert plans(text, wanted=["all/y"]) == found[1:]
    assert plans(text, wanted=["all"]) == found
    with pytest.raises(UsageError, match="two sources end with 'x'"):
        plans(text.replace("ssh://h/b/y/", "/b/x"))


def test_a_part_of_the_configuration_can_be_chosen():
    text = f"{VOLUME}to = ['usb', '/t']\n{USB}[volumes.b]\nsource = '/b'\nto = '/t2'"
    found = plans(text, only=["usb"])
    assert [str(p) for plan in found for p in plan.job.places] == ["/home", "/mnt/usb"]
    assert [target.name for target in found[0].targets] == ["usb"]
    assert [plan.name for plan in plans(text, wanted=["b"])] == ["b"]
    for how in ({"wanted": ["hom"]}, {"only": ["ubs"]}):
        with pytest.raises(UsageError) as caught:
            plans(text, **how)
        assert "Did you mean" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (f"{VOLUME}to = ['/t', '/t']", "/t is given twice"),
        (f"{VOLUME}to = '/home'", "/home is source and destination at once"),
        (f"{VOLUME}to = 'ssh://u:p@h/x'",
         "line 3 of /etc/some.toml: volumes.home.to: a location must not contain a"),
        (f"{VOLUME}to = 'nas:/x'", "line 3 .*'nas:/x' is no place"),
        (VOLUME.replace("/home", "home"), "line 2 .*source: 'home' is no place"),
        (VOLUME.replace("/home", "shell://x"), "line 2 .*cannot be a source"),
        ("keep = '3x'\n" + VOLUME, "line 1 .*: keep: --keep: "),
        (f"keep = '3d'\n{VOLUME}num-snapshots = 3\nkeep = '4d'",
         "line 5 .*volumes.home.keep: -N and --keep both"),
        (f"{VOLUME}to='/t'\nno-incremental = true\nincremental = 'required'",
         "line 5 .*: volumes.home.incremental: -I sends in full"),
        (f"snapshot-prefix = 'a/b'\n{VOLUME}", "line 1 .*prefix: 'a/b' cannot"),
        (f"retries = 'x'\n{VOLUME}", "line 1 .*: retries: 'x' is not a number of"),
        (f"compress = 'gz'\n{VOLUME}", "line 1 .*: compress: [^-]"),
        (f"incremental = 'no'\n{VOLUME}", "line 1 .*: incremental: invalid choice"),
        (f"rate = -1\n{VOLUME}", "line 1 .*: rate: "),
        (f"dry-run = true\n{VOLUME}", "line 1 .*: dry-run: unknown key"),
        ("keep = '3d'", "no volume is configured"),
        (f"{VOLUME}to = '/t'\n[volumes.b]\nsource = '/b'\nto = '/t'",
         "line 4 .*volumes.b: b and home both have names"),
        (f"{VOLUME}[volumes.b]\nsource = '/home'", "line 3 .*at /home"),
        (f"{VOLUME}to = 'x'\n[targets.x]\nplace = 'shell://cat'\nmin-free = '1G'",
         "line 6 .*targets.x.min-free: a command"),
        (f"{VOLUME}[targets.x]\nplace = '/x'\nfilesystem = 'abc'", "not the UUID"),
        (f"{VOLUME}require-mount = 'x'", "'x' is not an absolute path"),
    ],
)  # fmt: skip
def test_a_configuration_without_sense_is_an_error(text, part):
    with pytest.raises(UsageError, match=part):
        plans(text)


def test_two_volumes_may_share_a_place_with_prefixes_of_their_own():
    text = f"{VOLUME}to = '/t'\n[volumes.b]\nsource = '/b'\nto = '/t'\n"
    assert len(plans(text + "snapshot-prefix = 'b-'")) == 2


_ANY = st.sampled_from(
    ["true", "false", "0", "-1", "1e999", "9" * 400, "'9'", "''", "'{volume}'", "'/a'"]
    + ["['A=1', '/b']", "'10y'", "'999999y 999999y 999999y 999999y'", "'--x'", "'@f'"]
    + ["'ssh://h/x'", "'ssh://{host}/'", "'shell://x'", "'usb'", "'\\n'", "[]", "'a:'"]
    + ["'latest=99999999999999999999 9999999999y'", "'9E'", "'%s %(x)s'"]
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "[volumes.a]", "[targets.usb]", "[volumes.a.at.usb]"]),
            st.sampled_from([*KEYS]),
            _ANY,
        ),
        max_size=3,
        unique_by=lambda each: each[:2],
    )
)
def test_any_configuration_has_jobs_or_an_error_with_a_line(lines):
    sections = {"": "", "[volumes.a]": "source = '/s'\nto = 'usb'\n"}
    sections |= {"[targets.usb]": "place = '/u'\n", "[volumes.a.at.usb]": ""}
    for head, key, value in lines:
        kept = [line for line in sections[head].splitlines() if key not in line[:7]]
        sections[head] = "\n".join([*kept, f"{key} = {value}", ""])
    text = "\n".join(f"{head}\n{body}" for head, body in sections.items())
    try:
        plans(text)
    except UsageError as error:
        assert error.message.startswith("line "), error.message


def test_contradictions_of_the_call_name_no_line():
    with pytest.raises(UsageError) as caught:
        plans(f"{VOLUME}{TO}{USB}", "-I", "--incremental=required")
    assert "line" not in caught.value.message


def test_a_pattern_without_a_subvolume_is_an_error_unless_optional(tmp_path: Path):
    (tmp_path / "plain").mkdir()
    text = f"[volumes.all]\nsource = '{tmp_path}/*'\n"
    with pytest.raises(UsageError, match="line 2 .*no subvolume matches"):
        plans(text)
    assert plans(f"{text}optional = true") == []
    (tmp_path / "a*").mkdir()
    (plan,) = plans(f"[volumes.all]\nsource = '{tmp_path}/a*'\n")
    assert plan.job.source.path == os.fspath(tmp_path / "a*")
