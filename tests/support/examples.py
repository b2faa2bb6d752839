"""The examples of README and docs: run as they stand, and printed from real output.

    python -m tests.support.examples README.md docs/restore.md

runs all commands of each page, in order, and writes what they printed into the page.
A test does the same and compares: numbers, sizes and times may differ, nothing else.

A page's commands are

- ``$ COMMAND`` in a block indented by four; the lines below it are what it prints, and
  a line ``...`` stands for any number of lines. Below ``<!-- varies -->`` only the
  first line is compared, as it depends on the calendar what the others say;
- blocks fenced by ```` ```sh ````, each one script;
  An id that was printed in place of one on the page stands for it from then on.
- ``<!-- run: COMMAND -->``, which no reader sees: work that goes on between backups.
  ``$PRINTED`` is a file with what the last command printed, ``$HOME_DISK`` and the like
  name the disks; ``aged "12 days"`` makes a snapshot that seems so old.
  ``<!-- exits: 10 -->`` is the exit status of the next command, if it is not 0.

An indented block that begins with ``# /etc/FILE`` is written to that file.

The commands find a laptop, whose ``/home`` is the subvolume ``@home`` of a disk, with
another disk at ``/mnt/usb`` and a third one at ``/mnt/spare``; ``nas``, which has
``/srv/backup``; and ``web``, whose ``/srv/www`` is a subvolume. All of them are this
machine in namespaces of mounts and of its name: nothing outside ever sees them, and all
is gone when the last process in there ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from . import forks, ours, sshd
from .program import CHECKOUT, environment

#: The disks, what they are called in the pages, and where they are mounted.
_DISKS = {
    "home": ("/dev/sda2", "/home"),
    "usb": ("/dev/sdb1", "/mnt/usb"),
    "spare": ("/dev/sdc1", "/mnt/spare"),
    "nas": ("/dev/sdd1", "/srv/backup"),
    "web": ("/dev/sde1", "/srv/www"),
}
#: Directories that the commands see empty.
_COVERED = ("/root", "/mnt", "/srv")
_SECONDS = 150
_INSIDE = "--inside"
#: Makes a snapshot of /home that has the name of one made some time ago.
_AGED = """\
#!/bin/sh -eu
name=laptop-$(date -d "now - $1" +%Y%m%d-%H%M%S)
mkdir -p /home/.snapshots
btrfs -q subvolume snapshot -r /home "${2:-/home/.snapshots}/$name"
"""

#: Lets the loaded program run with the arguments and streams of a command.
_ASK = """\
#!{python} -IS
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect("{address}")
request = dict(argv=sys.argv[1:], env=[*os.environ.items()], cwd=os.getcwd())
content = json.dumps(request).encode()
socket.send_fds(asked, [b"%d\\n" % len(content)], [0, 1, 2])
asked.sendall(content)
_, status = asked.makefile()
sys.exit(int(status))
"""

_HIDDEN = re.compile(r"<!-- (run|exits): ((?s:.*?)) -->")
_VARIES = re.compile(
    r"^<!-- varies -->\n((?:    .*\n){2})(?:    .*\n|\n(?=    ))*", re.MULTILINE
)
_FENCE = re.compile(r"^```sh\n((?s:.*?))^```$", re.MULTILINE)
_INDENTED = re.compile(r"(?:^    .*\n)(?:^    .*\n|^\n(?=    ))*", re.MULTILINE)
_PARTS = re.compile(
    "|".join(part.pattern for part in (_HIDDEN, _FENCE, _INDENTED)), re.MULTILINE
)
#: The id of a version of a file.
_ID = re.compile(r"(?<![\w-])[0-9a-f]{8}(?![\w-])")
#: Patterns -> what a number, size or time looks like when only its place matters.
_SHAPES = (
    (_ID.pattern, "ID"),
    (r"\d{8}(-\d{6}|T\d{4})(_\d+)?", "TIME"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?( [+-]\d{4})?", "TIME"),
    (r"\d+(\.\d+)? [KMGT]?i?B\b", "SIZE"),
    (r"\b\d+:\d\d(:\d\d)?\b|\b\d+(\.\d+)? (s|min|h|days?)\b", "SPAN"),
    (r"mount -o (?!subvolid)\S+ ", "mount -o OPTIONS "),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
    (r"(?<![\w/@-])\d+(\.\d+)?(?![\w/-])", "N"),
    (r" {2,}", "  "),
)


@dataclass(frozen=True)
class Step:
    """A command of a page.

    :ivar printed: where in the page its output stands; None if none is shown.
    """

    command: str
    status: int = 0
    printed: tuple[int, int] | None = None


def steps(page: str) -> Iterator[Step]:
    """Yield the commands of a page in their order."""
    status = 0
    for part in _PARTS.finditer(page):
        text = part[0]
        if hidden := _HIDDEN.fullmatch(text):
            if hidden[1] == "exits":
                status = int(hidden[2])
                continue
            found = [Step(hidden[2], status)]
        elif fence := _FENCE.fullmatch(text):
            found = [Step(fence[1], status)]
        elif text.startswith("    # /"):
            found = [Step(_writes(text))]
        else:
            found = list(_prompts(text, part.start(), status))
        if found:
            yield from found
            status = 0


def _writes(block: str) -> str:
    first, *lines = [line[4:] for line in block.splitlines()]
    text = "\n".join(lines)
    return f"cat >{first.removeprefix('# ')} <<'END-OF-FILE'\n{text}\nEND-OF-FILE"


def _prompts(block: str, start: int, status: int) -> Iterator[Step]:
    """Yield the commands behind prompts, each with all up to the next one."""
    prompts = list(re.finditer(r"^    \$ (.*)\n", block, re.MULTILINE))
    ends = [prompt.start() for prompt in prompts[1:]] + [len(block)]
    for prompt, end in zip(prompts, ends):
        printed = (start + prompt.end(), start + end)
        yield Step(prompt[1], status, printed)
        status = 0


def shape(page: str) -> str:
    """Return a page without what differs from run to run."""
    page = _VARIES.sub(r"\1", page)
    for pattern, name in _SHAPES:
        page = re.sub(pattern, name, page)
    return page


def printed_now(page: Path) -> str:
    """Run all commands of a page, and return it with what they print today."""
    # Unmounts outside are to reach the namespace, so that it holds no disk of others.
    namespaces = ["unshare", "--mount", "--uts", "--propagation", "slave"]
    python = os.path.realpath(sys.executable)  # a virtual environment may be covered
    done = subprocess.run(
        [*namespaces, python, "-m", "tests.support.examples", _INSIDE, page],
        env=environment({"TZ": "Europe/Berlin"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * _SECONDS,
    )
    if done.returncode:
        raise AssertionError(f"{page}: {done.stderr}")
    return done.stdout


def _run_inside(page: Path) -> str:
    text = page.read_text()
    with _machines() as machines:
        new, copied = "", 0
        ids: dict[str, str] = {}
        for step in steps(text):
            said = machines.run(replace(step, command=_with_ids(step.command, ids)))
            if step.printed:
                start, end = step.printed
                out = _laid_out(said, text[start:end])
                ids |= zip(_ID.findall(text[start:end]), _ID.findall(out))
                new += _with_ids(text[copied:start], ids) + out
                copied = end
        return new + _with_ids(text[copied:], ids)


def _with_ids(text: str, ids: Mapping[str, str]) -> str:
    return _ID.sub(lambda match: ids.get(match[0], match[0]), text)


def _laid_out(said: str, old: str) -> str:
    """Indent what was said, shortened where the page is, with the page's blank ends."""
    lines = [f"    {line}".rstrip() + "\n" for line in said.splitlines()]
    before, dots, after = old.partition("    ...\n")
    if dots:
        ends = before.count("\n"), after.rstrip("\n").count("\n") + bool(after.strip())
        lines = [*lines[: ends[0]], dots, *lines[len(lines) - ends[1] :]]
    blank = re.search(r"\n(\n*)\Z", old) if old.strip() else None
    return "".join(lines) + (blank[1] if blank else "")


