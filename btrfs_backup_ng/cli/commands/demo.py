"""The ``demo`` verb: backups and restores on throw-away filesystems, to watch."""

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from btrfs_backup_ng.__logger__ import PROGRAM, set_up_logging
from btrfs_backup_ng.__util__ import MIB, BackupError, Refused, visible
from btrfs_backup_ng.cli.commands import run_words
from btrfs_backup_ng.cli.parser import Parser, add_sudo
from btrfs_backup_ng.cli.stdout import print_line
from btrfs_backup_ng.cli.sudo import become_root, sudo_line
from btrfs_backup_ng.host.common import NeedsRoot
from btrfs_backup_ng.process.child import last_steps, run
from btrfs_backup_ng.process.command import Command, find_program
from btrfs_backup_ng.session import history

_PROGRAMS = ("mkfs.btrfs", "btrfs", "mount", "umount", "losetup", "diff")
#: Package manager -> its command that installs btrfs-progs, without questions.
_INSTALLERS = (
    ("apt-get", ("apt-get", "install", "-y", "btrfs-progs")),
    ("dnf", ("dnf", "install", "-y", "btrfs-progs")),
    ("pacman", ("pacman", "-S", "--noconfirm", "btrfs-progs")),
    ("zypper", ("zypper", "--non-interactive", "install", "btrfsprogs")),
)
_IMAGE_BYTES = 512 * MIB
_PHOTOS, _PHOTO_BYTES = 16, 2 * MIB


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
    with ExitStack() as stack:
        _show(Path(tempfile.mkdtemp(prefix="bbng-demo-")), stack, keep=options.keep)
    return 0


def build_parser() -> Parser:
    """Return the parser of the words."""
    parser = Parser(
        "demo",
        usage=["[options]"],
        description="Make two btrfs filesystems in files, back one up to the other"
        " twice, compare, restore from it, and remove everything again.",
    )
    parser.add_argument(
        "--install-missing",
        action="store_true",
        help="install btrfs-progs if it is missing",
    )
    add_sudo(parser)
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
            if manager == "apt-get":
                _do("apt-get", "update")
            _do(*argv)
            break
    still = [name for name in _PROGRAMS if find_program(name) is None]
    if still:
        raise Refused(f"the demo needs {', '.join(still)}; please install it by hand")


def _show(top: Path, stack: ExitStack, *, keep: bool) -> None:
    home, disk = top / "computer", top / "backup-disk"
    os.environ[history.VARIABLE] = str(top / "state")  # what happens here is no history
    stack.callback(_tell, "Everything is removed again.")
    stack.callback(shutil.rmtree, top, ignore_errors=True)
    try:
        _tell(f"Two btrfs filesystems, each in a file below {top}:")
        for place in (home, disk):
            _make_filesystem(place, stack)
        _do("btrfs", "subvolume", "create", str(home / "home"))
        _write_files(home / "home" / "documents")
        (disk / "backups").mkdir()
        source, backups = home / "home", disk / "backups"

        _tell("A first backup brings everything:")
        _do_ours(str(source), str(backups))
        _tell("Something changes:")
        _change(source / "documents")
        time.sleep(1.1)  # so that the second snapshot has a name of its own
        _tell("The second backup brings the difference only:")
        _do_ours(str(source), str(backups))

        _tell("The backups are plain read-only subvolumes:")
        _do("ls", "-l", str(backups))
        newest = sorted(backups.iterdir())[-1]
        _tell("The newest one and the source, byte by byte:")
        _compare(source, newest)

        _tell("A file is lost, and comes back:")
        _do("rm", str(source / "documents" / "holiday.jpg"))
        lost = "documents/holiday.jpg"
        _do_ours("restore", str(backups), "--to", str(source), "--file", lost)
        _tell("The whole disk is lost, and a new one put in:")
        _do("umount", str(home))
        _do("rm", str(home.with_suffix(".img")))
        _mount_new(home.with_name("new-computer.img"), home)
        _tell("Everything comes back, ready to be used:")
        _do_ours("restore", str(backups), "--to", str(source), "--writable")
        _compare(source, newest)
        time.sleep(1.1)
        _tell("And the next backup of it brings the difference only:")
        _do_ours(str(source), str(backups))
        _do_ours("list", str(backups))
    finally:
        if keep:
            stack.pop_all()
            _tell("Everything is still there. Remove it with:")
            print_line(f"umount {home} {disk} && rm -r {top}")


def _make_filesystem(place: Path, stack: ExitStack) -> None:
    place.mkdir()
    _mount_new(place.with_suffix(".img"), place)
    stack.callback(_unmount, place)


def _mount_new(image: Path, place: Path) -> None:
    """Make a filesystem in a file of its own, and mount it."""
    with open(image, "wb") as file:
        file.truncate(_IMAGE_BYTES)
    _do("mkfs.btrfs", "-q", "-f", str(image), quietly=True)
    _do("mount", "-o", "loop", str(image), str(place))


def _unmount(place: Path) -> None:
    with last_steps():
        run(Command(("umount", str(place)), label="umount"))


def _write_files(folder: Path) -> None:
    """Fill a folder with real files: copies of this very program, and bigger ones."""
    folder.mkdir()
    package = Path(__file__).parents[2]
    for path in sorted(package.rglob("*.py")):
        target = folder / "program" / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    for number in range(_PHOTOS):
        (folder / f"photo {number:02}.jpg").write_bytes(os.urandom(_PHOTO_BYTES))


def _change(folder: Path) -> None:
    for argv in (
        ("rm", str(folder / "photo 00.jpg")),
        ("mv", str(folder / "photo 01.jpg"), str(folder / "holiday.jpg")),
        ("dd", "if=/dev/urandom", f"of={folder / 'new photo.jpg'}", "bs=3M", "count=1"),
    ):
        _do(*argv, quietly=True)


def _do(*argv: str, quietly: bool = False) -> None:
    """Show a command as a user would type it, then run it and show its output."""
    print_line(f"$ {shlex.join(argv)}")
    done = run(Command(argv, label=argv[0]), check=False)
    if done.status or not quietly:
        text = done.stdout.decode(errors="surrogateescape") + done.stderr
        for line in text.splitlines():
            print_line(visible(line))
    if done.status:
        raise BackupError(f"{argv[0]} failed with status {done.status}")


def _do_ours(*words: str) -> None:
    print_line(f"$ {PROGRAM} {shlex.join(words)}")
    status = run_words(words)
    if status != 0:
        raise BackupError(f"{PROGRAM} ended with status {status}")


def _compare(one: Path, other: Path) -> None:
    _do("diff", "-r", "--exclude=.btrfs-backup-ng", str(one), str(other))
    print_line("no difference")


def _tell(text: str) -> None:
    print_line(f"\n# {text}")
