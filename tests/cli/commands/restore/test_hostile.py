"""Restores from a server that lies: nothing is written outside staging."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from tests.cli.commands.restore.test_restore import shown
from tests.support import streams
from tests.support.command_line import complaint, must, script
from tests.support.places import fingerprint, ssh_place
from tests.support.program import Argument, run_program
from tests.support.scene import Scene
from tests.support.sshd import Sshd
from tests.support.staged import ssh_way

pytestmark = pytest.mark.btrfs


@pytest.fixture
def liar(new_sshd: Callable[..., Sshd], tmp_path: Path) -> tuple[Sshd, Path]:
    """Return a server whose ``btrfs send`` and ``tar -c`` say what is in a file."""
    evil, said = tmp_path / "evil", tmp_path / "said"
    evil.mkdir()
    path = ":".join((str(evil), os.environ["PATH"], "/usr/sbin", "/sbin"))
    for name, word in (("btrfs", "send"), ("tar", "-c")):
        real = shutil.which(name, path=path)
        cat = f"cat {said}; cat {said}.words >&2"
        text = f'[ "$1" != {word} ] || {{ {cat}; exit 0; }}\nexec {real} "$@"'
        script(evil / name, text)
    (tmp_path / "said.words").touch()
    return new_sshd(config=(f"SetEnv PATH={path}",)), said


def _streams(name: bytes, uuid: bytes) -> dict[str, bytes]:
    """Return streams that no honest server sends, as faults of many kinds."""
    start, end = streams.subvolume(name, uuid), streams.END

    def made(*commands: bytes) -> bytes:
        return streams.stream(*commands, end)

    return {
        "a name that steers": made(streams.subvolume(b"-rf\n\x1b[31m", uuid)),
        "a file up and out": made(start, streams.file(b"../../../../evil")),
        "through a link": made(
            start, streams.symlink(b"out", b"../../../.."), streams.file(b"out/evil")
        ),
        "through an absolute link": made(
            start, streams.symlink(b"out", b"/tmp"), streams.file(b"out/evil")
        ),
        "two subvolumes": made(start) + made(streams.subvolume(b"more")),
        "another identity": made(streams.subvolume(name)),
    }


def test_no_stream_writes_outside_its_staging(scene: Scene, liar: tuple[Sshd, Path]):
    server, said = liar
    scene.back_up()
    (name,) = scene.backup_names
    uuid = UUID(shown(scene.destination / name)["Received UUID"]).bytes
    way = ssh_way(server)(scene.destination)
    target = scene.source.parent / "target"
    target.mkdir()
    before = fingerprint(scene.source.parent)
    for what, stream in _streams(name.encode(), uuid).items():
        said.write_bytes(stream)
        done = run_program("restore", *way, "--to", target / "new", "--no-check-space")
        assert done.returncode == 1, (what, done.stdout, done.stderr)
        assert "\x1b" not in done.stderr and "Traceback" not in done.stderr
        assert os.listdir(target) == [], what
        assert not os.path.lexists("/tmp/evil")
        changed = fingerprint(scene.source.parent) ^ before
        paths = {entry[0] for entry in changed if isinstance(entry, tuple)}
        assert paths <= {str(target), f"{target}/."}, what  # its times alone


def _archive(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            data = b"evil" if member.isfile() else b""
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, 0o755
    return member


def test_no_archive_writes_outside_its_staging(scene: Scene, liar: tuple[Sshd, Path]):
    server, said = liar
    (scene.source / "d").mkdir()
    (scene.source / "d/f").write_text("good")
    scene.back_up()
    to = scene.destination.parent / "to"
    victim = to / "victim"
    victim.mkdir(parents=True)
    (victim / "precious").write_text("good")
    outside = str(victim)
    link, hard, directory = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
    d, f = _member("./d", directory), _member("./d/f")
    archives: dict[str, Sequence[tarfile.TarInfo]] = {
        "more beside it": (d, f, _member("./d/-rf\n\x1b[31m")),
        "up": (d, f, _member("./d/../../victim/precious")),
        "absolute": (d, f, _member(f"{outside}/evil")),
        "a link, and through it": (_member("./d", link, outside), _member("./d/f")),
        "a link instead of a file": (d, _member("./d/f", link, "/etc/passwd")),
        "a hard link": (d, _member("./d/f", hard, f"{outside}/precious")),
    }
    words: Sequence[Argument] = (*ssh_way(server)(scene.destination), "--to", to)
    before = fingerprint(victim)
    for what, members in archives.items():
        said.write_bytes(_archive(*members))
        done = run_program("restore", *words, "--file", "d/f")
        assert done.returncode == 1, (what, done.stdout, done.stderr)
        assert "\x1b" not in done.stderr and "Traceback" not in done.stderr
        assert os.listdir(to) == ["victim"], (what, done.stderr)
        assert fingerprint(victim) == before, what
    said.write_bytes(_archive(d, f, _member("./d/out", link, outside)))
    complaints = said.with_name("said.words")
    for name in ("d/out/precious", "d/../victim/precious", "victim", "d//f"):
        complaints.write_text(f"tar: ./{name}: Cannot open: No such device\n")
        done = run_program("restore", *words, "--file", "d")
        complaint(done, 1, ", which was not" if name != "d/out/precious" else "as a")
        assert os.listdir(to) == ["victim"], (name, done.stderr)
        assert fingerprint(victim) == before, name
    complaints.write_text("")
    said.write_bytes(_archive(d, f))
    must(run_program("restore", *words, "--file", "d/f"))
    assert (to / "d/f").read_text() == "evil"
    # And where the program there is none of those that keep everything.
    script(said.parent / "evil/tar", "echo busybox")
    done = run_program("restore", *words, "--file", "first")
    complaint(done, 4, "has no GNU tar", "without --file")
    assert ssh_place(server, to) not in done.stderr
