"""What the program says when it refuses or warns: object, reason, next step."""

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import MakesFilesystems
from tests.support.accounts import Account
from tests.support.command_line import (
    appears,
    as_nobody,
    complaint,
    must,
    path_without,
    script,
    sudo_line,
)
from tests.support.places import MIB, by_age, command, fingerprint, ssh_place, ssh_words
from tests.support.program import (
    CHECKOUT,
    PROGRAM,
    Argument,
    environment,
    run_program,
    start_program,
)
from tests.support.scene import Scene
from tests.support.sshd import Sshd

pytestmark = pytest.mark.btrfs

_RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\udc80-\udcff]")


def test_reading_snapshots_needs_root(scene: Scene):
    to = scene.other_destination("with space")
    before = scene.fingerprint()
    words: list[Argument] = ["-p", "x-", scene.source, to]
    said = complaint(
        as_nobody(*words), 4, f"reading snapshots of {scene.source} needs root"
    )
    assert f"\n  Run:  {sudo_line(*words)}\n" in said
    assert scene.fingerprint() == before


def test_a_directory_inside_a_subvolume_is_no_source(scene: Scene):
    inside = scene.source / "docs" / "of mine"
    inside.mkdir(parents=True)
    before = scene.fingerprint()
    done = run_program("-p", "x-", inside, scene.destination)
    said = complaint(
        done,
        4,
        f"{inside} is a directory inside the subvolume {scene.source}, and only whole"
        " subvolumes can be snapshotted",
    )
    assert str(scene.source) in said.splitlines()[1]
    assert scene.fingerprint() == before


def test_the_advice_to_make_a_subvolume_of_a_directory_can_be_followed(scene: Scene):
    inside = scene.source / "docs of mine"
    inside.mkdir()
    (inside / "file").write_text("content")
    said = run_program("-p", "x-", inside, scene.destination).stderr
    command = said.strip().rpartition(":  ")[2]
    subprocess.run(["sh", "-ec", command], check=True, capture_output=True)
    must(run_program("-p", "x-", inside, scene.destination))
    (backup,) = scene.backup_names
    assert (scene.destination / backup / "file").read_text() == "content"


