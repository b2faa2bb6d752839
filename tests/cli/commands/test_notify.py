"""Notifications: the section [notify] of a configuration, from run to reader."""

import json
from pathlib import Path

import pytest

from btrfs_backup_ng.__util__ import UsageError
from btrfs_backup_ng.cli.config.keys import configuration_keys
from btrfs_backup_ng.core.configuration import parse_configuration
from btrfs_backup_ng.core.notifiers import Notifiers, read_notifiers
from tests.support.command_line import complaint, covers, must, script
from tests.support.processes import wait_until
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.servers import serving
from tests.support.staged import STATE, locked


@pytest.mark.btrfs
def test_a_failure_is_told_once_and_then_that_it_is_over(scene: Scene, tmp_path: Path):
    told, file = tmp_path / "told", tmp_path / "config.toml"
    tell = script(
        tmp_path / "tell",
        f'echo "$BTRFS_BACKUP_NG_KINDS: $BTRFS_BACKUP_NG_TITLE" >>{told}\ncat >>{told}',
    )
    missing = scene.destination / "missing"
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path / "state")}
    words: list[Argument] = ["run", "-c", file]
    with serving("http") as web, serving("smtp") as post:
        text = f"""
snapshot-prefix = "x-"
[targets.usb]
place = "{missing}"
[volumes.home]
source = "{scene.source}"
to = ["usb", "{scene.destination}"]
[notify]
mail = "root"
mail-host = "127.0.0.1:{post.port}"
ping = "http://127.0.0.1:{web.port}/ping"
webhook = "http://127.0.0.1:{web.port}/hook"
command = ["{tell}"]
"""
        file.write_text(text)
        must(run_program(*words, "--dry-run", env=env), 10)
        assert not web.requests and not post.letters
        for _ in range(2):
            failed = must(run_program(*words, env=env), 10)
            assert "warning" not in failed.stderr
        missing.mkdir()
        for _ in range(2):
            must(run_program(*words, env=env))
        pings = [r.path for r in web.requests if r.path.startswith("/ping")]
        assert pings == 2 * ["/ping/start", "/ping/fail"] + 2 * ["/ping/start", "/ping"]
        # A part says nothing about all, and the end of another run is for that to tell.
        must(run_program(*words, "--only", "usb", env=env))
        must(run_program("snapshot", "-c", file, "home", env=env))
        assert [r.path for r in web.requests if r.path.startswith("/ping")] == pings
        with locked(scene.source / STATE):
            must(run_program(*words, env=env), 3)
        assert web.requests[-1].path == "/ping/start"
        report = next(r.body.decode() for r in web.requests if r.path == "/ping/fail")
        assert f"FAILED: {missing} does not exist" in report
        hooks = [json.loads(r.body) for r in web.requests if r.path == "/hook"]
        assert [hook["exit_status"] for hook in hooks] == [10, 0]
        (failure,), (recovery,) = (hook["notices"] for hook in hooks)
        assert (failure["kind"], recovery["kind"]) == ("failure", "recovery")
        assert failure["volume"] == "home" and failure["destination"] == str(missing)
        assert "home at usb failed" in hooks[0]["title"]
        assert len(post.letters) == 2 and b"home at usb failed" in post.letters[0].text
        lines = told.read_text().splitlines()
        assert lines[0].startswith("failure: btrfs-backup-ng on ")
        assert sum(line.startswith("recovery: ") for line in lines) == 1

        # A notifier that fails is a warning, and what it was to say is still due.
        missing.rename(missing.with_name("away"))
        file.write_text(text.replace(f":{post.port}", ":1").replace("/hook", "/no"))
        web.status = 500
        script(tell, "exit 1")
        (tmp_path / "state/notices.json").unlink()
        for _ in range(2):
            failed = must(run_program(*words, env=env), 10)
            for name, reason in (
                ("mail", "127.0.0.1:1: .*refused"),
                ("webhook", "127.0.0.1 answered with status 500"),
                ("command", f"{tell} failed with status 1"),
            ):
                start = f"warning: no message was sent by {name}: "
                assert start in failed.stderr and reason.split(".*")[0] in failed.stderr


