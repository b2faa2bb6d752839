"""The words of cp, tar and stat about names that they cannot read are understood."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from btrfs_backup_ng.actions.restore.complaints import (
    SOCKET,
    left_by_copy,
    left_by_tar,
)
from tests.support.command_line import NOBODY
from tests.support.ours import public_directory
from tests.support.variety import HOSTILE_NAMES

NAMES = (
    *HOSTILE_NAMES,
    b"a: Cannot open: Permission denied",
    b"./b: socket ignored\ntar: ",
    b"it's $'\\n' for reading: x",
    b"\\101",
    b"plain",
)


def _words(directory: Path, *argv: object) -> str:
    """Run a program as a user who may read nothing, and return its complaints."""
    done = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        + [os.fsencode(str(w)) if not isinstance(w, bytes) else w for w in argv],
        cwd=directory,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,  # into /dev/null, tar would write what it did not read
    )
    return done.stderr.decode("utf-8", "surrogateescape")


@pytest.mark.root
def test_each_name_that_cannot_be_read_is_found_in_the_words(tmp_path: Path) -> None:
    place = public_directory()
    inside = os.path.join(os.fsencode(place), b"locked")
    os.mkdir(inside)
    for name in NAMES:
        path = os.path.join(os.fsencode(place), name)
        with open(path, "wb"):
            os.chmod(path, 0)
    out = place / "out"
    out.mkdir()
    os.chmod(out, 0o777)
    os.chmod(inside, 0o700)
    words = [b"./" + name for name in NAMES]
    reason = "cannot be read: Permission denied"
    expected = dict.fromkeys(map(os.fsdecode, NAMES), reason)
    try:
        tar = ("tar", "-c", "-f", "-", "--no-unquote", "--")
        said = _words(place, *tar, *words)
        assert left_by_tar(said) == expected
        said = _words(place, "cp", "-t", "out", "--", *words)
        assert left_by_copy(said) == expected
        below = {f"locked/{name}": reason for name in expected}
        said = _words(place, "stat", "--", *(f"./{name}" for name in below))
        assert left_by_copy(said) == below
        said = _words(place, *tar, "./locked", "./plain")
        assert left_by_tar(said) == {"locked": reason, "plain": reason}
    finally:
        subprocess.run(["rm", "-rf", "--", place], check=True)


def test_a_file_that_is_read_in_part_and_a_socket_are_named() -> None:
    end = "tar: Exiting with failure status due to previous errors\ntar: status 2\n"
    error = "Read error at byte 4096, while reading 10240 bytes: Input/output error"
    said = f"Warning: of ssh\ntar: ./a b: {error}\ntar: ./c: socket ignored\n{end}"
    found = {"a b": "cannot be read: Input/output error", "c": SOCKET}
    assert left_by_tar(said) == found
    shrank = "tar: ./a: File shrank by 7 bytes; padding with zeros\ntar: status 1"
    assert left_by_tar(shrank) == {"a": "cannot be read: only the beginning of it"}
    assert left_by_tar("cp: nothing of tar") == {}
    copied = "cp: error reading './a'$'\\303\\244\\n': Input/output error\n"
    assert left_by_copy(copied) == {"a\xe4\n": "cannot be read: Input/output error"}


@pytest.mark.parametrize(
    "other",
    [
        "tar: -: Cannot write: No space left on device",
        "tar: ./a: file changed as we read it",
    ],
)
def test_another_failure_of_tar_is_one_of_all_files(other: str) -> None:
    end = "tar: status 1"
    assert (
        left_by_tar(f"tar: ./b: Cannot open: Input/output error\n{other}") is not None
    )
    assert (
        left_by_tar(f"tar: ./b: Cannot open: Input/output error\n{other}\n{end}")
        is None
    )


@pytest.mark.parametrize(
    "other",
    [
        "cp: error writing './a': No space left on device",
        "cp: setting attributes for './a': Operation not supported",
        "rubbish",
        "ding './a': Input/output error",  # the rest of a line
    ],
)
def test_another_failure_of_cp_is_one_of_all_files(other: str) -> None:
    known = "cp: cannot open './a' for reading: Input/output error\n"
    assert left_by_copy(known + other) is None