class _Machines:
    """The laptop and the others."""

    def __init__(self, base: Path, devices: dict[str, str]) -> None:
        self._devices = devices
        self._printed = base / "printed"
        path = f"{base}/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
        names = {f"{name.upper()}_DISK": device for name, device in devices.items()}
        self._environment = {
            **environment(
                {"SUDO_USER": None, "BTRFS_BACKUP_NG_STATE": f"{base}/state"}
            ),
            **names,
            "PATH": path,
            "PRINTED": str(self._printed),
            "HOME": "/root",
            "PYTHONPATH": f"{base}/checkout",
        }

    def run(self, step: Step) -> str:
        """Run a command as a user does in a shell, and return all that it prints."""
        done = subprocess.run(
            ["sh", "-euc", step.command],
            env=self._environment,
            cwd="/root",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
        if done.returncode != step.status:
            sys.exit(f"{step.command}\n{done.stdout}exit status {done.returncode}")
        said = done.stdout
        if step.printed:
            self._printed.write_text(said)
        for name, device in self._devices.items():
            said = re.sub(rf"{device}\b", _DISKS[name][0], said)
        return said


@contextlib.contextmanager
def _machines() -> Iterator[_Machines]:
    base = ours.public_directory()
    signal.alarm(2 * _SECONDS)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        for name in ("bin", "sshd", "disks"):
            (base / name).mkdir()
        socket.sethostname("laptop")
        for package in ("btrfs_backup_ng", "tests/support"):  # which may be covered
            shutil.copytree(CHECKOUT / package, base / "checkout" / package)
        _cover(Path(sys.base_prefix))
        with open("/etc/.pwd.lock", "w", encoding="utf-8") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)  # lckpwdf(3): else useradd(8) makes files
            shutil.copytree("/etc", base / "etc", symlinks=True)
        _call("mount", "--bind", base / "etc", "/etc")
        stack.callback(_call, "umount", "--lazy", "/etc")
        _program(base / "bin/sudo", '#!/bin/sh\nexec "$@"\n')
        _program(base / "bin/aged", _AGED)
        _program(base / "bin/btrfs-backup-ng", _load(base / "checkout", stack))
        devices = {name: _disk(base / "disks", name) for name in _DISKS}
        _fill()
        server = sshd.Sshd(base / "sshd")
        server.start()
        stack.callback(server.stop)
        Path("/root/.ssh").mkdir(mode=0o700)
        config = server.ssh_config.read_text().replace("test-server", "nas web")
        Path("/root/.ssh/config").write_text(config)
        yield _Machines(base, devices)