@covers("--notify")
def test_a_test_is_sent_through_each_notifier(tmp_path: Path):
    file = tmp_path / "config.toml"
    words: list[Argument] = ["config", "check", "--notify", "-c", file]
    volume = "[volumes.home]\nsource = '/'\n"
    with serving("http") as web:
        text = f"{volume}[notify]\nwebhook = 'http://127.0.0.1:{web.port}/'\n"
        file.write_text(text)
        done = must(run_program(*words))
        assert "webhook: a test was sent" in done.stdout
        assert len(web.requests) == 1
        must(run_program("config", "check", "-c", file))
        assert len(web.requests) == 1
        file.write_text(f"{text}ping = 'http://127.0.0.1:1/SECRET'\n")
        failed = must(run_program(*words, "--json"), 1)
        assert "no test was sent by ping: 127.0.0.1 cannot" in failed.stderr
        assert "SECRET" not in failed.stderr
        found = json.loads(failed.stdout)["tests"]
        assert [(each["name"], bool(each["error"])) for each in found] == [
            ("ping", True),
            ("webhook", False),
        ]
    file.write_text(volume)
    complaint(run_program(*words), 2, "no notifier is configured", "[notify]")
    complaint(run_program("config", "init", "--notify"), 2, "init takes no --notify")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("on = 'failures'", "'failures' is none of failure, recovery, stale"),
        ("mail = '-f x'", "'-f x' is no address"),
        ("mail = ['me@x.org', '0@']", "'0@' is no address"),
        ("ping = 'ftp://x'", "expected an address like https://"),
        ("ping = 'http://[x'", "expected an address like https://"),
        ("webhook = 'http://x:99999/'", "expected an address like https://"),
        ("mail-host = 'x:99999'", "'x:99999' is no server"),
        ("ping-file = 'x'", "'x' is not an absolute path"),
        ("mail-host = 'a b'", "'a b' is no server"),
        ("command = ['tell']", "'tell' is not an absolute path"),
        ("mail-host = 'x'", "it needs another key:  mail"),
        ("ping = 'http://x'\nping-file = '/x'", "there is ping already"),
        ("ping = 'http://x'\non = 'stale'", "it is about mail, webhook and command"),
        ("on = []", "expected a text, or a list of at least one"),
        ("rate = 3", "it may stand "),
        ("pong = 'x'", "unknown key"),
    ],
)
def test_an_error_in_the_section_has_its_line(tmp_path: Path, line: str, part: str):
    file = tmp_path / "config.toml"
    file.write_text(f"[volumes.home]\nsource = '/'\n[notify]\n{line}\n")
    done = run_program("run", "-c", file)
    complaint(done, 2, f"line {3 + len(line.splitlines())} of {file}: notify.", part)


@pytest.mark.parametrize(
    "text",
    ["[notify]", "[notify]\non = 'failure'", "notify.on = 'stale'", "notify = {}"]
    + ["[notify]\ncommand = []"],
)
def test_a_section_without_a_notifier_is_an_error(text: str):
    def read(text: str) -> Notifiers | None:
        return read_notifiers(parse_configuration(text, "/c", configuration_keys()))

    with pytest.raises(UsageError, match="^line 2 of /c: notify: no notifier is named"):
        read(f"\n{text}")
    assert read("") is None


@pytest.mark.btrfs
def test_a_backup_that_is_too_old_is_told_though_nothing_failed(
    scene: Scene, tmp_path: Path
):
    told, file = tmp_path / "told", tmp_path / "config.toml"
    line = '"$BTRFS_BACKUP_NG_KINDS: $BTRFS_BACKUP_NG_TITLE"'
    tell = script(tmp_path / "tell", f"echo {line} >>{told}\ncat >>{told}")
    file.write_text(f"""
snapshot-prefix = "x-"
max-age = "1s"
[volumes.home]
source = "{scene.source}"
to = ["{scene.destination}"]
[notify]
command = ["{tell}"]
""")
    env = {"BTRFS_BACKUP_NG_STATE": str(tmp_path / "state")}
    words: list[Argument] = ["run", "-c", file]
    must(run_program(*words, env=env))

    def is_told() -> bool:
        must(run_program(*words, "--no-snapshot", env=env))
        return told.exists()

    wait_until(is_told)
    lines = told.read_text().splitlines()
    assert lines[0].startswith("stale: btrfs-backup-ng on ")
    assert f"home at {scene.destination}" in lines[0]
    assert any("the newest backup is " in line for line in lines)
    must(run_program(*words, env=env))
    over = [line for line in told.read_text().splitlines() if "recovery: " in line]
    assert len(over) == 1