@pytest.fixture(params=["ext4", "tmpfs"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem that is not btrfs, at a path with a space and a quote."""
    point = tmp_path / "it's a disk"
    point.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "tmpfs", str(point)]
    else:
        image = tmp_path / "image"
        with open(image, "wb") as file:
            file.truncate(8 * MIB)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        command = ["mount", "-o", "loop", str(image), str(point)]
    subprocess.run(command, check=True)
    (point / request.param).touch()
    yield point
    subprocess.run(["umount", point], check=True)


def test_a_destination_that_is_not_btrfs_is_refused(scene: Scene, foreign: Path):
    (kind,) = {"ext4", "tmpfs"} & set(os.listdir(foreign))
    before = fingerprint(scene.source.parent)
    said = complaint(
        run_program("-p", "x-", scene.source, foreign),
        4,
        f"{foreign} is {kind}, so snapshots cannot live there as subvolumes",
        "btrfs-backup-ng",
    )
    assert fingerprint(scene.source.parent) == before
    # The advice works as it is printed.
    _, _, command = said.strip().rpartition(":  btrfs-backup-ng ")
    if "shell://" in command:
        must(run_program("-p", "x-", *shlex.split(command)))
        (name,) = scene.snapshot_names
        assert (foreign / name).read_bytes().startswith(b"btrfs-stream")


def test_the_advice_for_another_machine_is_about_that_machine(
    scene: Scene, sshd: Sshd, foreign: Path, tmp_path: Path
):
    (kind,) = {"ext4", "tmpfs"} & set(os.listdir(foreign))
    words: list[Argument] = ["-p", "x- ", *ssh_words(sshd), scene.source]
    missing = complaint(
        run_program(*words, ssh_place(sshd, foreign / "no")), 4, "mkdir -p "
    )
    typed = shlex.split(missing.strip().rpartition(":  ")[2])
    assert typed[:4] == ["ssh", "-p", str(sshd.port), sshd.host]
    assert shlex.split(typed[4]) == ["mkdir", "-p", str(foreign / "no")]

    said = complaint(run_program(*words, ssh_place(sshd, foreign)), 4, f"is {kind}, so")
    _, _, command = said.strip().rpartition(":  btrfs-backup-ng ")
    far = (
        tmp_path / "far"
    )  # an ssh that runs the line here, and tells how it was called
    far.mkdir()
    script(far / "ssh", f'echo "$1 $2 $3" >{tmp_path}/called; exec sh -c "$4"')
    env = {"PATH": f"{far}:{os.environ['PATH']}"}
    must(run_program("-p", "x- ", *shlex.split(command), env=env))
    (name,) = scene.snapshot_names
    assert (foreign / name).read_bytes().startswith(b"btrfs-stream")
    called = (tmp_path / "called").read_text()
    assert called == f"-p {sshd.port} {sshd.host}\n"


def test_all_of_a_backup_to_another_filesystem_is_not_sent_in_circles(
    scene: Scene, foreign: Path
):
    scene.back_up()
    to: list[Argument] = ["restore", scene.destination, "--to", foreign]
    advice = "All of it, where it is kept:  cp -a PLACE/SNAPSHOT/. PATH/"
    complaint(run_program(*to), 4, "can be restored to btrfs only", "--file", advice)
    complaint(run_program(*to, "--file", "."), 2, "is the whole snapshot", advice)


def test_a_source_that_is_not_btrfs_is_refused(scene: Scene, foreign: Path):
    done = run_program("-p", "x-", foreign, scene.destination)
    complaint(done, 4, f"{foreign} is ", "only btrfs subvolumes can be snapshotted")
    assert os.listdir(scene.destination) == []


def test_what_does_not_exist_is_named(scene: Scene):
    nowhere = scene.destination / "no where"
    before = scene.fingerprint()
    done = run_program("-p", "x-", scene.source, nowhere)
    said = complaint(done, 4, f"{nowhere} does not exist", "mkdir -p ")
    assert shlex.quote(str(nowhere)) in said
    done = run_program("-p", "x-", nowhere, scene.destination)
    complaint(done, 4, f"{nowhere} does not exist (expected a btrfs subvolume)")
    done = run_program("-p", "x-", scene.source, scene.source / "first")
    complaint(done, 4, f"{scene.source}/first is not a directory")
    assert scene.fingerprint() == before


def test_a_destination_mounted_read_only_is_refused(
    scene: Scene, btrfs: MakesFilesystems
):
    other = btrfs(size="512M")
    (other.path / "backups").mkdir()
    other.remount("ro")
    done = run_program("-p", "x-", scene.source, other.path / "backups")
    complaint(done, 4, f"{other.path}/backups is mounted read-only")
    assert scene.snapshot_names == []


def test_a_machine_without_btrfs_is_named_here(scene: Scene, tmp_path: Path):
    before = scene.fingerprint()
    path = path_without(tmp_path, "btrfs")
    said = complaint(
        scene.run(env={"PATH": path}),
        4,
        "this machine has no btrfs command (looked in PATH, /usr/local/sbin,"
        " /usr/sbin, /sbin)",
        "btrfs-progs",
    )
    assert "there" not in said  # it is here that something is missing
    assert scene.fingerprint() == before


def _ssh(scene: Scene, server: Sshd, *, user: str = "") -> list[Argument]:
    place = ssh_place(server, scene.destination, user=user)
    return [*ssh_words(server), "-p", "x-", scene.source, place]


def test_a_machine_without_btrfs_is_named_there(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path
):
    server = new_sshd(config=(f"SetEnv PATH={path_without(public_path, 'btrfs')}",))
    before = scene.fingerprint()
    complaint(
        run_program(*_ssh(scene, server)),
        4,
        f"{server.host} has no btrfs command (looked in PATH, /usr/local/sbin,"
        " /usr/sbin, /sbin)",
        "btrfs-progs",
    )
    assert scene.fingerprint() == before


def test_a_machine_without_flock_is_named(
    scene: Scene, new_sshd: Callable[..., Sshd], public_path: Path
):
    server = new_sshd(config=(f"SetEnv PATH={path_without(public_path, 'flock')}",))
    complaint(
        run_program(*_ssh(scene, server)), 4, f"{server.host} has no flock", "Install"
    )
    assert scene.snapshot_names == []


def test_a_refused_login_names_what_was_tried(scene: Scene, sshd: Sshd):
    words: list[Argument] = [
        "-p",
        "x-",
        *ssh_words(sshd, without=["IdentityFile"]),
        scene.source,
    ]
    place = ssh_place(sshd, scene.destination, user="nobody")
    before = scene.fingerprint()
    said = complaint(
        run_program(*words, place), 1, f"nobody@{sshd.host} refused the login (tried: "
    )
    assert "No ssh agent is available to root." in said
    assert re.search(r"Use a key:  --ssh-identity-file /\S+/\.ssh/id_ed25519", said)
    assert scene.fingerprint() == before


def test_a_refused_login_with_a_key_names_the_key(scene: Scene, sshd: Sshd):
    words: list[Argument] = [
        "-p",
        "x-",
        *ssh_words(sshd, without=["IdentityFile"]),
        scene.source,
    ]
    key = Path(sshd.identity).with_name("host_key")  # a key, but not one that opens
    place = ssh_place(sshd, scene.destination)
    done = run_program("--ssh-identity-file", key, *words, place)
    copy = f"ssh-copy-id -i {key} "
    complaint(done, 1, f"{sshd.host} refused the login", f"tried: {key}", copy)


def test_a_machine_that_does_not_answer_is_no_refused_login(scene: Scene):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        place = f"ssh://127.0.0.1:{taken.getsockname()[1]}{scene.destination}"
        done = run_program("-p", "x-", scene.source, place)
    said = complaint(done, 1, "no connection to 127.0.0.1", "Connection refused")
    assert "login" not in said
    assert scene.snapshot_names == []


def test_a_changed_host_key_is_an_alarm(scene: Scene, new_sshd: Callable[..., Sshd]):
    server = new_sshd()
    server.new_host_key()
    server.restart()
    done = run_program(*_ssh(scene, server))
    complaint(done, 1, f"the host key of {server.host}", "ssh-keygen -R ")
    assert scene.snapshot_names == []


@pytest.mark.parametrize("sudoers", ["{name} ALL=(root) ALL", None])
def test_a_sudo_that_wants_a_password_is_named(
    scene: Scene, sshd: Sshd, account: Callable[..., Account], sudoers: str | None
):
    user = account(sudoers=sudoers)
    before = scene.fingerprint()
    done = run_program(*_ssh(scene, sshd, user=user.name))
    place = f"{user.name}@{sshd.host}"
    said = complaint(done, 4, f"on {place}, sudo asks for a password", "cannot enter")
    assert f"{user.name} ALL=(root) NOPASSWD: " in said
    assert scene.fingerprint() == before


def test_a_noisy_login_shell_is_named(
    scene: Scene, sshd: Sshd, account: Callable[..., Account]
):
    user = account(shell="bash", sudoers="{name} ALL=(root) NOPASSWD: ALL")
    (user.home / ".bashrc").write_text("printf 'Welcome \\033[1mback\\033[0m'\n")
    before = scene.fingerprint()
    done = run_program(*_ssh(scene, sshd, user=user.name))
    said = complaint(done, 4, user.name, "prints text of its own", ".bashrc", "Welcome")
    assert not _RAW.search(said)
    assert scene.fingerprint() == before


def test_a_destination_that_shares_no_snapshot_any_more_gets_a_note(scene: Scene):
    scene.add("photo", 2 * MIB)
    must(run_program("-p", "a-", scene.source, scene.destination))
    (base,) = scene.snapshot_names
    folder = scene.source / ".btrfs-backup-ng/snapshots"
    subprocess.run(["btrfs", "-q", "subvolume", "delete", folder / base], check=True)
    for options in (["--dry-run"], []):
        done = scene.back_up(*options)
        assert re.fullmatch(
            rf"btrfs-backup-ng: note: {re.escape(str(scene.destination))} no longer"
            rf" shares a usable snapshot with {re.escape(str(scene.source))}"
            r" \(newest there: \d{4}-\d\d-\d\d, oldest here: \d{4}-\d\d-\d\d\)\.\n"
            r"  Sending in full, about 2\.\d MiB\. The old backups there stay valid\."
            r" Stop here with --incremental=required\.\n",
            done.stderr,
        )
    assert base in scene.backup_names
    assert len(scene.backup_names) == 2
    scene.back_up()
    assert scene.back_up().stderr == ""


def test_incremental_required_stops_where_nothing_is_shared(scene: Scene):
    scene.back_up()
    (base,) = scene.snapshot_names
    folder = scene.source / ".btrfs-backup-ng/snapshots"
    subprocess.run(["btrfs", "-q", "subvolume", "delete", folder / base], check=True)
    done = scene.run("--incremental=required")
    complaint(done, 4, "no common snapshot", "--incremental=required")
    assert scene.snapshot_names == []
    assert scene.backup_names == [base]


def test_who_meets_another_run_learns_who_and_since_when(scene: Scene, tmp_path: Path):
    go, began = tmp_path / "go", tmp_path / "began"
    sink = f"shell://touch {began}; until [ -e {go} ]; do sleep 0.1; done; cat"
    with start_program("-p", "y-", scene.source, f"{sink} >/dev/null") as other:
        try:
            appears(began, other)
            before = scene.fingerprint()
            said = complaint(
                scene.run(),
                3,
                f"another run is working on {scene.source} (pid {other.pid}, since ",
                "--wait",
            )
            assert re.search(
                r"since \d\d:\d\d, sending y-\d{8}-\d{6} to shell://", said
            )
            assert scene.fingerprint() == before
        finally:
            go.touch()
        assert other.wait() == 0


def test_a_destination_at_which_another_run_works_is_busy(scene: Scene, tmp_path: Path):
    source = scene.subvolume("other")
    go, began = tmp_path / "go", tmp_path / "began"
    wrappers = tmp_path / "wrappers"
    wrappers.mkdir()
    wait = f"until [ -e {go} ]; do sleep 0.1; done"
    script(
        wrappers / "btrfs",
        f'case "$*" in receive*) touch {began}; {wait};; esac\n'
        f'exec {shutil.which("btrfs")} "$@"',
    )
    env = {"PATH": f"{wrappers}:{os.environ['PATH']}"}
    with start_program("-p", "y-", source, scene.destination, env=env) as other:
        try:
            appears(began, other)
            done = scene.run()
            busy = f"another run is working on {scene.destination} (pid {other.pid}"
            complaint(done, 3, busy)
            assert scene.snapshot_names == []
        finally:
            go.touch()
        assert other.wait() == 0


def test_nested_subvolumes_are_named_every_time(scene: Scene):
    scene.subvolume("home/vm")
    (scene.source / "deep/down").mkdir(parents=True)
    scene.subvolume("home/deep/down/cache")
    for options in ([], [], ["-T"], ["--dry-run"]):
        assert scene.back_up(*options).stderr == (
            "btrfs-backup-ng: warning: 2 nested subvolumes are not in this snapshot:"
            f" {scene.source}/deep/down/cache, {scene.source}/vm.\n"
        )


def test_one_nested_subvolume_is_one(scene: Scene):
    scene.subvolume("home/vm")
    assert scene.back_up().stderr == (
        "btrfs-backup-ng: warning: 1 nested subvolume is not in this snapshot:"
        f" {scene.source}/vm.\n"
    )


def test_backups_in_the_source_are_no_nested_subvolumes(scene: Scene, sshd: Sshd):
    inside = scene.source / "backups"
    inside.mkdir()
    places = [str(scene.source), str(inside)]
    over_ssh = [ssh_place(sshd, place) for place in places]
    for words in (places, places, [*ssh_words(sshd), *over_ssh]):
        done = must(run_program("-p", "x-", "--skip-fs-checks", *words))
        assert "nested" not in done.stderr
    assert "nested" in must(run_program("-p", "x-", "-T", scene.source)).stderr


def test_other_disks_mounted_below_the_source_are_named_once(scene: Scene, sshd: Sshd):
    boot = scene.source / "boot"
    boot.mkdir()
    note = "btrfs-backup-ng: note: mounted below "
    over_ssh = [*ssh_words(sshd), ssh_place(sshd, scene.source), scene.place]
    with ExitStack() as mounted:
        for kind in (["tmpfs", "-t", "tmpfs"], ["--bind", scene.destination.parent]):
            command("mount", *kind, boot)
            mounted.callback(command, "umount", boot)
        assert f"{note}{scene.source}, so not in its snapshots: {boot}." in (
            scene.back_up("--dry-run").stderr
        )
        assert scene.back_up("-q", "--dry-run").stderr == ""
        assert scene.back_up().stderr.startswith(note)
        assert scene.back_up().stderr == ""
        assert must(run_program("-p", "x-", *over_ssh)).stderr == ""
    assert scene.back_up().stderr == ""
    with ExitStack() as mounted:
        command("mount", "--bind", scene.destination.parent, boot)
        mounted.callback(command, "umount", boot)
        assert must(run_program("-p", "x-", *over_ssh)).stderr.startswith(note)


def test_of_many_nested_subvolumes_some_are_named(scene: Scene):
    for number in range(12):
        scene.subvolume(f"home/nested {number:02}")
    done = scene.run()
    (line,) = [line for line in done.stderr.splitlines() if "warning" in line]
    assert "12 nested subvolumes are not in this snapshot: " in line
    assert "nested 09 and 2 more" in line and "nested 10" not in line
    assert f"  All of them:  btrfs subvolume list -o {scene.source}" in done.stderr


def test_nested_subvolumes_are_named_over_ssh(scene: Scene, sshd: Sshd):
    scene.subvolume("home/a\n\x1bb")
    source = ssh_place(sshd, scene.source)
    done = must(run_program(*ssh_words(sshd), "-p", "x-", source, scene.destination))
    assert "1 nested subvolume is not in this snapshot: " in done.stderr
    assert "/a\\n\\x1bb" in done.stderr
    assert len(scene.backup_names) == 1


def test_a_working_directory_that_is_gone_is_named(scene: Scene, tmp_path: Path):
    gone = tmp_path / "gone"
    gone.mkdir()
    words = [str(word) for word in (*PROGRAM, *scene.words())]
    program = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *words]
    done = subprocess.run(
        program, cwd=gone, env=environment(), capture_output=True, text=True
    )
    assert "cd /" in complaint(done, 4, "the working directory", "No such file")
    assert scene.snapshots == []


def test_control_characters_never_reach_the_terminal(scene: Scene):
    bad = os.fsdecode("\x1b[31m\r\x07\x7f\x9b\u202e".encode() + b"\xff\n")
    top = scene.source.parent
    source, to = top / f"home {bad}", scene.destination / f"to {bad}"
    scene.source.rename(source)
    subprocess.run(["btrfs", "-q", "subvolume", "create", source / bad], check=True)
    to.mkdir()
    (source / "file").write_text("content")
    for words in (
        ["-p", bad, "-N1", "-n1", source, to],
        ["-vv", "-p", bad, "-N1", "-n1", source, to],
        ["-p", bad, "-N1", "-n1", source, to],
        ["-p", bad, "--dry-run", "-N1", "-n1", source, to],
        ["-p", bad, "-f", to, source, to],
        ["-p", bad, source, to / bad],
        ["-p", bad, source / bad / bad, to],
        ["-p", bad, source / "file", to],
        ["-p", bad, source, f"shell://printf '{bad}' >&2; exit 3"],
        ["-p", bad, "--remove-locks", source, to],
        [bad],
        [f"--{bad}", source],
        ["-n", bad, source],
        ["--rate", bad, source],
        ["--ssh-opt", bad, source],
        ["--fs-checks", bad, source],
        [source, f"ssh://{bad}/x"],
        [source, f"{bad}://x"],
        [source, f"ssh://h:{bad}/x"],
        [f"@{bad}"],
        ["demo", f"--{bad}"],
    ):
        done = run_program(*words)
        assert "Traceback" not in done.stderr
        assert done.returncode != 70, done.stderr
        assert not _RAW.search(done.stdout + done.stderr), (words, done)
    assert len(by_age(to)) == 1


def test_a_failure_names_the_stage_and_what_it_said(scene: Scene, tmp_path: Path):
    wrappers = tmp_path / "wrappers"
    wrappers.mkdir()
    script(
        wrappers / "btrfs",
        'case "$*" in receive*) echo "ERROR: no more tapes" >&2; exit 1;; esac\n'
        f'exec {shutil.which("btrfs")} "$@"',
    )
    env = {"PATH": f"{wrappers}:{os.environ['PATH']}"}
    done = scene.run(env=env)
    complaint(done, 1, str(scene.destination), "btrfs receive", "no more tapes")
    assert scene.backup_names == []
    assert len(scene.snapshot_names) == 1


def test_a_bug_is_owned_up_to_without_a_traceback(scene: Scene, tmp_path: Path):
    # A stand-in for a bug: a module of the standard library that misbehaves.
    (tmp_path / "sitecustomize.py").write_text(
        "import shlex\n"
        "def broken(words): raise RuntimeError('odd\\x1b')\n"
        "shlex.join = broken\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{CHECKOUT}"}
    done = run_program(scene.source, env=env)
    complaint(done, 70, "a bug: RuntimeError: odd\\x1b", "-vv", "report")
    loud = run_program("-vv", scene.source, env=env)
    assert loud.returncode == 70
    assert "Traceback" in loud.stderr