def _load(checkout: Path, stack: contextlib.ExitStack) -> str:
    """Load the program, and return the script that asks for a run."""
    loaded = forks.Server(checkout, environment({"PYTHONPATH": str(checkout)}))
    stack.callback(loaded.close)
    python = os.path.realpath(sys.executable)
    return _ASK.format(python=python, address=loaded.address)


def _cover(python: Path) -> None:
    """Hide what is in directories, except for a python in one of them."""
    directory = os.open(python, os.O_PATH)
    for path in _COVERED:
        _call("mount", "-t", "tmpfs", "tmpfs", path)
    if not python.is_dir():
        python.mkdir(parents=True)
        # As it is: mount(8) would look where the link in /proc points to by name.
        fd = f"/proc/{os.getpid()}/fd/{directory}"
        _call("mount", "--no-canonicalize", "--bind", fd, python)
    os.close(directory)


def _program(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


def _disk(directory: Path, name: str) -> str:
    """Make a filesystem, mount it where the pages have it, and return its device."""
    image, top = Path(f"/dev/shm/{ours.mark()}.img"), directory / name
    with open(image, "xb") as file:
        file.truncate(4 << 30)
    try:
        _call("mkfs.btrfs", "-q", image, stdout=subprocess.DEVNULL)
        top.mkdir()
        _call("mount", "-o", "loop", image, top)
    finally:
        image.unlink()  # the loop device has it open
    device = subprocess.check_output(
        ["findmnt", "-no", "SOURCE", top], text=True
    ).strip()
    mounted = Path(_DISKS[name][1])
    mounted.mkdir(parents=True, exist_ok=True)
    if name in ("home", "spare"):
        _call("btrfs", "-q", "subvolume", "create", top / "@home")
    subvolume = "@home" if name == "home" else "/"
    _call("mount", "-o", f"subvol={subvolume}", device, mounted)
    os.open(top, os.O_RDONLY)  # keeps the device, whatever a page unmounts
    _call("umount", "--lazy", top)
    return device


def _fill() -> None:
    """Put the files of a user into /home."""
    me = Path("/home/me")
    (me / "Pictures").mkdir(parents=True)
    (me / "thesis.odt").write_bytes(os.urandom(44 << 10))
    for number in range(1, 13):
        (me / f"Pictures/{number:03}.jpg").write_bytes(os.urandom(1 << 20))
    for path in (me, *me.rglob("*")):
        os.chown(path, 1000, 1000)
    Path("/srv/www/index.html").write_text("<title>Welcome</title>\n")


def _call(*argv: object, stdout: int | None = None) -> None:
    subprocess.run([str(word) for word in argv], check=True, stdout=stdout)


def main(arguments: list[str]) -> None:
    """Write what the commands of pages print into them."""
    if arguments[0] == _INSIDE:
        sys.stdout.write(_run_inside(Path(arguments[1])))
        return
    for name in arguments:
        page = Path(name)
        if not any(steps(page.read_text())):
            continue
        new = printed_now(page.resolve())
        if new != page.read_text():
            page.write_text(new)
            print(f"{page}: written")


if __name__ == "__main__":
    main(sys.argv[1:])
