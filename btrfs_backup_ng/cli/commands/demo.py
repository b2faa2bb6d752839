"""The ``demo`` verb: backups and restores on throw-away filesystems, to watch."""

import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from btrfs_backup_ng import PROGRAM
from btrfs_backup_ng.__logger__ import set_up_logging
from btrfs_backup_ng.__util__ import MIB, BackupError, Refused, visible
from btrfs_backup_ng.cli.commands import run_words
from btrfs_backup_ng.cli.parser import Parser, add_sudo
from btrfs_backup_ng.cli.stdout import print_line
from btrfs_backup_ng.cli.sudo import become_root, sudo_line
from btrfs_backup_ng.core.columns import broken, folded
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.host.mounts import MOUNTS, parse_mounts
from btrfs_backup_ng.process.child import run
from btrfs_backup_ng.process.command import Command, find_program
from btrfs_backup_ng.process.interruption import last_steps
from btrfs_backup_ng.session import history

_PROGRAMS = ("mkfs.btrfs", "btrfs", "mount", "umount", "diff")
#: Package manager -> its command that installs btrfs-progs, without questions.
_INSTALLERS = (
    ("apt-get", ("apt-get", "install", "-y", "btrfs-progs")),
    ("dnf", ("dnf", "install", "-y", "btrfs-progs")),
    ("pacman", ("pacman", "-S", "--noconfirm", "btrfs-progs")),
    ("zypper", ("zypper", "--non-interactive", "install", "btrfsprogs")),
)
_IMAGE_BYTES = 512 * MIB
_PHOTOS, _PHOTO_BYTES = 8, 4 * MIB
_COLUMNS = 80
_PAUSE_S = 2.5


def main(words: Sequence[str]) -> int:
    """Show backups, compare them, and restore files and all of it."""
    options = build_parser().parse_args(words)
    set_up_logging("warning")
    if options.as_root:
        become_root(["demo", *words])
    if os.geteuid() != 0:
        raise NeedsRoot(
            "the demo mounts two filesystems, which needs root",
            hint=f"Run:  {sudo_line(['demo', *words])}",
        )
    _check_programs(options.install_missing)
    top = _make_directory(Path(tempfile.gettempdir()))
    folded = _Folded(sys.stdout)
    with redirect_stdout(cast(TextIO, folded)), ExitStack() as stack:
        stack.callback(_remove, top)
        # The demo belongs to no history, and leaves nothing elsewhere.
        os.environ.update({history.VARIABLE: str(top / "state"), "TMPDIR": str(top)})
        try:
            _Demo(top, folded, _PAUSE_S if options.slow else 0).show()
        finally:
            if options.keep:
                stack.pop_all()
                print_line("\n# Everything is still there. Remove it with:")
                print_line(_removal(top))
    return 0


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = Parser(
        "demo",
        usage=["[options]"],
        description="Make two btrfs filesystems in files, back one up to the other,"
        " look at the backups, restore a file and everything, and remove all of it"
        " again. All output is real.",
    )
    parser.add_argument(
        "--install-missing",
        action="store_true",
        help="install btrfs-progs if it is missing",
    )
    add_sudo(parser)
    parser.add_argument(
        "--slow",
        action="store_true",
        help="pause after each line, to read along",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the two filesystems mounted, to look around",
    )
    return parser


def _check_programs(install: bool) -> None:
    missing = [name for name in _PROGRAMS if find_program(name) is None]
    if not missing:
        return
    if not install:
        raise Refused(
            f"the demo needs {', '.join(missing)}",
            hint=f"Install btrfs-progs, or:  sudo {PROGRAM} demo --install-missing",
        )
    for manager, argv in _INSTALLERS:
        if find_program(manager):
            update = [("apt-get", "update")] if manager == "apt-get" else []
            for command in [*update, argv]:
                print_line(f"$ {shlex.join(command)}")
                _do(*command)
            break
    still = [name for name in _PROGRAMS if find_program(name) is None]
    if still:
        raise Refused(f"the demo needs {', '.join(still)}; please install it by hand")


class _Demo:
    """The demo, in a directory of its own."""

    def __init__(self, top: Path, folded: "_Folded", pause_s: float) -> None:
        self._top, self._folded, self._pause_s = top, folded, pause_s
        self._home, self._disk = top / "home", top / "disk"

    def show(self) -> None:
        """Show everything, step by step."""
        home, disk = str(self._home), str(self._disk)
        photo, letter = f"{home}/photo 1.jpg", f"{home}/letter"

        self._tell(f"Two btrfs filesystems, each in a file in {self._top}")
        self._make_filesystem(self._home)
        self._do("btrfs", "subvolume", "create", f"{home}/@home")
        self._do("umount", home)
        self._mount(self._home, "loop,subvol=@home")
        self._make_filesystem(self._disk)
        self._write_files()

        self._tell("The first backup brings everything")
        self._do_ours(home, disk)
        self._tell("Something changes; the next backup brings only that")
        self._do("sh", "-c", f"echo Yours, Eve >>{letter}")
        self._do("mv", photo, f"{home}/beach.jpg")
        self._wait_for_the_next_second()
        self._do_ours(home, disk)

        self._tell("A backup is a plain read-only subvolume")
        self._do("ls", disk)
        newest = sorted(self._disk.glob("[!.]*"))[-1]
        self._compare(newest)
        self._tell("All versions of a file, and where they are")
        self._do_ours("versions", letter)

        self._tell("A file is lost, and comes back")
        self._do("rm", f"{home}/beach.jpg")
        self._do_ours("restore", disk, "--file", "beach.jpg", "--to", home)
        self._tell("Everything is damaged, and comes back")
        self._do("sh", "-c", f'for file in {home}/*; do echo oops >"$file"; done')
        restored = f"{home}/restored"
        self._do_ours("restore", disk, "--to", restored, "--writable")
        self._tell("These commands put it in place: they are run now")
        self._do("sh", "-c", self._printed_script(), show=False)
        self._compare(newest)

        self._tell("The next backup brings only what changed, again")
        self._wait_for_the_next_second()
        self._do_ours(home, disk)
        self._do_ours("list", disk)
        self._do_ours("status")

    def _make_filesystem(self, place: Path) -> None:
        """Make a filesystem in a file of its own, and mount it."""
        place.mkdir()
        image = _image(place)
        with open(image, "wb") as file:
            file.truncate(_IMAGE_BYTES)
        self._do("mkfs.btrfs", "-q", "-f", str(image), quietly=True)
        self._mount(place, "loop")

    def _mount(self, place: Path, options: str) -> None:
        """Mount a filesystem; its loop device goes with its last mount."""
        self._do("mount", "-o", options, str(_image(place)), str(place))

    def _write_files(self) -> None:
        """Fill the home with photos and a letter."""
        for number in range(1, _PHOTOS + 1):
            photo = self._home / f"photo {number}.jpg"
            photo.write_bytes(os.urandom(_PHOTO_BYTES))
        (self._home / "letter").write_text("Dear Adam\n")
        print_line(f"(and {_PHOTOS} photos and a letter in {self._home})")

    def _printed_script(self) -> str:
        lines = self._folded.lines
        begin = next(at for at, line in enumerate(lines) if "(set -e" in line)
        end = next(at for at in range(begin, len(lines)) if lines[at].strip() == ")")
        return "\n".join(lines[begin : end + 1])

    def _compare(self, newest: Path) -> None:
        excluded = "--exclude=.btrfs-backup-ng"
        self._do("diff", "-r", excluded, str(self._home), str(newest))
        print_line("no difference")

    def _wait_for_the_next_second(self) -> None:
        time.sleep(1.1)  # so that the next snapshot has a name of its own

    def _do(self, *argv: str, quietly: bool = False, show: bool = True) -> str:
        if show:
            words = argv[2:] if argv[:2] == ("sh", "-c") else [shlex.join(argv)]
            self._say_and_wait(f"$ {words[0]}")
        return _do(*argv, quietly=quietly)

    def _do_ours(self, *words: str) -> None:
        self._say_and_wait(f"$ {PROGRAM} {shlex.join(words)}")
        self._folded.lines.clear()
        status = run_words(words)
        if status != 0:
            raise BackupError(f"{PROGRAM} ended with status {status}")

    def _tell(self, text: str) -> None:
        self._say_and_wait(f"\n# {text}")

    def _say_and_wait(self, text: str) -> None:
        print_line(text)
        time.sleep(self._pause_s)


def _do(*argv: str, quietly: bool = False) -> str:
    """Run a command, and show and return its output."""
    done = run(Command(argv, label=argv[0]), check=False)
    said = done.stdout.decode(errors="surrogateescape")
    if done.status or not quietly:
        for line in (said + done.stderr).splitlines():
            print_line(visible(line))
    if done.status:
        raise BackupError(f"{argv[0]} failed with status {done.status}")
    return said


class _Folded:
    """A stdout whose lines are folded at 80 columns: as a command, if it is one.

    :ivar lines: those that were written, as they were.
    """

    def __init__(self, stdout: TextIO) -> None:
        self.lines: list[str] = []
        self._stdout, self._rest, self._in_script = stdout, "", False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stdout, name)

    def write(self, text: str) -> int:
        """Write the complete lines."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.lines.append(line)
            self._in_script = self._in_script and line.strip() != ")"
            self._in_script = self._in_script or "(set -e" in line
            is_command = line.startswith("$ ") or self._in_script
            self._stdout.write(fold(line, is_command=is_command) + "\n")
        return len(text)


def fold(line: str, *, is_command: bool) -> str:
    """Return a line as lines of 80 columns; those of a command end with a backslash."""
    fit = folded if is_command else broken
    indent = len(line) - len(line.lstrip()) + 4
    return "\n".join(fit(line, _COLUMNS, indent))


def _make_directory(below: Path) -> Path:
    """Make a directory with a short name, so that lines are short."""
    for name in ("bb", *(f"b{number}" for number in range(10))):
        with suppress(FileExistsError):
            (below / name).mkdir(mode=0o700)
            return below / name
    return Path(tempfile.mkdtemp(prefix="bb-", dir=below))


def _image(place: Path) -> Path:
    """Return the file of the filesystem that is mounted there."""
    return place.with_suffix(".img")


def _removal(top: Path) -> str:
    return f"umount {top}/home\numount {top}/disk\nrm -r {top}"


def _remove(top: Path) -> None:
    """Unmount all that is mounted in the directory, and remove it."""
    with last_steps():
        mounts = parse_mounts(os.fsdecode(Path(MOUNTS).read_bytes()))
        points = [mount.point for mount in mounts]
        for point in reversed([p for p in points if Path(p).is_relative_to(top)]):
            run(Command(("umount", "--lazy", point), label="umount"))
    shutil.rmtree(top)
    print_line("\n# Everything is removed again.")
